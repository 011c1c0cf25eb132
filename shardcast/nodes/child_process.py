"""A node as a child process, ended together with this one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shardcast.access.client_access import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from shardcast.access.secret import Secret
from shardcast.constants import ENVIRONMENT_PREFIX, SHUTDOWN_GRACE
from shardcast.errors import NodeFailed, ShardcastError, from_wire, to_wire
from shardcast.json_text import parse_json
from shardcast.policy.backoff import Backoff

_START_SECONDS = 60.0
_KILLED_SECONDS = 5.0
_POLL = Backoff(first=0.001, longest=0.05)
"""Pauses between two looks at whether the child has ended."""
_PACKAGES = str(Path(__file__).resolve().parents[2])
_PROGRAM = f"""\
import sys
count, *words = open(0, "rb", closefd=False).read().decode("utf-8", "surrogatepass").split("\\0")
sys.path[:] = words[: int(count)]
import os
os.environ.update(word.split("=", 1) for word in words[int(count) :])
del words
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("shardcast", [{_PACKAGES!r}])
sys.modules["shardcast"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["shardcast"])
from shardcast.cli.main import main
main()
"""
"""Program of a child process. ``sys.path`` and the secrets come through stdin and are read before any import;
``shardcast`` is then taken from the package running here, wherever this path leads. Secrets are not passed as
arguments or environment because ``ps`` shows both."""


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Have SIGINT and SIGTERM act at the end of the block, so every started process is recorded.

    In a thread other than the main one this does nothing: no signal handler runs there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    # None: a handler not set by Python code, and impossible for Python code to put back.
    before = {which: handler for which in numbers if (handler := signal.getsignal(which)) is not None}
    for which in before:
        signal.signal(which, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        for number in pending:
            signal.raise_signal(number)


def start_command(
    words: Sequence[str], secrets: Mapping[str, Secret] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start ``shardcast WORD…`` with this process's package and ``sys.path``, and an empty stdin.

    The path is handed over whole and in its order. A different order would find different modules: a backport
    in site-packages instead of the standard library's module, or none at all if the path has changed since
    the start. The environment stays the same, ``PYTHONPATH`` included.

    Args:
        words: the command and its options.
        secrets: environment variables for the child to set itself, invisible to other processes.
        options: of ``subprocess.Popen``.
    """
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, *words], stdin=subprocess.PIPE, **options)
    assert process.stdin
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # a child that died is noticed later
        stdin.write(_handover(secrets or {}))
    return process


def _handover(secrets: Mapping[str, Secret]) -> bytes:
    """Return the child's input on stdin: the number of path entries, the entries, then its variables."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    variables = [f"{name}={value.reveal()}" for name, value in secrets.items()]
    return "\0".join([str(len(path)), *path, *variables]).encode("utf-8", "surrogatepass")


def how_started(parent: int | None) -> dict[str, Any]:
    """Return the command of this node's start, for another process of the program to repeat.

    A node started by a person or a service manager (no ``parent``) is restarted by them, with options valid
    only in their working directory; nothing is returned for such a node. Tokens are never returned.
    """
    if parent is None or "--parent" not in sys.argv:
        return {}
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in (TOKEN_VARIABLE, TOKEN_FILE_VARIABLE)
    }
    options = sys.argv[sys.argv.index("--parent") + 2 :]
    return {"parent": parent, "namespace": pid_namespace(), "options": options, "variables": variables}


def pid_namespace() -> str:
    """Return the namespace of this process's ids; empty on a system without namespaces."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


class NodeProcess:
    """A node as a child process: ``shardcast ROLE OPTION…``.

    Parent and child have separate interpreter locks, so neither slows the other. The child ends whenever this
    process ends, for any reason.

    Attributes:
        url: address of the listener, once ``wait_until_listening`` has returned.
    """

    url: str

    def __init__(
        self,
        role: str,
        options: Sequence[str],
        log: int | None = None,
        secrets: Mapping[str, Secret] | None = None,
        *,
        own_words: Sequence[str] = (),
    ) -> None:
        """Start the node.

        Args:
            role: the command.
            options: of the command.
            log: the descriptor to log to; None to log where this process does.
            secrets: as for ``start_command``.
            own_words: further options, for this start only: ``how_started`` does not tell them.
        """
        self.role = role
        self._owner = os.getpid()
        process: subprocess.Popen[bytes] | None = None
        ready, ready_there = _pipe()
        try:
            words = ["--ready-fd", str(ready_there), *own_words, "--parent", str(self._owner), *options]
            with deferred_interrupts():
                process = start_command(
                    [role, *words],
                    secrets=secrets,
                    pass_fds=[ready_there],
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C at the terminal is for this process, which then ends it
                )
        except BaseException:
            os.close(ready)
            if process:
                process.kill()
                process.wait()
            raise
        finally:
            os.close(ready_there)
        self._process, self._ready = process, ready

    def wait_until_listening(self) -> None:
        """Wait until the node listens. A failure, or an interruption of the wait, kills the node.

        Raises:
            ShardcastError: the node can't start; of the type of the error in the child.
        """
        try:
            self.url = self._wait(self._ready)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            os.close(self._ready)

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def is_owned(self) -> bool:
        """Whether this process started the node, and so may wait for its end; a forked copy may not."""
        return os.getpid() == self._owner

    @property
    def owner(self) -> int:
        """Process id of the starter."""
        return self._owner

    def exit_reason(self, within: float) -> str | None:
        """Return in words how the process ended within so many seconds; None for a running one."""
        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            return None
        if code == 0:  # it was told to end, or other code reaped it: subprocess tells 0 then
            return "exit code unknown"
        return f"exit code {code}" if code > 0 else signal_name(-code)

    @property
    def pid(self) -> int:
        """Process id of the node."""
        return self._process.pid

    def stop(self) -> None:
        """End the node cleanly, if started by this process; a forked copy leaves the child alone."""
        if not self.is_owned or not self.running:
            return
        try:
            self._process.terminate()
            self._has_ended(SHUTDOWN_GRACE + 5)
        finally:  # also when it is interrupted
            if not self._has_ended(0):
                self._process.kill()
                self._has_ended(_KILLED_SECONDS)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILLED_SECONDS)

    def _has_ended(self, within: float) -> bool:
        """Return whether the process ends within so many seconds.

        ``Popen.wait`` is not used: an exception from a signal handler between two instructions of
        ``Popen.poll`` leaves the lock of ``Popen`` taken for ever, and Ctrl-C at the end of a program comes
        just then.
        """
        deadline, looks = time.monotonic() + within, 0
        while True:
            try:
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return True
            except ChildProcessError:  # other code reaped it
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL.pause(looks), left))
            looks += 1

    def _wait(self, ready: int) -> str:
        """Return the URL reported by the node through the pipe ``ready``.

        Raises:
            NodeFailed: the node ended, or reported nothing within 60 s.
            ShardcastError: the reported error.
        """
        line, deadline = b"", time.monotonic() + _START_SECONDS
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([ready], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(ready, 65536) if readable else b""
            if not part:
                if readable:
                    how = f"exit code {self._process.wait()}"
                else:
                    self._process.kill()
                    self._process.wait()
                    how = f"it did not listen within {_START_SECONDS:g} s, and was killed"
                raise NodeFailed(f"the {self.role} could not start ({how}); its log may tell why")
            line += part
        report = parse_json(line)
        if "error" in report:
            self._process.wait(10)
            raise from_wire(report["error"])
        return str(report["url"])


def _pipe() -> tuple[int, int]:
    """Return a pipe that avoids the descriptors 0 to 2, also where those are free.

    The child's own standard streams take these numbers.
    """
    pair: tuple[int, int] = os.pipe()
    moved: list[int] = []
    try:
        for descriptor in pair:
            moved.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
    except BaseException:
        for descriptor in moved:
            os.close(descriptor)
        raise
    finally:
        for descriptor in pair:
            os.close(descriptor)
    return moved[0], moved[1]


def signal_name(number: int) -> str:
    """Return the name of a signal, for people."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"


def report_ready(descriptor: int, url: str | None, error: ShardcastError | None = None) -> None:
    """Report the URL, or the error of a failed start, to the starter of this node; close ``descriptor``."""
    message = {"url": url} if error is None else {"error": to_wire(error)}
    with contextlib.suppress(OSError):  # the parent does not wait any more
        os.write(descriptor, json.dumps(message).encode() + b"\n")
        os.close(descriptor)
