"""Chunks of a payload in memory."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

CHUNK_SIZE = 1 << 20
"""Bytes read, hashed and written at a time."""
_CHUNKS = 16
"""Chunks in memory at once: read, hashed or written."""


class Ring:
    """Buffers that are used again when what was done with them has ended: fresh memory is slow."""

    def __init__(self) -> None:
        self._busy: deque[tuple[memoryview, list[Future[None]]]] = deque()
        self._made = 0
        self._current = memoryview(b"")

    def take(self) -> memoryview:
        if self._made < _CHUNKS:
            self._made += 1
            self._current = memoryview(bytearray(CHUNK_SIZE))
        else:
            self._current, work = self._busy.popleft()
            for future in work:
                future.result()
        return self._current

    def put(self, work: list[Future[None]]) -> None:
        self._busy.append((self._current, work))

    def wait(self) -> None:
        for _, work in self._busy:
            for future in work:
                future.result()
