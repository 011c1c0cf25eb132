"""What both carriers' takers do with a piece: verify and write it, and count; and what a run prints.

A run takes COUNT pieces of one shard, whose digests are in a manifest, again and again from the first one on.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

PIECE = 256 << 10


class Work:
    """The pieces of a run.

    Attributes:
        length: bytes of the shard's whole pieces.
        each: whole pieces of the shard.
    """

    def __init__(self, manifest: str, output: str, count: int) -> None:
        """Take ``count`` pieces of the first shard of a ``manifest``, and write them to ``output``."""
        shard = json.loads(Path(manifest).read_bytes().splitlines()[1])
        digests = base64.b64decode(shard["blake3"])
        self.each = int(shard["size"]) // PIECE
        self.length = self.each * PIECE
        self._digests = [digests[32 * index : 32 * index + 32] for index in range(self.each)]
        self._file = os.open(output, os.O_RDWR | os.O_CREAT, 0o600)
        self.left = count
        self._spent = _cpu_seconds()

    def todo(self, pieces: int) -> Iterator[tuple[int, int]]:
        """Yield the first piece and the number of pieces of requests that ask for so many ``pieces``."""
        while True:
            for first in range(0, self.each, pieces):
                yield first, min(pieces, self.each - first)

    def take(self, index: int, piece: memoryview) -> None:
        """Verify and write a piece."""
        if blake3(piece).digest() != self._digests[index]:
            sys.exit(f"piece {index} is wrong")
        os.pwrite(self._file, piece, index * PIECE)
        self.left -= 1

    def finish(self) -> None:
        """Print the CPU seconds since the start, as JSON."""
        print(json.dumps({"cpu": _cpu_seconds() - self._spent}), flush=True)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
