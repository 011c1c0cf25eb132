"""Files ─▶ chunks, cut where their content says, so that an insertion changes few of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shardcast.digest import Buffer

try:
    from pyfastcdc import FastCDC
except ImportError:  # the extra "backup" is not installed: cuts are at fixed offsets
    FastCDC = None  # type: ignore[assignment, misc]

MIN_CHUNK, AVERAGE_CHUNK, LARGEST_CHUNK = 256 << 10, 1 << 20, 4 << 20
"""Bytes of a chunk of a large file."""
FIXED_CHUNK = 1 << 20
"""Bytes of a chunk where nothing can find cuts by content."""
ONE_CHUNK = 512 << 10
"""Files up to this size are one chunk."""
BY_CONTENT = FastCDC is not None
"""Whether cuts follow the content. If not, an insertion changes every later chunk."""
_WINDOW = 2 * LARGEST_CHUNK
"""Bytes read and cut at once. A cut depends on its chunk's bytes alone, so any window of at least the largest
chunk gives the same chunks."""


def cut_chunks(read: Callable[[int], Buffer]) -> Iterator[Buffer]:
    """Yield the chunks of a stream; none for an empty stream.

    Chunks are views: each keeps its whole window in memory.

    Args:
        read: returns the next bytes, at most the requested number, and none at the end.
    """
    rest: Buffer = b""
    while True:
        window, ended = _next_window(read, rest)
        start = 0
        for length in _lengths(window):
            if not ended and len(window) - start < LARGEST_CHUNK:
                break  # bytes that are still to come may move this cut
            yield window[start : start + length]
            start += length
        if ended:
            return
        rest = window[start:]


def _next_window(read: Callable[[int], Buffer], rest: Buffer) -> tuple[memoryview, bool]:
    """Return the bytes to cut, beginning with ``rest``, and whether the stream ends with them."""
    parts, size = [rest], len(rest)
    while size < _WINDOW:
        part = read(_WINDOW - size)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return memoryview(b"".join(parts)), size < _WINDOW


def _lengths(window: memoryview) -> Iterator[int]:
    """Yield the lengths of the chunks of some bytes, whose last one ends where the bytes do."""
    if FastCDC is None:
        for start in range(0, len(window), FIXED_CHUNK):
            yield min(FIXED_CHUNK, len(window) - start)
        return
    cutter = FastCDC(AVERAGE_CHUNK, min_size=MIN_CHUNK, max_size=LARGEST_CHUNK)
    for chunk in cutter.cut_buf(window):
        yield chunk.length
