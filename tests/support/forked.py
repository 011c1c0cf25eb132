"""``subprocess.Popen`` for shardcast's commands, with a quarter of their CPU time: their imports are done."""

from __future__ import annotations

import atexit
import ctypes
import functools
import inspect
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, AnyStr

from shardcast import constants
from tests.support import fork_server
from tests.support.commands import environment

ROOT = Path(__file__).parents[2]
EXEC_VARIABLE = "SHARDCAST_TESTS_EXEC"
"""The environment variable that has every command started by an interpreter of its own."""
_PREFIXES = ("SHARDCAST_", "HASHSERVER_", "IP_ADDR_LIST", "no_proxy", "NO_PROXY", "PYTEST_")
"""Beginnings of the environment variables that differ among forked commands. All others must be the server's:
the interpreter and the libraries may have read them when it started."""
_MARK = "SHARDCAST_TEST_MARK"
"""A variable by which tests find processes, in ``/proc/PID/environ``: there a forked one has the server's."""
_OTHER = ("preexec_fn", "pass_fds", "executable", "shell", "start_new_session", "gid", "gids", "uid")
"""Arguments of ``Popen`` that only a process of its own follows."""
_MOST_SERVERS = 5
"""Servers at once, each with other settings."""
_PR_SET_CHILD_SUBREAPER = 36


Key = tuple[int | tuple[str, str], ...]
"""What makes one server another: the umask and the settings."""


class Popen(subprocess.Popen[AnyStr]):
    """A process, forked off a server that has imported shardcast where that makes no difference to it.

    Where the arguments are not those of ``python -m shardcast``, or the process shall have more than streams,
    a directory and settings of its own, an interpreter is started as ever. Tests of the start itself (memory,
    imports, ``/proc/PID/cmdline``) use ``subprocess.Popen``. Processes of one server hash strings alike.
    """

    def _execute_child(self, *words: Any) -> None:
        """Start the process."""
        start = inspect.signature(subprocess.Popen._execute_child).bind(self, *words).arguments  # type: ignore[attr-defined]
        if not _forkable(start):
            super()._execute_child(*words)  # type: ignore[misc]
            return
        inner = [start["p2cread"], start["c2pwrite"], start["errwrite"]]
        streams = [number if given == -1 else given for number, given in enumerate(inner)]
        self.pid = _servers().start(start["args"][3:], start["cwd"] or ".", start["env"], streams)
        self._child_created = True
        outer = [start[end] for end in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        self._close_pipe_fds(*outer)  # type: ignore[attr-defined]


def _forkable(start: Mapping[str, Any]) -> bool:
    """Return whether a forked process is the same as the one that ``Popen`` would start."""
    if sys.platform != "linux" or EXEC_VARIABLE in os.environ:
        return False
    words, variables = start["args"], start["env"] or os.environ
    return (
        isinstance(words, list)
        and words[:3] == [sys.executable, "-m", "shardcast"]
        and all(isinstance(word, str) for word in words)
        and not any(start[name] for name in _OTHER)
        and (start["process_group"], start["umask"]) == (-1, -1)
        and _MARK not in variables
        and others(variables) == others(server_environment())
    )


def others(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that must be the server's."""
    return {name: value for name, value in variables.items() if not name.startswith(_PREFIXES)}


def read_at_import(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that shardcast reads at import, all of them in ``constants``."""
    names = {constants.ENVIRONMENT_PREFIX + name for name in vars(constants)}
    return {name: value for name, value in variables.items() if name in names}


@functools.cache
def server_environment() -> dict[str, str]:
    """Return the environment of the first server, without settings."""
    return environment()


@functools.cache
def _servers() -> _Servers:
    """Return the servers of this process, which end with it."""
    servers = _Servers()
    atexit.register(servers.close)
    return servers


class _Servers:
    """A server (``tests/support/fork_server.py``) for each set of settings, forked off the first one."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        first, theirs = socket.socketpair()
        with theirs:
            self._first = subprocess.Popen(
                [sys.executable, "-m", fork_server.__name__, str(theirs.fileno())],
                cwd=ROOT, env=server_environment(), pass_fds=[theirs.fileno()],
            )  # fmt: skip
        _wait_until_ready(first)
        self._key = _key(_umask(), {})
        self._links = {self._key: first}
        self._forked: dict[Key, int] = {}

    def start(
        self, words: list[str], directory: str, variables: Mapping[str, str] | None, streams: list[int]
    ) -> int:
        """Start a command as a child of this process, and return its id."""
        whole = dict(os.environ if variables is None else variables)
        here = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            with self._turn:
                link = self._link(read_at_import(whole))
                with _adopting_orphans():
                    return fork_server.send(link, _request(whole, words, [*streams, here]))
        finally:
            os.close(here)

    def _link(self, settings: dict[str, str]) -> socket.socket:
        """Return the socket of the server with these settings; fork it off the first one if there is none."""
        key = _key(_umask(), settings)
        if key not in self._links:
            if len(self._links) >= _MOST_SERVERS:
                self._end(list(self._links)[1])
            ours, theirs = socket.socketpair()
            with theirs:
                request = _request({**server_environment(), **settings}, None, [theirs.fileno()])
                with _adopting_orphans():
                    self._forked[key] = fork_server.send(self._links[self._key], request)
            self._links[key] = ours
            _wait_until_ready(ours)
        return self._links[key]

    def _end(self, key: Key) -> None:
        """End a forked server."""
        self._links.pop(key).close()
        os.waitpid(self._forked.pop(key), 0)

    def close(self) -> None:
        """End all servers."""
        for key in list(self._forked):
            self._end(key)
        self._links.pop(self._key).close()
        self._first.wait(30)


def _wait_until_ready(link: socket.socket) -> None:
    """Wait until a server has imported all, so that it forks at once."""
    if link.recv(len(fork_server.READY)) != fork_server.READY:
        raise RuntimeError("tests/support/fork_server.py ended before it was ready; its error is on stderr")


def _key(umask: int, settings: Mapping[str, str]) -> Key:
    """Return what makes one server another: all that shardcast reads at import."""
    return umask, *sorted(settings.items())


def _umask() -> int:
    """Return the umask of this process."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _request(variables: dict[str, str], words: list[str] | None, fds: list[int]) -> fork_server.Request:
    """Return a request of this process."""
    return fork_server.Request(os.getpid(), variables, words, _umask(), fds)


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Become the parent of descendants whose own parent ends in this block."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
