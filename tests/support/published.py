"""Versions in data directories, made in this process, to be served and fetched."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from shardcast.nodes.origin import publishing
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Return bytes that no compression makes smaller, the same for the same seed."""
    return Random(seed).randbytes(size)


def sha256(path: Path) -> str:
    """Return the digest of a file, read a little at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Published:
    """A version in a data directory, and the payload that it was made of."""

    data_dir: Path
    version: str
    payload: bytes

    @property
    def sha256(self) -> str:
        """Digest of the payload."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def manifest(self) -> Manifest:
        """Manifest of the version, read from its folder."""
        return parse((self.data_dir / self.version / "manifest.jsonl").read_bytes(), self.version)


def publish(data_dir: Path, payload: bytes, shard_size: int) -> Published:
    """Publish ``payload`` as the next version of a data directory that no node uses now.

    Works inside a running event loop too, which waits meanwhile.
    """

    async def carry_out(file: Path) -> str:
        async with publishing(data_dir) as publisher:
            broadcast = await publisher.publish(file, shard_size)
            await broadcast.result()
            return broadcast.version

    data_dir.mkdir(parents=True, exist_ok=True)
    file = data_dir.with_name(data_dir.name + ".payload")
    file.write_bytes(payload)
    try:
        with ThreadPoolExecutor(1) as elsewhere:
            return Published(data_dir, elsewhere.submit(asyncio.run, carry_out(file)).result(), payload)
    finally:
        file.unlink()
