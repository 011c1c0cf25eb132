"""Commands in a terminal of a given width, and the screen as a user sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support import processes

pyte = pytest.importorskip("pyte")

WIDTHS = (40, 80, 200)
INTERRUPTED = 130


class Terminal:
    """A terminal that a command runs in, and what is on its screen."""

    def __init__(self, width: int, *words: str, stdin: int | None = None) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.process = subprocess.Popen(
            processes.command(*words),
            stdin=subprocess.PIPE if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            env=processes.environment(TERM="xterm"),
        )
        os.close(theirs)
        self._screen = pyte.Screen(width, 24)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """The lines that are not empty."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def read(self) -> bool:
        """Draw what the command wrote by now; return whether it still runs."""
        if select.select([self._ours], [], [], 0.1)[0]:
            try:
                self._stream.feed(os.read(self._ours, 1 << 16))
            except OSError:  # the other end is closed
                return False
        return True

    def read_until(self, condition: Callable[[list[str]], bool], *, one_line: bool = False) -> None:
        """Draw until the lines fulfil a condition; with ``one_line``, never more than one meanwhile."""
        deadline = time.monotonic() + 60
        while not condition(self.lines):
            assert time.monotonic() < deadline, self.lines
            assert self.read(), self.lines
            assert not one_line or len(self.lines) <= 1, self.lines

    def end(self) -> int:
        while self.read():
            pass
        return self.process.wait(60)


@contextmanager
def terminal(width: int, *words: str) -> Iterator[Terminal]:
    opened = Terminal(width, *words)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened._ours)
        assert opened.process.stdin
        opened.process.stdin.close()
