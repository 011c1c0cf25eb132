"""A file's bytes in order, read by a thread of its own while the ones before are worked on.

Reading takes a fifth of the time that hashing takes, also where the bytes are in memory already. Where the
processor has nothing else to do meanwhile, that is saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

from shardcast.concurrency import Threads

PART = 512 << 10
"""Bytes of a part: two of them are still in the processor's cache when they are worked on."""
_WORTH_IT = 4 << 20
"""Bytes from which on a thread is worth its start."""


def parts(
    descriptor: int,
    position: int,
    end: int,
    *,
    ahead: bool,
    beside: Callable[[memoryview], object] | None = None,
) -> Generator[memoryview, None, None]:
    """The bytes from ``position`` to ``end``, less where the file ends before, read ``ahead`` or as they are
    asked for; whoever reads them also hands them to ``beside``. A part is good until the next one is asked
    for. To be closed where it isn't used up: until then the file may be read.

    Raises:
        OSError: they can't be read.
    """

    def read(buffer: memoryview, start: int) -> int:
        got = os.preadv(descriptor, [buffer[: end - start]], start)
        if beside:
            beside(buffer[:got])
        return got

    if not ahead or end - position < _WORTH_IT:
        buffer = memoryview(bytearray(max(0, min(PART, end - position))))
        while position < end and (got := read(buffer, position)):
            yield buffer[:got]
            position += got
        return
    now, then = (memoryview(bytearray(PART)) for _ in range(2))
    with Threads(1, "reading") as thread:
        coming = thread.submit(read, now, position)
        while got := coming.result():
            position += got
            if position < end:
                coming = thread.submit(read, then, position)
            yield now[:got]
            if position >= end:
                break
            now, then = then, now
