"""A server that never ends the head of an answer, beside an honest one, keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest

from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.copy import open_repair
from shardcast.blobs.mirror.mirror_store import MirrorStore
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.peer.session import open_session
from tests.support import bad_answers as bad
from tests.support.archives import put_blobs, running_archive
from tests.support.bad_servers import BadServer, Behaviour, Exchange
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import sha256
from tests.support.published import Published, publish, random_bytes
from tests.support.slow_servers import WAYS, Reply, SlowServer

T = TypeVar("T")

SOON = 15.0
"""Seconds; the time for one head is 30, and what is slow here would go on for ever."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One shard: nothing else brings the news that a server is slow."""
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(300_000), 1_000_000)


def trickles_the_head() -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.close()
        await WAYS["trickles the head"](exchange.send, Reply())

    return behave


async def soon(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, SOON)


@asynccontextmanager
async def nodes_below(urls: list[str], folder: Path) -> AsyncIterator[tuple[Middle, Client]]:
    async with (
        Middle.running(urls, folder / "middle", "127.0.0.1", 0) as middle,
        Client(urls, output_dir=folder / "followed") as client,
    ):
        yield middle, client


async def first_release(client: Client) -> str:
    async for release in client.follow():
        return sha256(release.path.read_bytes())
    raise AssertionError


async def has_v1(middle: Middle) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{middle.url}/distribution.txt") as answer:
                if "v1:" in await answer.text():
                    return
            await asyncio.sleep(0.05)


async def is_seen(origin: Origin) -> None:
    """A middle that has the version is told of in the origin's status."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{origin.url}/status") as answer:
                if any(one["role"] == "middle" and one["has"] for one in (await answer.json())["below"]):
                    return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("slow", ["*", "/v1/manifest.jsonl", "/v1/shard_001.bin"])
async def test_slow_first_server_does_not_delay_a_fast_second(
    slow: str, published: Published, tmp_path: Path
) -> None:
    with BadServer(published.data_dir).set(slow, trickles_the_head()) as slow_one:
        async with Origin.running(published.data_dir, "127.0.0.1", 0) as origin:
            urls = [slow_one.url, origin.url]
            async with Client(urls) as client, nodes_below(urls, tmp_path) as (middle, follower):
                release, offered, followed, _, _ = await asyncio.gather(
                    soon(client.download("v1", tmp_path / "got")),
                    soon(client.offered()),
                    soon(first_release(follower)),
                    soon(has_v1(middle)),
                    soon(is_seen(origin)),
                )
    assert sha256(release.path.read_bytes()) == followed == published.sha256
    assert [one.listing.version for one in offered] == ["v1"]
    assert offered[0].header


async def test_mirror_asks_next_archive_when_one_stalls(tmp_path: Path) -> None:
    blobs = BlobsInMemory()
    key, other = await put_blobs(blobs, b"Hello!", b"more")
    slow_one = SlowServer(WAYS["trickles the head"], "/", Reply())
    async with slow_one, running_archive(tmp_path / "own", blobs) as node, open_session() as session:
        servers = [RemoteStore(url, session) for url in (slow_one.url, node.url)]
        mirror = MirrorStore(BlobsInMemory(), servers, "me", patience=0.2)
        assert await soon(anext(mirror.fetch({key: 6}))) == key
        while mirror._pending._tasks:  # the blob is here before the question has ended
            await asyncio.sleep(0.01)
        asked = slow_one.slow_requests
        async with mirror.open(other) as reader:
            assert await soon(reader.read(10)) == b"more"
        assert slow_one.slow_requests == asked, "it is left alone for a while"
        await mirror.close()


async def test_repair_asks_next_server_when_one_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardcast.blobs.copy.STALL_WHEN_OTHERS_CAN", 0.2)
    blobs, repaired = BlobsInMemory(), BlobsInMemory()
    (key,) = await put_blobs(blobs, b"Hello!")
    slow_one = SlowServer(WAYS["trickles the head"], "/", Reply())
    async with (
        slow_one,
        running_archive(tmp_path / "own", blobs) as node,
        open_repair([slow_one.url, node.url], "sha256", lambda: repaired) as repair,
    ):
        assert repair
        assert await soon(repair(key)) == node.url
    assert await repaired.size(key) == 6


async def test_shard_sizes_are_asked_from_next_old_server_when_one_stalls(
    published: Published, tmp_path: Path
) -> None:
    """Nodes of 0.1.0 have no manifests; the sizes of their shards are asked one by one."""
    lost = bad.error(404)
    with (
        BadServer(published.data_dir).set("*", trickles_the_head()) as slow_one,
        BadServer(published.data_dir).set("*.jsonl", lost) as old,
    ):
        slow_one.set("/distribution.txt", bad.good()).set("/feed*", lost)
        async with Client([slow_one.url, old.url]) as client:
            release = await soon(client.download("v1", tmp_path / "got"))
    assert sha256(release.path.read_bytes()) == published.sha256
