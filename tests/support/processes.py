"""Nodes and commands as real processes, started and ended by their id."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.commands import command as command
from tests.support.commands import environment as environment
from tests.support.forked import Popen as Popen

LISTENING = re.compile(r"Listening on (https?://\S+)")


def run(
    *words: str, env: Mapping[str, str] | None = None, timeout: float = 120, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output, whatever its exit code."""
    pipe = subprocess.PIPE
    arguments, variables = command(*words), environment(**(env or {}))
    with Popen(arguments, env=variables, stdout=pipe, stderr=pipe, text=True, cwd=cwd) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@dataclass
class Node:
    """A node that runs.

    Attributes:
        process: its process.
        url: base URL that it listens on; empty before it listens.
        lines: lines of its stderr so far.
    """

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)
    _bound: threading.Event = field(default_factory=threading.Event)

    @property
    def log(self) -> str:
        """The stderr so far."""
        return "".join(self.lines)

    @property
    def port(self) -> int:
        """Port that the node listens on."""
        return int(self.url.rsplit(":", 1)[1])

    def _read(self) -> None:
        """Read stderr until it ends; the thread's function."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if not self.url and (found := LISTENING.search(line)):
                self.url = found[1].replace("0.0.0.0", "127.0.0.1")
                self._bound.set()
        self._bound.set()

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until a line with ``text`` was logged."""
        deadline = time.monotonic() + timeout
        while text not in self.log:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log}"
            assert self.process.poll() is None, f"ended before {text!r}:\n{self.log}"
            time.sleep(0.02)

    def stop(self, timeout: float = 30) -> int:
        """End the node as an operator would (SIGTERM), and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End the node as a crash would (SIGKILL)."""
        self.process.kill()
        self.process.wait(30)


@contextlib.contextmanager
def node(
    *words: str, env: Mapping[str, str] | None = None, timeout: float = 60, fork: bool = True
) -> Iterator[Node]:
    """Start ``shardcast WORDS…``, wait until it listens, and kill it at the end if it still runs.

    It may be forked off a server (``tests/support/forked.py``) unless ``fork`` is false.
    """
    with started(command(*words), env=env, timeout=timeout, fork=fork) as running:
        assert running.url, f"did not listen:\n{running.log}"
        yield running


@contextlib.contextmanager
def started(
    arguments: Sequence[str],
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
    fork: bool = True,
) -> Iterator[Node]:
    """Start a process, wait until it listens or ends or ``timeout`` seconds pass, and kill it at the end."""
    start = Popen if fork else subprocess.Popen
    process = start(
        arguments,
        env=environment(**(env or {})),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    running = Node(process)
    reader = threading.Thread(target=running._read, daemon=True)
    reader.start()
    try:
        running._bound.wait(timeout)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)
        assert process.stderr is not None
        process.stderr.close()


def origin(
    data_dir: Path, *words: str, env: Mapping[str, str] | None = None, fork: bool = True
) -> contextlib.AbstractContextManager[Node]:
    """Run an origin on a free port of 127.0.0.1."""
    listening = ("--host", "127.0.0.1", "--port", "0")
    return node("origin", "--data-dir", str(data_dir), *listening, *words, env=env, fork=fork)


def middle(
    upstream: str, data_dir: Path, *words: str, env: Mapping[str, str] | None = None, fork: bool = True
) -> contextlib.AbstractContextManager[Node]:
    """Run a middle on a free port of 127.0.0.1 that asks its upstreams every second."""
    return node(
        "middle", "--upstream", upstream, "--data-dir", str(data_dir), "--host", "127.0.0.1", "--port", "0",
        "--check-interval", "1", *words, env=env, fork=fork,
    )  # fmt: skip


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a port of this machine for the block, whether a process listens there or not.

    For a node whose port must be known before it runs, or be the same one after a restart.
    """
    with socket.socket() as held:
        # It does not listen, so that others who say the same may; who only asks for a free port gets another.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def processes_with_mark(mark: str) -> set[int]:
    """Return the processes that have a mark in their environment, which their children inherit."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.add(int(entry.name))
    return found


def wait_until(condition: object, timeout: float = 30, what: str = "the condition") -> None:
    """Poll ``condition()`` until it is true; for what only another process can bring about."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain for {what}"
        time.sleep(0.05)
