"""Archives in this process, on real ports, and requests to them byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from shardcast.blobs.framing import write_length, write_pull
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.errors import BlobCorrupt
from tests.support.memory_store import BlobsInMemory, BytesReader
from tests.support.payloads import sha256


@asynccontextmanager
async def running_archive(
    own: Path, store: BlobStore | None = None, **settings: Any
) -> AsyncIterator[ArchiveNode]:
    """Run an archive on free ports of 127.0.0.1.

    Args:
        own: folder for the archive's own files.
        store: the blobs; a store in memory where it is None.
        **settings: further settings of ``ArchiveNode.running``.
    """
    running: dict[str, Any] = {"authorized_port": 0, "host": "127.0.0.1", "port": 0} | settings
    blobs = BlobsInMemory() if store is None else store

    @asynccontextmanager
    async def stage() -> AsyncIterator[_InMemory]:
        yield _InMemory(blobs)

    async with ArchiveNode.running(blobs, stage, own, **running) as node:
        yield node


class _InMemory:
    """Stage of a push into a store that is not a directory."""

    def __init__(self, store: BlobStore) -> None:
        self.blobs = BlobsInMemory()
        self._store = store

    async def publish(self) -> AsyncGenerator[list[str], None]:
        """Store the pushed blobs, and yield their keys."""
        async for key in self.blobs.digests():
            found = await self.blobs.read_small([key], self.blobs.max_bytes)
            await put_blobs(self._store, found[key])
            yield [key]


class CorruptAtEnd(BlobsInMemory):
    """Store in memory whose blobs turn out to be damaged at their last byte."""

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[BytesReader]:
        """Open a blob whose last read raises ``BlobCorrupt``."""
        async with super().open(digest) as reader:
            read, left = reader.read, reader.size

            async def fail_at_the_end(max_bytes: int) -> bytes:
                nonlocal left
                data = await read(max_bytes)
                left -= len(data)
                if not left:
                    raise BlobCorrupt("it was changed")
                return data

            reader.read = fail_at_the_end  # type: ignore[method-assign]
            yield reader


@asynccontextmanager
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that neither decodes answers nor waits longer than 60 s."""
    timeout = aiohttp.ClientTimeout(total=60)
    as_it_is = {"Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(timeout=timeout, headers=as_it_is) as session:
        yield session


async def put_blobs(store: BlobStore, *blobs: bytes) -> list[str]:
    """Store blobs, and return their digests."""
    for blob in blobs:
        async with store.put() as writer:
            await writer.write(blob)
            await writer.commit()
    return [sha256(blob) for blob in blobs]


def push_body(blobs: Iterable[bytes]) -> bytes:
    """Return the body of a push."""
    return b"".join(write_length(len(blob)) + blob for blob in blobs)


def pull_body(blobs: Iterable[bytes]) -> bytes:
    """Return the body of a pull."""
    return write_pull((sha256(blob), len(blob)) for blob in blobs)


def parse_answer(body: bytes, lengths: dict[str, int]) -> list[tuple[str, bytes]]:
    """Read an answer to a pull as a client of Casa does, and return keys and blobs."""
    found, position = [], 0
    while position < len(body):
        key = body[position : position + 32].hex()
        end = position + 32 + lengths[key]
        found.append((key, body[position + 32 : end]))
        assert sha256(found[-1][1]) == key
        position = end
    return found


async def wait_until(condition: Any, seconds: float = 30) -> None:
    """Wait until ``condition()`` is true, at most ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.01)
