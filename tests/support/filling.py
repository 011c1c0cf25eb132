"""An output file that a test fills with a version, without a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from shardcast.protocol.manifest import Manifest
from shardcast.store.interfaces import ShardSink
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from tests.support import payloads
from tests.support.payloads import PIECE, SHARD, random_bytes

DATA = random_bytes(2 * SHARD + PIECE + 100)
MANIFEST = payloads.manifest(DATA)


@contextlib.contextmanager
def open_output(output: Path, manifest: Manifest = MANIFEST) -> Iterator[OutputFile]:
    """Open an output file, and close it at the end of the block."""
    opened = OutputFile(output, LiveManifest.of(manifest))
    try:
        yield opened
    finally:
        opened.close()


async def fill(
    opened: ShardSink, data: bytes = DATA, manifest: Manifest = MANIFEST, stop: int = 1 << 62
) -> int:
    """Land the missing bytes below ``stop`` of the payload, and return their number."""
    fetched = 0
    for shard in manifest.shards:
        landing = await opened.landing(shard)
        try:
            for start, end in landing.missing():
                end = min(end, stop - shard.offset)
                if start < end:
                    await landing.land(start, data[shard.offset + start : shard.offset + end])
                    fetched += end - start
            if landing.whole:
                await opened.commit_shard(landing)
        finally:
            landing.close()
    return fetched


def names(folder: Path) -> set[str]:
    """Return the names in a folder."""
    return {path.name for path in folder.iterdir()}
