"""Hashing for those who ask: once for all of them, in threads of its own, and not for those who hung up."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from shardcast.blobs import version_blobs as versions
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.directory.hashing import HASHING_THREADS, HashingPool
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.blobs.span_reader import SpanReader
from shardcast.nodes.origin import Origin
from tests.support.blob_stores import digest_of
from tests.support.published import random_bytes

SHARD = 100_000
SHARDS = HASHING_THREADS + 8


class Hashed:
    """Holds back whoever hashes, and counts.

    Attributes:
        bytes: how many were hashed.
        begun: how many portions were begun.
        ended: how many of them were hashed.
    """

    def __init__(self) -> None:
        self.bytes = self.begun = self.ended = 0
        self._lock = threading.Lock()
        self.go_on = threading.Event()

    def take(self, portion: Callable[[], int]) -> int:
        with self._lock:
            self.begun += 1
        assert self.go_on.wait(60)
        taken = portion()
        with self._lock:
            self.bytes += taken
            self.ended += 1
        return taken


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hashed]:
    held = Hashed()
    of_shard, of_blob = SpanReader.hash_into, BlobFile.read
    monkeypatch.setattr(versions, "PORTION", SHARD // 2)
    monkeypatch.setattr(SpanReader, "hash_into", lambda *words: held.take(lambda: of_shard(*words)))
    monkeypatch.setattr(BlobFile, "read", lambda *words: held.take(lambda: of_blob(*words)))
    yield held
    held.go_on.set()


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[tuple[Origin, list[str]]]:
    """An origin, and the digests of its shards."""
    payload = tmp_path / "payload"
    payload.write_bytes(random_bytes(SHARDS * SHARD))
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0, shard_size=SHARD) as running:
        await (await running.publish(payload)).result()
        data = payload.read_bytes()
        parts = (data[start : start + SHARD] for start in range(0, len(data), SHARD))
        yield running, [hashlib.sha256(part).hexdigest() for part in parts]


async def asking(url: str, digest: str, method: str = "HEAD") -> asyncio.StreamWriter:
    """Begin a request for a blob; the answer is left where it is."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} /{digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    await writer.drain()
    return writer


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), 30)


async def heads(url: str, digests: list[str]) -> list[int]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def head(digest: str) -> int:
            async with session.head(f"{url}/{digest}") as answer:
                return answer.status

        return await asyncio.gather(*(head(digest) for digest in digests))


async def test_shard_is_hashed_once_for_concurrent_requests(
    origin: tuple[Origin, list[str]], hashed: Hashed, waiting: list[int]
) -> None:
    node, digests = origin
    answers = asyncio.ensure_future(heads(node.url, digests[:1] * 50))
    await until(lambda: sum(waiting) == 50)
    hashed.go_on.set()
    assert await answers == [200] * 50
    assert hashed.bytes == SHARD


async def test_hashing_leaves_threads_for_broadcast(
    origin: tuple[Origin, list[str]], hashed: Hashed, tmp_path: Path, waiting: list[int]
) -> None:
    node, digests = origin
    answers = asyncio.ensure_future(heads(node.url, digests))
    await until(lambda: sum(waiting) == SHARDS)
    small = tmp_path / "small"
    small.write_bytes(b"small")
    publishing = await node.publish(small)
    await asyncio.wait_for(publishing.result(), 20)
    assert not answers.done()
    assert hashed.begun == HASHING_THREADS
    hashed.go_on.set()
    assert await answers == [200] * SHARDS


async def test_hashing_of_shard_stops_when_all_clients_disconnect(
    origin: tuple[Origin, list[str]], hashed: Hashed, waiting: list[int]
) -> None:
    node, digests = origin
    clients = [await asking(node.url, digest) for digest in digests for _ in range(3)]
    await until(lambda: sum(waiting) == len(clients) and hashed.begun == HASHING_THREADS)
    for client in clients:
        client.close()
    await until(lambda: sum(waiting) == 0)
    hashed.go_on.set()
    assert await heads(node.url, digests[:1]) == [200]
    await until(lambda: hashed.ended == hashed.begun)  # a thread may outlast the answer on a busy machine
    assert hashed.bytes == HASHING_THREADS * SHARD // 2 + SHARD  # the portions that were under way


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT"])
async def test_hashing_of_blob_stops_when_all_clients_disconnect(
    tmp_path: Path, hashed: Hashed, waiting: list[int], method: str
) -> None:
    blobs = [random_bytes(SHARD, seed) for seed in range(SHARDS)]
    for blob in blobs:
        file = tmp_path / digest_of(blob)[:2] / digest_of(blob)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(blob)
    async with StoreServer.running(StoreSettings(tmp_path, writable=True)) as server:
        clients = [await asking(server.url, digest_of(blob), method) for blob in blobs]
        await until(lambda: sum(waiting) == SHARDS and hashed.begun == HASHING_THREADS)
        for client in clients:
            client.close()
        await until(lambda: sum(waiting) == 0)
        hashed.go_on.set()
        last = digest_of(blobs[-1])  # the first ones may still be hashed, and this joins what is
        assert await heads(server.url, [last]) == [200]
    assert hashed.bytes == HASHING_THREADS * SHARD + SHARD


async def test_reading_small_blobs_leaves_threads_for_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: Hashed
) -> None:
    """As a pull from an archive does, with hundreds of small blobs."""
    digest = digest_of(b"small")
    file = tmp_path / digest[:2] / digest
    file.parent.mkdir()
    file.write_bytes(b"small")
    small = BlobFile.read_small

    def held(blob: BlobFile, most: int) -> bytes | None:
        hashed.take(lambda: 0)
        return small(blob, most)

    monkeypatch.setattr(BlobFile, "read_small", held)
    store = BlobDirectory(tmp_path)
    reading = [asyncio.ensure_future(store.read_small([digest], 5)) for _ in range(50)]
    await until(lambda: hashed.begun == HASHING_THREADS)
    assert await asyncio.wait_for(asyncio.to_thread(len, "of another"), 20) == 10
    hashed.go_on.set()
    assert await asyncio.gather(*reading) == [{digest: b"small"}] * 50


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts up when a request begins to wait for hashing, and down when it ends."""
    changes: list[int] = []
    once = HashingPool.run_shared

    async def count(self: HashingPool, key: object, begin: Callable[[], asyncio.Future[object]]) -> object:
        waits = asyncio.ensure_future(once(self, key, begin))
        changes.append(1)
        try:
            return await waits
        except asyncio.CancelledError:
            waits.cancel()
            raise
        finally:
            changes.append(-1)

    monkeypatch.setattr(HashingPool, "run_shared", count)
    return changes
