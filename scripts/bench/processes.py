"""Measured processes that end with this one, however it ends. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness import Failed

LISTENING = re.compile(rb"Listening on (https?://\S+)")
PROGRAMS = Path(__file__).resolve().parent / "programs"
SOURCE = "PYTHONPATH"
_LOOK = 0.02
"""Seconds between two looks at the memory of a process that runs."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources of processes: CPU seconds, and the sum of their peaks of memory in bytes."""

    cpu_seconds: float = 0.0
    peak_memory: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu_seconds + other.cpu_seconds, self.peak_memory + other.peak_memory)

    def since(self, before: Usage) -> Usage:
        """Return what was used after ``before``; the peak stays."""
        return Usage(self.cpu_seconds - before.cpu_seconds, self.peak_memory)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory that processes hold.

    Resident ones, and the same with shared pages counted in part.
    """

    resident: int = 0
    proportional: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.resident + other.resident, self.proportional + other.proportional)


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ran to its end."""

    seconds: float
    usage: Usage
    code: int
    output: str
    errors: str


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings that change what is measured, or use a proxy.

    PYTHONPATH stays: commands shall be of the same shardcast as this process.
    """
    mine = ("SHARDCAST_", "IP_ADDR_LIST", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if key == SOURCE or not key.startswith(mine)}
    kept = {key: value for key, value in kept.items() if not key.lower().endswith("_proxy")}
    return {**kept, "PYTHONUNBUFFERED": "1", "no_proxy": "*", **extra}


def shardcast_words(*words: str) -> list[str]:
    """Return ``shardcast WORDS…`` as this environment has it."""
    return [str(Path(sys.executable).with_name("shardcast")), *words]


def client_words(*words: str) -> list[str]:
    """Return ``shardcast-client WORDS…``, the command that users run."""
    return [str(Path(sys.executable).with_name("shardcast-client")), *words]


def program_words(name: str, *words: str) -> list[str]:
    """Return the command of one of the bench's own small programs."""
    return [sys.executable, str(PROGRAMS / f"{name}.py"), *words]


class Running:
    """A process that runs, whose descendants count as its own.

    It gets the signal ``death`` when this process ends, also by SIGKILL (start it from a thread that lives as
    long). With ``told``, its stdin is a pipe, into which ``tell`` writes.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        cpus: Collection[int] | None = None,
        death: signal.Signals = signal.SIGKILL,
        told: bool = False,
    ) -> None:
        self.words = list(words)
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  _close does
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._peak = 0
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.words,
            env=environment(**(env or {})),
            cwd=cwd,
            stdin=subprocess.PIPE if told else subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
            preexec_fn=_tied_to_this(death, cpus),
        )
        self._alive = os.pidfd_open(self.process.pid)

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Return its stdout so far."""
        return _content(self._output)

    @property
    def errors(self) -> str:
        """Return its stderr so far."""
        return _content(self._errors)

    def wait(self, timeout: float = 600.0, look: float = _LOOK) -> Ended:
        """Wait until it has ended, and read its memory each ``look`` seconds.

        Raises:
            Failed: it hadn't within ``timeout`` seconds; it was killed.
        """
        deadline = self.started + timeout
        poll = select.poll()
        poll.register(self._alive, select.POLLIN)
        while not poll.poll(look * 1000):
            self._peak = max(self._peak, _memory_of_tree(self.pid))
            if time.monotonic() > deadline:
                self.kill()
                raise Failed(f"{self._name} took longer than {timeout:g} s")
        seconds = time.monotonic() - self.started
        _, status, taken = os.wait4(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        usage = Usage(taken.ru_utime + taken.ru_stime, self._peak)
        ended = Ended(seconds, usage, self.process.returncode, self.output, self.errors)
        self._close()
        return ended

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def end_input(self) -> None:
        """Close its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def usage(self) -> Usage:
        """Return what it has used since its start, or, its memory, since ``forget_peak``."""
        pids = list(_tree(self.pid))
        return Usage(sum(map(_cpu, pids)), sum(map(_peak_memory, pids)))

    def memory(self) -> Memory:
        """Return the memory that it holds now."""
        return sum(map(_memory, _tree(self.pid)), Memory())

    def forget_peak(self) -> None:
        """Begin a new peak of memory."""
        for pid in _tree(self.pid):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_bytes(b"5")

    def wait_for(
        self, ready: Callable[[], bool], what: str, timeout: float = 60.0, look: float = 0.005
    ) -> None:
        """Wait until ``ready()``, to ``look`` seconds.

        Raises:
            Failed: it ended before, or it took too long.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            self.expect_alive(what)
            if time.monotonic() > deadline:
                raise Failed(f"{self._name}: not {what} after {timeout:g} s: {self._said}")
            time.sleep(look)

    def expect_alive(self, before: str) -> None:
        """Check that it runs.

        Raises:
            Failed: it has ended.
        """
        if self.process.poll() is not None:
            raise Failed(f"{self._name} ended with {self.process.returncode} before {before}: {self._said}")

    def wait_for_output(self, text: str, timeout: float = 60.0) -> None:
        """Wait until it has printed a line with ``text`` on stdout."""
        self.wait_for(lambda: text in self.output and self.output.endswith("\n"), text, timeout)

    def url(self) -> str:
        """Return its base URL, as it says on stderr."""
        self.wait_for(lambda: bool(LISTENING.search(self.errors.encode())), "listening")
        found = LISTENING.search(self.errors.encode())
        assert found
        return found[1].decode().replace("0.0.0.0", "127.0.0.1")

    def stop(self, grace: float = 10.0) -> None:
        """Stop it: SIGTERM, and SIGKILL after ``grace`` seconds."""
        if self._alive < 0:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close()

    def kill(self) -> None:
        """Kill it."""
        if self._alive >= 0:
            self.process.kill()
            self.process.wait()
            self._close()

    def _close(self) -> None:
        """Close its pipes and temporary files."""
        os.close(self._alive)
        self._alive = -1
        self._output.close()
        self._errors.close()
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    @property
    def _name(self) -> str:
        """Return its name in messages."""
        return Path(self.words[0]).name

    @property
    def _said(self) -> str:
        """Return the end of its stderr for a message."""
        return "; ".join(self.errors.strip().splitlines()[-3:])


def run_command(
    words: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    cpus: Collection[int] | None = None,
    timeout: float = 600.0,
    check: bool = True,
    look: float = _LOOK,
) -> Ended:
    """Run a command to its end, measured, and read its memory each ``look`` seconds.

    Raises:
        Failed: it ended with another code than 0 (unless ``check`` is off), or not in time.
    """
    running = Running(words, env=env, cwd=cwd, cpus=cpus)
    try:
        ended = running.wait(timeout, look)
    finally:
        running.kill()
    if check and ended.code:
        last = (ended.errors or ended.output).strip().splitlines()[-3:]
        raise Failed(f"{Path(words[0]).name} ended with {ended.code}: {'; '.join(last)}")
    return ended


@contextlib.contextmanager
def running(
    words: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    cpus: Collection[int] | None = None,
    death: signal.Signals = signal.SIGKILL,
    told: bool = False,
) -> Iterator[Running]:
    """Run a process for the block; see ``Running``."""
    process = Running(words, env=env, cwd=cwd, cpus=cpus, death=death, told=told)
    try:
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def taken_by(*processes: Running) -> Iterator[list[Usage]]:
    """Measure what servers use in the block: the list gets one Usage at its end."""
    for process in processes:
        process.forget_peak()
    before = [process.usage() for process in processes]
    total: list[Usage] = []
    yield total
    after = [process.usage().since(earlier) for process, earlier in zip(processes, before, strict=True)]
    total.append(sum(after, Usage()))


def _tied_to_this(death: signal.Signals, cpus: Collection[int] | None) -> Callable[[], None]:
    """Return a function for the child that ties its life, and its cores, to this process."""
    parent = os.getpid()

    def tie() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death), 0, 0, 0)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)
        if cpus:
            os.sched_setaffinity(0, cpus)

    return tie


def _content(file: IO[bytes]) -> str:
    """Return the text of a temporary file."""
    if file.closed:
        return ""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from _tree(int(child))


def _memory_of_tree(pid: int) -> int:
    """Return the resident bytes of a process and its descendants."""
    return sum(map(_peak_memory, _tree(pid)))


def _peak_memory(pid: int) -> int:
    """Return the peak of resident bytes of a process alone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _memory(pid: int) -> Memory:
    """Return the memory of a process alone."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            name, _, value = line.partition(b":")
            if name in (b"Rss", b"Pss"):
                found[name] = int(value.split()[0]) * 1024
    return Memory(found.get(b"Rss", 0), found.get(b"Pss", 0))


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and of its ended children."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS
