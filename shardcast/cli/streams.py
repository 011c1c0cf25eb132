"""stdin, stdout and stderr of a command. Telling never decides about doing: whatever is printed, by whichever
way, whether it arrives or not changes nothing about the work. Only what ``print_answer`` prints is the work.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
import time
from typing import Any, NoReturn, cast

import click

from shardcast.errors import LocalDiskError, UsageError
from shardcast.filesystem import in_words

_PATIENCE = 1.0
"""Seconds for which a reader that has fallen behind is waited for, once until it takes something again."""
_AGAIN = 0.01
"""Seconds until a full descriptor that looks as if it had room is tried again."""
_UNREAD = (errno.EAGAIN, "it is not read")


def guard_streams() -> None:
    """Put streams in the place of stdin, stdout and stderr that fail nobody who prints.

    One that keeps what is printed in this process stays.
    """
    codecs.register_error("shardcast", _encode_anyway)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))
    if _is_on(1, sys.stdout):
        sys.stdout = _guarded(1, sys.stdout, "shardcast")
    if _is_on(2, sys.stderr):
        sys.stderr = _guarded(2, sys.stderr, "backslashreplace")


def print_answer(text: str) -> None:
    """Print what a command was asked for, and nothing else was done for: a list, a description.

    Raises:
        BrokenPipeError: the reader has gone.
        LocalDiskError: it can't be written.
    """
    sink = _sink_of(sys.stdout)
    if sink:
        sink.patience, sink.failure = None, None
    click.echo(text, file=sys.stdout)
    if sink and sink.failure:
        if isinstance(sink.failure, BrokenPipeError):
            raise sink.failure
        raise LocalDiskError(f"could not print: {in_words(sink.failure)}") from sink.failure


def input_descriptor() -> int:
    """Return the descriptor of stdin.

    Raises:
        UsageError: it is closed.
    """
    os.set_blocking(sys.stdin.fileno(), True)
    return sys.stdin.fileno()


def answer_descriptor() -> int:
    """Return the descriptor of stdout, for bytes that a command was asked for.

    Raises:
        UsageError: it is closed.
    """
    sink = _sink_of(sys.stdout)
    if sink and sink.missing:
        raise UsageError("stdout is closed")
    return 1


def untold() -> str | None:
    """Return why a result could not be printed to stdout, in words; None when it could."""
    sink = _sink_of(sys.stdout)
    return in_words(sink.failure) if sink and sink.failure else None


def _sink_of(stream: Any) -> _Sink | None:
    buffer = getattr(stream, "buffer", None)
    return buffer if isinstance(buffer, _Sink) else None


def _is_on(descriptor: int, stream: Any) -> bool:
    """Return whether a stream writes to a descriptor, or is missing since that was closed at the start."""
    try:
        return stream is None or stream.fileno() == descriptor
    except (OSError, ValueError, AttributeError):  # it is kept in memory
        return False


def _guarded(descriptor: int, stream: io.TextIOBase | Any, errors: str) -> io.TextIOWrapper[Any]:
    sink = _Sink(descriptor, missing=stream is None, notices=descriptor == 2)
    encoding = stream.encoding if stream is not None else "utf-8"
    if codecs.lookup(encoding).name == "ascii":  # of a locale that nobody has set up
        encoding = "utf-8"
    return io.TextIOWrapper(cast(Any, sink), encoding, errors, write_through=True)


class _Sink(io.BufferedIOBase):
    """A descriptor that takes whatever is written to it, and keeps what went wrong to itself.

    A reader that stands still (of a pipe, or a terminal after Ctrl-S) would keep a writer, and with it the
    event loop of a node, for ever. It is waited for at most ``patience`` seconds, and then the text is lost.

    Attributes:
        missing: whether the descriptor was closed at the start.
        failure: what went wrong last.
        patience: seconds that a reader is waited for; None for as long as it takes.
    """

    def __init__(self, descriptor: int, missing: bool, notices: bool) -> None:
        """``notices``: whether a line tells how many texts were lost before it."""
        self.missing = missing
        self.failure: OSError | None = None
        self.patience: float | None = _PATIENCE
        self._descriptor = descriptor
        self._target = _own_terminal(descriptor)
        self._notices = notices
        self._unread = False
        self._lost = 0

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        text = bytes(data)
        lost = f"[lost: {self._lost}; {in_words(self.failure)}]\n" if self._lost and self.failure else ""
        try:
            self._send(lost.encode() + text if self._notices else text)
        except OSError as error:
            self.failure = error
            self._lost += 1
        else:
            self._lost = 0
        return len(text)

    def _send(self, text: bytes) -> None:
        left = memoryview(text)
        while left:
            self._wait_for_reader()
            try:
                # A pipe that has room has it for so much, so that it does not make us wait.
                left = left[os.write(self._target, left[: select.PIPE_BUF]) :]
            except BlockingIOError:  # another process made the descriptor non-blocking, or took the room
                if self.patience is not None:
                    raise
                time.sleep(_AGAIN)

    def _wait_for_reader(self) -> None:
        poll = select.poll()
        poll.register(self._target, select.POLLOUT)
        patience = 0.0 if self._unread and self.patience is not None else self.patience
        self._unread = not poll.poll(None if patience is None else patience * 1000)
        if self._unread:
            raise BlockingIOError(*_UNREAD)


def _own_terminal(descriptor: int) -> int:
    """Return a descriptor that doesn't block for the terminal at ``descriptor``; itself where there is none.

    It is opened anew: to be non-blocking belongs to what a process shares with those that it was started by.
    """
    try:
        name = os.ttyname(descriptor)
        return os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return descriptor


class _ClosedInput(io.RawIOBase):
    """A stdin that was closed before the start: who reads it is told so."""

    name = "<stdin>"

    def readable(self) -> bool:
        return True

    def readinto(self, _: Any) -> NoReturn:
        raise UsageError("stdin is closed")

    def fileno(self) -> NoReturn:
        raise UsageError("stdin is closed")


def _encode_anyway(error: UnicodeError) -> tuple[str | bytes, int]:
    """Give the bytes of a file's name that are not UTF-8 out as they are, and write what an encoding lacks as
    ``\\u0161``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    error.end = error.start + 1  # a character at a time: the next one may be of the other kind
    of_a_name = "\udc80" <= error.object[error.start] <= "\udcff"
    return codecs.lookup_error("surrogateescape" if of_a_name else "backslashreplace")(error)
