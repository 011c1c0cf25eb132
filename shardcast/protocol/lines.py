"""Lines of bounded length, cut from bytes in chunks of any size.

Feeds, leases and manifests are read by a ``LineReader``: a server without newlines costs its reader
``max_length`` bytes and one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_LINE = 64 * 1024
"""Bytes of a line of a feed, a lease or a manifest, without its newline."""


class LineTooLong(ValueError):
    """A line with more bytes than its reader takes."""

    def __init__(self, max_length: int) -> None:
        super().__init__(f"a line of more than {max_length} bytes")


class LineReader:
    """A reader of lines of bounded length, fed with chunks of any size."""

    def __init__(self, max_length: int = MAX_LINE) -> None:
        """Read lines of at most ``max_length`` bytes, newlines not counted."""
        self._max_length = max_length
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield each line completed by ``chunk``, without its newline; has to be exhausted.

        The result does not depend on the cuts between chunks: the lines before a too long one are yielded
        first.

        Raises:
            LineTooLong: a line is too long, whether its newline has arrived or not. The reader is unusable
                then.
        """
        pending, start, scanned = self._pending, 0, len(self._pending)
        pending += chunk
        while (end := pending.find(b"\n", max(start, scanned))) >= 0:
            self._check(end - start)
            yield bytes(pending[start:end])
            start = end + 1
        del pending[:start]
        self._check(len(pending))

    def _check(self, length: int) -> None:
        if length > self._max_length:
            raise LineTooLong(self._max_length)
