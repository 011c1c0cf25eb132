"""A program that writes a version at a rate: ``DATA_DIR FIRST PAYLOAD RATE``.

Its origin broadcasts the file FIRST. At a line on stdin it writes PAYLOAD, from memory, into
``open_broadcast``, as if RATE bytes were made a second, in portions. Prints the version, when it began, when
it had written all (the ``with`` block ends), and when the version was complete, as JSON.
"""

from __future__ import annotations

import json
import mmap
import sys
import time
from pathlib import Path

import shardcast

PORTION = 4_000_000
"""Bytes of a write."""


def main(data_dir: str, first: str, payload: str, rate: str) -> None:
    """Start an origin, broadcast the first file, and write at a line on stdin."""
    origin = shardcast.OriginServer(data_dir, 0)
    origin.broadcast(first)
    with Path(payload).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
    print(f"Listening on {origin.url}", file=sys.stderr, flush=True)
    for _ in sys.stdin:
        print(json.dumps(write(origin, memoryview(mapped), float(rate))), flush=True)
    origin.shutdown()


def write(origin: shardcast.OriginServer, content: memoryview, rate: float) -> dict[str, float | str]:
    """Write the payload at a rate, and return the times."""
    began = time.monotonic()
    with origin.open_broadcast("payload.bin") as out:
        for start in range(0, len(content), PORTION):
            portion = content[start : start + PORTION]
            made = began + (start + len(portion)) / rate
            time.sleep(max(0.0, made - time.monotonic()))
            out.write(portion)
        written = time.monotonic()
    complete = time.monotonic()
    return {"version": out.version, "began": began, "written": written, "complete": complete}


if __name__ == "__main__":
    main(*sys.argv[1:])
