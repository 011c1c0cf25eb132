"""Streams of a command: stdin, stdout and stderr whose readers can't make the work fail or hang.

The arrival of printed text never decides about the work, except in ``print_answer``: there the text is the
work.
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

from shardcast.disk_errors import error_text
from shardcast.errors import LocalDiskError, UsageError

_READER_TIMEOUT = 1.0
"""Seconds to wait for a slow reader; after a first failure, no more waits until the reader continues."""
_RETRY_INTERVAL = 0.01
"""Seconds until the next write to a descriptor that polls ready but accepts nothing."""
_UNREAD = (errno.EAGAIN, "it is not read")


def guard_streams() -> None:
    """Replace stdin, stdout and stderr by streams that never raise while printing.

    A stream in memory (of a test, for instance) stays.
    """
    codecs.register_error("shardcast", _encode_anyway)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))
    if _is_on(1, sys.stdout):
        sys.stdout = _guarded(1, sys.stdout, "shardcast")
    if _is_on(2, sys.stderr):
        sys.stderr = _guarded(2, sys.stderr, "backslashreplace")


def print_answer(text: str) -> None:
    """Print the answer of a command whose only work is to answer: a list, a description.

    Wait for the reader without limit.

    Raises:
        BrokenPipeError: the reader has gone.
        LocalDiskError: stdout can't be written.
    """
    sink = _sink_of(sys.stdout)
    if sink:
        sink.patience, sink.failure = None, None
    click.echo(text, file=sys.stdout)
    if sink and sink.failure:
        if isinstance(sink.failure, BrokenPipeError):
            raise sink.failure
        raise LocalDiskError(f"could not print: {error_text(sink.failure)}") from sink.failure


def input_descriptor() -> int:
    """Return the descriptor of stdin, made blocking.

    Raises:
        UsageError: stdin is closed.
    """
    os.set_blocking(sys.stdin.fileno(), True)
    return sys.stdin.fileno()


def answer_descriptor() -> int:
    """Return the descriptor of stdout, for an answer in bytes.

    Raises:
        UsageError: stdout is closed.
    """
    sink = _sink_of(sys.stdout)
    if sink and sink.missing:
        raise UsageError("stdout is closed")
    return 1


def print_failure() -> str | None:
    """Return in words why printing a result to stdout failed; None for success."""
    sink = _sink_of(sys.stdout)
    return error_text(sink.failure) if sink and sink.failure else None


def _sink_of(stream: Any) -> _Sink | None:
    """Return the sink of a guarded stream; None for another stream."""
    buffer = getattr(stream, "buffer", None)
    return buffer if isinstance(buffer, _Sink) else None


def _is_on(descriptor: int, stream: Any) -> bool:
    """Return whether a stream writes to a descriptor; also for a descriptor closed at the start."""
    try:
        return stream is None or stream.fileno() == descriptor
    except (OSError, ValueError, AttributeError):  # it keeps its text in memory
        return False


def _guarded(descriptor: int, stream: io.TextIOBase | Any, errors: str) -> io.TextIOWrapper[Any]:
    """Return a stream to a descriptor over a sink, in the stream's encoding, or in UTF-8 instead of ASCII."""
    sink = _Sink(descriptor, missing=stream is None, notices=descriptor == 2)
    encoding = stream.encoding if stream is not None else "utf-8"
    if codecs.lookup(encoding).name == "ascii":  # of a locale that was never set up
        encoding = "utf-8"
    return io.TextIOWrapper(cast(Any, sink), encoding, errors, write_through=True)


class _Sink(io.BufferedIOBase):
    """Binary stream to a descriptor: accepts every write, and stores failures instead of raising them.

    A stopped reader (of a pipe, or a terminal after Ctrl-S) would block a writer, and so the event loop of a
    node, for ever. After ``patience`` seconds the sink drops the text instead.

    Attributes:
        missing: whether the descriptor was closed at the start.
        failure: the last error; None without one.
        patience: maximum seconds to wait for the reader; None for no limit.
    """

    def __init__(self, descriptor: int, missing: bool, notices: bool) -> None:
        """Open the sink.

        Args:
            descriptor: the descriptor to write to.
            missing: whether the descriptor was closed at the start.
            notices: whether text after dropped texts begins with a line about their number.
        """
        self.missing = missing
        self.failure: OSError | None = None
        self.patience: float | None = _READER_TIMEOUT
        self._descriptor = descriptor
        self._target = _own_terminal(descriptor)
        self._notices = notices
        self._unread = False
        self._lost = 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write the bytes or drop them; return their number in either case."""
        text = bytes(data)
        lost = f"[lost: {self._lost}; {error_text(self.failure)}]\n" if self._lost and self.failure else ""
        try:
            self._send(lost.encode() + text if self._notices else text)
        except OSError as error:
            self.failure = error
            self._lost += 1
        else:
            self._lost = 0
        return len(text)

    def _send(self, text: bytes) -> None:
        """Write all bytes, if the reader accepts them in time.

        Raises:
            OSError: the reader is too slow, or the descriptor can't be written.
        """
        left = memoryview(text)
        while left:
            self._wait_for_reader()
            try:
                # A pipe ready in poll accepts PIPE_BUF bytes without blocking.
                left = left[os.write(self._target, left[: select.PIPE_BUF]) :]
            except BlockingIOError:  # another process made the descriptor non-blocking, or took the room
                if self.patience is not None:
                    raise
                time.sleep(_RETRY_INTERVAL)

    def _wait_for_reader(self) -> None:
        """Wait until the descriptor accepts bytes.

        Raises:
            BlockingIOError: not in time; after an earlier failed wait, at once.
        """
        poll = select.poll()
        poll.register(self._target, select.POLLOUT)
        patience = 0.0 if self._unread and self.patience is not None else self.patience
        self._unread = not poll.poll(None if patience is None else patience * 1000)
        if self._unread:
            raise BlockingIOError(*_UNREAD)


def _own_terminal(descriptor: int) -> int:
    """Return a non-blocking descriptor for the terminal at ``descriptor``; else ``descriptor`` itself.

    The terminal is opened anew: O_NONBLOCK belongs to the open file, shared with the parent processes.
    """
    try:
        name = os.ttyname(descriptor)
        return os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return descriptor


class _ClosedInput(io.RawIOBase):
    """Stdin of a process started with stdin closed; reading raises ``UsageError``."""

    name = "<stdin>"

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, _: Any) -> NoReturn:
        """Raise ``UsageError``."""
        raise UsageError("stdin is closed")

    def fileno(self) -> NoReturn:
        """Raise ``UsageError``."""
        raise UsageError("stdin is closed")


def _encode_anyway(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Encode a character that the encoding lacks: a file name's byte as it is, another as ``\u0161``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    error.end = error.start + 1  # a character at a time: the next one may be of the other kind
    of_a_name = "\udc80" <= error.object[error.start] <= "\udcff"
    return codecs.lookup_error("surrogateescape" if of_a_name else "backslashreplace")(error)
