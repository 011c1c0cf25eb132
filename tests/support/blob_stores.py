"""Stores of blobs that the tests of the contract run over.

Another store joins them with a line in ``KINDS``.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.mirror.mirror_store import MirrorStore
from tests.support.memory_store import BlobsInMemory
from tests.support.union_store import BlobUnion


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    Attributes:
        name: the kind's name in test ids.
        open: opens a store in an empty folder, or again in a folder that it filled, for a digest of
            ``ALGORITHMS``.
        spoil: changes the bytes of a stored blob; None where a store has no file to change.
    """

    name: str
    open: Callable[[Path, str], AbstractAsyncContextManager[BlobStore]]
    spoil: Callable[[Path, str], None] | None = None


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of bytes by an algorithm of the stores."""
    return hashlib.new(
        algorithm.replace("-", "_") if algorithm == "sha3-256" else algorithm, data
    ).hexdigest()


def spoil_file(file: Path) -> None:
    """Change a byte of a file, and keep their number, as a bad disk would."""
    mode = file.stat().st_mode
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    file.chmod(mode)


def _directory(layout: str) -> Kind:
    """Return the kind of a directory in a layout."""

    @asynccontextmanager
    async def opened(place: Path, algorithm: str) -> AsyncIterator[BlobStore]:
        store = BlobDirectory(place, algorithm, layout, writable=True)
        try:
            yield store
        finally:
            await store.close()

    def spoil(place: Path, digest: str) -> None:
        spoil_file(place / digest if layout == "flat" else place / digest[:2] / digest)

    return Kind(f"directory-{layout}", opened, spoil)


KINDS = [_directory("prefix"), _directory("flat")]


def _in_memory(place: Path, algorithm: str) -> BlobsInMemory:
    """Return the memory of a folder, which keeps its blobs until it is opened again."""
    return _MEMORIES.setdefault((place, algorithm), BlobsInMemory(algorithm))


_MEMORIES: dict[tuple[Path, str], BlobsInMemory] = {}


@asynccontextmanager
async def _memory(place: Path, algorithm: str) -> AsyncIterator[BlobStore]:
    """Open a store in memory."""
    yield _in_memory(place, algorithm)


@asynccontextmanager
async def _union(place: Path, algorithm: str) -> AsyncIterator[BlobStore]:
    """Open a union of two stores in memory."""
    yield BlobUnion([_in_memory(place, algorithm), BlobsInMemory(algorithm)])


@asynccontextmanager
async def _mirror(place: Path, algorithm: str) -> AsyncIterator[BlobStore]:
    """Open a mirror without upstreams over a directory."""
    store = BlobDirectory(place, algorithm, "prefix", writable=True)
    mirror = MirrorStore(store, [], "mirror")
    try:
        yield mirror
    finally:
        await mirror.close()
        await store.close()


KINDS += [
    Kind("memory", _memory),
    Kind("union", _union),
    Kind("mirror", _mirror, lambda place, digest: spoil_file(place / digest[:2] / digest)),
]
