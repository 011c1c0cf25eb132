"""A server that is down behind a gateway or a balancer is unreachable, as one that refuses connections is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from shardcast.blobs.client.remote import RemoteStore, ServerKind
from shardcast.errors import (
    BadAnswer,
    NoServerReachable,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerUnreachable,
    TransferFailed,
)
from shardcast.nodes.client import Client
from shardcast.peer.failures import broken_error, refused_error, status_error
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from tests.support import bad_answers as bad
from tests.support.bad_servers import BadServer, Behaviour
from tests.support.published import Published, publish, random_bytes, sha256

MB = 1_000_000
SHARDS = "/v1/shard_*.bin"
NODE = {"Shardcast-Node": "5f0c"}

DOWN: dict[str, Callable[[], Behaviour]] = {
    "502": lambda: bad.error(502),
    "504": lambda: bad.error(504),
    "503 of a gateway": lambda: bad.error(503, retry_after=1),
    "closed": bad.closed,
    "reset": bad.reset,
    "broken in the status line": lambda: bad.broken_head(b"HTTP/1.1 20"),
    "broken in the head": lambda: bad.broken_head(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "broken between headers": lambda: bad.broken_head(b"HTTP/1.1 200 OK\r\nConnection: close\r\n"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(3 * MB), MB)


@pytest.mark.parametrize("way", DOWN)
async def test_server_down_behind_gateway_costs_no_attempts(
    way: str, published: Published, tmp_path: Path
) -> None:
    await _transfer(published, tmp_path / "got", bad.first(DOWN[way](), times=4))
    assert sha256(tmp_path / "got") == published.sha256


@pytest.mark.parametrize("way", ["502", "closed"])
async def test_wait_for_server_behind_gateway_is_bounded(
    way: str, published: Published, tmp_path: Path
) -> None:
    with pytest.raises(NoServerReachable, match="shard"):
        await _transfer(published, tmp_path / "got", DOWN[way](), unreachable=0.5)


async def test_wrong_answer_counts_as_failed_attempt(published: Published, tmp_path: Path) -> None:
    with pytest.raises(TransferFailed, match="1 failed answers"):
        await _transfer(published, tmp_path / "got", bad.first(bad.error(500)))


@pytest.mark.parametrize("path", ["/distribution.txt", "/v1/manifest.jsonl"])
@pytest.mark.parametrize("way", ["502", "closed"])
async def test_download_survives_server_restart_before_its_first_shard(
    way: str, path: str, published: Published, tmp_path: Path
) -> None:
    with BadServer(published.data_dir) as server:
        server.set(path, bad.first(DOWN[way](), times=2))
        async with Client([server.url]) as client:
            release = await client.download("v1", tmp_path / "got")
    assert sha256(release.path) == published.sha256


async def test_download_waits_for_unavailable_list(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir) as server:
        server.set("/distribution.txt", bad.first(bad.error(503, node="5f0c"), times=2))
        async with Client([server.url]) as client:
            release = await client.download("v1", tmp_path / "got")
    assert sha256(release.path) == published.sha256


async def test_unreachable_manifest_is_no_failed_answer(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir) as server:
        server.set("/v1/manifest.jsonl", bad.error(502))
        async with Client([server.url], limits=Limits(unreachable_at_start=0.3)) as client:
            with pytest.raises(NoServerReachable, match="no server describes it"):
                await client.download("v1", tmp_path / "got")


async def test_unavailable_manifest_does_not_make_a_node_an_old_one(
    published: Published, tmp_path: Path
) -> None:
    with BadServer(published.data_dir) as server:
        server.set("/v1/manifest.jsonl", bad.first(bad.error(503, node="5f0c"), times=2))
        async with Client([server.url]) as client:
            release = await client.download("v1", tmp_path / "got")
    assert release.manifest.raw, "it was put together from the sizes of shards"


@pytest.mark.parametrize("way", ["502", "503 of a gateway", "closed"])
async def test_store_down_behind_gateway_is_unreachable(way: str, published: Published) -> None:
    digest = "ab" * 32
    with BadServer(published.data_dir) as server:
        server.set("*", DOWN[way]())
        async with open_session() as session:
            with pytest.raises(ServerUnreachable):
                await RemoteStore(server.url, session).server_kind()
            with pytest.raises(ServerUnreachable):
                await Peer(server.url, session).report(b"{}")
            store = RemoteStore(server.url, session, "sha1")
            store._kind = ServerKind.SHARDS
            with pytest.raises(ServerUnreachable):
                await store.size(digest[:40])


def test_statuses_map_to_errors() -> None:
    said: dict[tuple[int, bool], type[PeerError]] = {
        (502, False): ServerUnreachable,
        (502, True): ServerUnreachable,
        (503, False): ServerUnreachable,
        (503, True): ServerBusy,
        (504, False): ServerUnreachable,
        (504, True): ServerUnreachable,
        (404, False): ServerLacks,
        (412, True): ServerLacks,
        (500, False): BadAnswer,
        (302, False): BadAnswer,
        (200, True): BadAnswer,
    }
    for (status, node), kind in said.items():
        error = status_error("http://one", "GET /v1", status, NODE if node else {}, reason="Why")
        assert type(error) is kind, (status, node)
        assert error.what.startswith(f"GET /v1: the answer is {status} Why")
    for reason in ("Why" * 1000, "\x1b" * 1000):
        error = status_error("http://one", "GET /v1", 502, {}, reason=reason)
        assert error.what.endswith("…, of what stands before the server"), "the reason hides it"
    assert type(refused_error("http://one", "PUT /ab", 503, NODE)) is BadAnswer
    assert type(refused_error("http://one", "PUT /ab", 503, {})) is ServerUnreachable
    assert type(broken_error("http://one", "GET /v1", answered=False)) is ServerUnreachable
    assert type(broken_error("http://one", "GET /v1", answered=True)) is BadAnswer


async def _transfer(
    published: Published, output: Path, behaviour: Behaviour, unreachable: float = 60.0
) -> None:
    """Fetch from a server whose second shard is answered so, with a single attempt at it."""
    limits = Limits(attempts=1, at_once=1, unreachable_once_begun=unreachable)
    filling = OutputFile(output, LiveManifest.of(published.manifest))

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 20)

    try:
        with BadServer(published.data_dir) as server:
            server.set("/v1/shard_002.bin", behaviour)
            async with open_session() as session:
                peers = [Peer(server.url, session)]
                live = LiveManifest.of(published.manifest)
                vain = Transfer(live, peers, filling, limits=limits, random=Random(1), sleep=sleep)
                await asyncio.wait_for(vain.run(), 30)
    finally:
        filling.close()
