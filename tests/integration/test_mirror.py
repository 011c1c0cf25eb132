"""Mirrors: what isn't here comes from others, once, and nothing wrong does, whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from shardcast.blobs.client.remote import RemoteStore, ServerKind
from shardcast.blobs.framing import Part, parse_pull, write_pull
from shardcast.blobs.mirror import absence_cache, fetch_table
from shardcast.blobs.mirror.mirror_store import MirrorStore
from shardcast.blobs.server.shards import add_digest_routes
from shardcast.errors import BlobMissing, PeerError
from shardcast.peer.session import Session, open_session
from shardcast.server.application import application, serve
from tests.support.archives import (
    http,
    parse_answer,
    pull_body,
    push_body,
    put_blobs,
    running_archive,
    wait_until,
)
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import random_bytes, sha256

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with open_session(timeout=2) as opened:
        yield opened


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with http() as opened:
        yield opened


@dataclass
class Upstream:
    """A server that does what a test says, and counts what it was asked."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    pulls: list[list[str]] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    vias: list[str] = field(default_factory=list)
    answer: Answering | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def pull(self, request: web.Request) -> web.StreamResponse:
        keys = [key for key, _ in parse_pull(await request.read())]
        if keys != [sha256(b"")]:  # which only asks what it speaks
            self.pulls.append(keys)
            self.vias.append(request.headers.get("Shardcast-Via", ""))
            await self.gate.wait()
            if self.answer:
                return await self.answer(request)
        found = {key: self.blobs[key] for key in keys if key in self.blobs}
        return web.Response(body=b"".join(bytes.fromhex(key) + blob for key, blob in found.items()))

    async def get(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        self.gets.append(key)
        await self.gate.wait()
        if self.answer:
            return await self.answer(request)
        if key not in self.blobs:
            raise web.HTTPNotFound
        return web.Response(body=self.blobs[key])


@contextlib.asynccontextmanager
async def upstream(
    *blobs: bytes, answer: Answering | None = None, pulls: bool = True
) -> AsyncIterator[Upstream]:
    there = Upstream({sha256(blob): blob for blob in blobs}, answer=answer)
    there.gate.set()

    def doors(app: web.Application) -> None:
        if pulls:
            app.router.add_post("/v1/pull", there.pull)
        app.router.add_get("/{key:[0-9a-f]{64}}", there.get)

    async with serve(application("upstream", doors), "127.0.0.1", 0) as there.url:
        yield there


async def ask(client: aiohttp.ClientSession, url: str, *blobs: bytes) -> dict[str, bytes]:
    """What an archive answers to a pull of these."""
    async with client.post(f"{url}/v1/pull", data=pull_body(blobs)) as answer:
        assert answer.status == 200
        lengths = {sha256(blob): len(blob) for blob in blobs}
        return dict(parse_answer(await answer.read(), lengths))


def keyed(*blobs: bytes) -> dict[str, bytes]:
    return {sha256(blob): blob for blob in blobs}


async def test_missing_blobs_are_fetched_in_batches_and_kept(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    blobs = [b"%d" % number for number in range(1280)]
    local = BlobsInMemory()
    await put_blobs(local, *blobs[:100])
    async with upstream(*blobs[:1000]) as there, running_archive(tmp_path, local, mirror=[there.url]) as node:
        for _ in range(2):  # the second time nothing is asked: the rest is known to be nowhere
            assert await ask(client, node.url, *blobs) == keyed(*blobs[:1000])
        assert len(there.pulls) == 1
        assert sorted(there.pulls[0]) == sorted(sha256(blob) for blob in blobs[100:])
        assert node.mirror
        async with client.get(f"{node.url}/status") as answer:
            status = await answer.json()
        assert (status["hits"], status["mirror"]["fetched"], status["mirror"]["lacking"]) == (1100, 900, 560)
    assert await local.size(sha256(blobs[999])) == 3


async def test_single_blob_is_fetched_by_get(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    blob = random_bytes(3_000_000)
    async with upstream(blob) as there, running_archive(tmp_path, mirror=[there.url]) as node:
        for _ in range(2):
            async with client.get(f"{node.url}/{sha256(blob)}") as answer:
                assert (answer.status, await answer.read()) == (200, blob)
            async with client.get(f"{node.url}/{sha256(b'nowhere')}") as answer:
                assert answer.status == 404
        assert there.gets == [sha256(blob), sha256(b"nowhere")]


async def test_concurrent_requests_share_one_fetch(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    blob = random_bytes(100_000)
    async with upstream(blob) as there, running_archive(tmp_path, mirror=[there.url]) as node:
        there.gate.clear()
        pulls = [asyncio.ensure_future(ask(client, node.url, blob, b"lacking")) for _ in range(10)]
        gone = asyncio.ensure_future(ask(client, node.url, blob))
        assert node.mirror
        counts = node.mirror.counts
        await wait_until(lambda: counts.joined == 19)
        gone.cancel()  # who goes away takes nothing from the others
        there.gate.set()
        assert await asyncio.gather(*pulls) == [keyed(blob)] * 10
        assert [sorted(keys) for keys in there.pulls] == [sorted(keyed(blob, b"lacking"))]
        there.gate.clear()
        gets = [asyncio.ensure_future(_get(client, f"{node.url}/{sha256(b'x')}")) for _ in range(5)]
        await wait_until(lambda: counts.joined == 23)
        there.gate.set()
        assert await asyncio.gather(*gets) == [404] * 5
        assert there.gets == [sha256(b"x")]


async def _get(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(url) as answer:
        return answer.status


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def test_missing_blob_is_remembered_for_a_while(session: Session) -> None:
    clock, blob, local = Clock(), b"late", BlobsInMemory()
    async with upstream() as there:
        store = MirrorStore(local, [RemoteStore(there.url, session)], "me", clock, absence_seconds=30)
        for _ in range(2):
            assert not await store.fetch_one(sha256(blob))
            assert [key async for key in store.fetch({sha256(blob): 4})] == []
            clock.now = 29.0
        assert (len(there.gets), len(there.pulls)) == (1, 1)
        there.blobs = keyed(blob)
        clock.now = 31.0
        assert [key async for key in store.fetch({sha256(blob): 4})] == [sha256(blob)]
        assert await store.size(sha256(blob)) == 4
        await store.close()


async def test_memory_of_missing_blobs_is_bounded(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence_cache, "_MAX_ENTRIES", 10)
    async with upstream() as there:
        store = MirrorStore(BlobsInMemory(), [RemoteStore(there.url, session)], "me")
        for number in range(30):
            assert not await store.fetch_one(sha256(b"%d" % number))
        assert len(store._pending._absent) == 10
        assert len(store._pending) == 0


def lying(*frames: tuple[str, bytes], endless: bool = False) -> Answering:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for key, data in frames:
                await response.write(bytes.fromhex(key) + data)
            while endless:
                await response.write(bytes(1 << 16))
            await response.write_eof()
        return response

    return answer


RIGHT, WRONG = b"right", b"wrong"
KEY = sha256(RIGHT)


@pytest.mark.parametrize(
    "answer",
    [
        lying((KEY, WRONG)),
        lying((KEY, RIGHT[:-1])),
        lying((KEY, RIGHT + b"more")),
        lying((sha256(b"unasked"), b"unasked")),
        lying((KEY, WRONG), endless=True),
        lying(endless=True),
    ],
    ids=["wrong", "short", "long", "unasked", "endless", "endless zeros"],
)
async def test_server_with_wrong_answers_is_not_believed(
    tmp_path: Path, client: aiohttp.ClientSession, answer: Answering
) -> None:
    local = BlobsInMemory()
    async with upstream(answer=answer) as liar, upstream(RIGHT) as honest:
        async with running_archive(tmp_path / "a", local, mirror=[liar.url]) as node:
            found = await asyncio.wait_for(ask(client, node.url, RIGHT), 20)
            assert found in ({}, keyed(RIGHT))  # the right one may have come before the lie
            assert await _get(client, f"{node.url}/{sha256(b'another')}") == 503
        async with running_archive(tmp_path / "b", BlobsInMemory(), mirror=[liar.url, honest.url]) as node:
            assert await ask(client, node.url, RIGHT) == keyed(RIGHT)
    assert {key async for key in local.digests()} <= {KEY}


@pytest.mark.parametrize("pulls", [True, False])
async def test_wrong_blob_does_not_fail_the_others(
    tmp_path: Path, client: aiohttp.ClientSession, pulls: bool
) -> None:
    """As it lies damaged in an archive that doesn't look."""
    blobs = [b"%d" % number * 10 for number in range(100)]
    async with upstream(*blobs, pulls=pulls) as there, running_archive(tmp_path, mirror=[there.url]) as node:
        for wrong in (10, 20):
            there.blobs[sha256(blobs[wrong])] = b"x" * 20
        assert await ask(client, node.url, *blobs) == keyed(*blobs[:10], *blobs[11:20], *blobs[21:])
        lies = [b"another " + blob for blob in blobs]
        there.blobs |= {sha256(blob): bytes(len(blob)) for blob in lies}
        before = len(there.pulls) + len(there.gets)
        assert await ask(client, node.url, *lies) == {}
        assert len(there.pulls) + len(there.gets) - before < 50  # who has nothing right isn't asked for all


async def test_lying_endless_or_silent_get_is_not_believed(session: Session) -> None:
    async def wrong(request: web.Request) -> web.StreamResponse:
        return web.Response(body=WRONG)

    async def too_long(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(1 << 50)})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(1 << 16))
        return response

    async def cant_say(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    for answer in (wrong, too_long, cant_say, lying(endless=True)):
        async with upstream(answer=answer) as liar:
            local = BlobsInMemory()
            store = MirrorStore(local, [RemoteStore(liar.url, session, max_size=1 << 20)], "me")
            with pytest.raises(PeerError):
                await store.fetch_one(KEY)
            assert [key async for key in local.digests()] == []
            await store.close()


async def test_dead_or_stalled_server_is_avoided_for_a_while(session: Session, unused_tcp_port: int) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes.fromhex(KEY) + RIGHT[:1])
        await asyncio.sleep(2)
        return response

    clock = Clock()
    async with upstream(answer=stall) as stalling, upstream(RIGHT, b"other") as honest:
        dead = f"http://127.0.0.1:{unused_tcp_port}"
        servers = [RemoteStore(url, session, timeout=0.5) for url in (dead, stalling.url, honest.url)]
        store = MirrorStore(BlobsInMemory(), servers, "me", clock)
        for blob in (RIGHT, b"other"):
            assert [key async for key in store.fetch({sha256(blob): 5})] == [sha256(blob)]
        assert len(stalling.pulls) == 1
        assert store.counts.failures == 2
        with pytest.raises(PeerError):  # not everybody could be asked, so it isn't known that nobody has it
            await store.fetch_one(sha256(b"nowhere"))
        clock.now = 60.0
        assert [key async for key in store.fetch({sha256(b"nowhere"): 7})] == []
        assert len(stalling.pulls) == 2
        await store.close()


async def test_mirrors_of_each_other_do_not_loop(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    """Three in a ring, and each is asked at once: none knows, and all say so before long."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running_archive(tmp_path / str(n), mirror=["127.0.0.1:1"]))
            for n in range(3)
        ]
        session = await stack.enter_async_context(open_session())
        for number, node in enumerate(nodes):
            assert node.mirror
            node.mirror._pending._fetcher._servers = (RemoteStore(nodes[(number + 1) % 3].url, session),)
        begun = asyncio.get_running_loop().time()
        asked = [ask(client, node.url, b"nowhere") for node in nodes for _ in range(3)]
        assert await asyncio.wait_for(asyncio.gather(*asked), 20) == [{}] * 9
        got = [_get(client, f"{node.url}/{sha256(b'nor here')}") for node in nodes]
        assert set(await asyncio.wait_for(asyncio.gather(*got), 20)) <= {404, 503}
        assert asyncio.get_running_loop().time() - begun < 15


async def test_mirrors_can_be_chained(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with (
        upstream(RIGHT) as there,
        running_archive(tmp_path / "a", mirror=[there.url]) as first,
        running_archive(tmp_path / "b", mirror=[first.url]) as second,
    ):
        assert await ask(client, second.url, RIGHT, b"nowhere") == keyed(RIGHT)
        assert there.vias[0].count(",") == 1  # both are named


async def test_via_of_one_client_hides_no_blob_from_others(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    """Anybody can name the nodes that are not to be asked: that must not hide a blob from anybody else."""
    async with (
        upstream(RIGHT, WRONG) as there,
        running_archive(tmp_path / "a", mirror=[there.url]) as first,
        running_archive(tmp_path / "b", mirror=[first.url]) as second,
    ):
        async with client.get(f"{first.url}/status") as answer:
            name = (await answer.json())["node"]
        via = {"Shardcast-Via": f"elsewhere, {name}"}
        for _ in range(2):
            async with client.get(f"{second.url}/{sha256(WRONG)}", headers=via) as answer:
                assert answer.status == 404
            async with client.post(f"{second.url}/v1/pull", data=pull_body([RIGHT]), headers=via) as answer:
                assert await answer.read() == b""
        assert there.pulls == there.gets == []
        assert await ask(client, second.url, RIGHT) == keyed(RIGHT)
        assert await _get(client, f"{second.url}/{sha256(WRONG)}") == 200


async def test_request_joining_a_shorter_fetch_asks_again(session: Session) -> None:
    async with upstream(RIGHT, WRONG) as there:
        there.gate.clear()
        store = MirrorStore(BlobsInMemory(), [RemoteStore(there.url, session)], "me")
        blobs, there.blobs = there.blobs, {}
        wanted = {KEY: 5, sha256(WRONG): 5}

        async def fetch(*via: str) -> set[str]:
            return {key async for key in store.fetch(wanted, via)}

        less_far = asyncio.ensure_future(fetch("another"))
        await wait_until(lambda: there.pulls)
        further = asyncio.ensure_future(fetch())
        await asyncio.sleep(0)
        assert store.counts.joined == 2  # what comes is for both
        there.gate.set()
        assert await less_far == set()
        there.blobs = blobs
        assert await further == set(wanted)
        assert len(there.pulls) == 2
        await store.close()


async def test_blob_over_the_limit_is_not_fetched(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    blobs = bytes(1000), bytes(1001)
    async with (
        upstream(*blobs) as there,
        running_archive(tmp_path, mirror=[there.url], max_blob=1000) as node,
    ):
        assert await ask(client, node.url, *blobs) == keyed(blobs[0])
        async with client.post(f"{node.url}/v1/pull", data=write_pull([(KEY, 2**64 - 1)])) as answer:
            assert await answer.read() == b""
        assert there.pulls == [[sha256(blobs[0])]]
        assert await _get(client, f"{node.url}/{sha256(blobs[1])}") == 503


async def test_pushes_are_not_forwarded(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with upstream() as there, running_archive(tmp_path, mirror=[there.url]) as node:
        async with client.post(f"{node.push_url}/v1/push", data=push_body([RIGHT])) as answer:
            assert answer.status == 200
        assert (there.pulls, there.gets) == ([], [])


# What servers speak


async def test_protocol_of_server_is_detected(tmp_path: Path, session: Session) -> None:
    blob = random_bytes(200_000)
    async with running_archive(tmp_path) as node:
        assert node.push_url
        remote = RemoteStore(node.push_url, session)
        assert await remote.server_kind() == ServerKind.ARCHIVE
        assert await put_blobs(remote, blob, b"") == [sha256(blob), sha256(b"")]
        assert (await remote.size(sha256(blob)), await remote.size(KEY)) == (len(blob), None)
        async with remote.open(sha256(blob)) as reader:
            assert (reader.size, await reader.read(1000)) == (len(blob), blob[:1000])
        with pytest.raises(BlobMissing):
            async with remote.open(KEY):
                pass
        with pytest.raises(PeerError, match="authorized port"):
            await put_blobs(RemoteStore(node.url, session), b"elsewhere")
    shards = BlobsInMemory()
    await put_blobs(shards, RIGHT)
    app = application("node", lambda app: add_digest_routes(app, shards))
    async with serve(app, "127.0.0.1", 0) as url:
        remote = RemoteStore(url, session)
        assert await remote.server_kind() == ServerKind.SHARDS
        store = MirrorStore(BlobsInMemory(), [remote], "me")
        wanted = {sha256(RIGHT): 5, sha256(WRONG): 5}
        assert [key async for key in store.fetch(wanted)] == [sha256(RIGHT)]
        await store.close()


async def test_promised_blob_is_not_requested_from_hash_server(session: Session) -> None:
    there, waited, put = keyed(RIGHT), list[str](), dict[str, bytes]()

    async def has_now(request: web.Request) -> web.Response:
        return web.json_response([key in there for key in json.loads(await request.read())])

    async def length(request: web.Request) -> web.Response:
        return web.json_response([len(there.get(key, b"")) for key in json.loads(await request.read())])

    async def get(request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if key not in there:
            waited.append(key)
        return web.Response(body=there[key])

    async def take(request: web.Request) -> web.Response:
        put[request.match_info["key"]] = await request.read()
        return web.Response(text="OK")

    def doors(app: web.Application) -> None:
        app.router.add_get("/has-now", has_now)
        app.router.add_get("/buffer-length", length)
        app.router.add_get("/{key:[0-9a-f]{64}}", get)
        app.router.add_put("/{key:[0-9a-f]{64}}", take)

    async with serve(application("hashes", doors), "127.0.0.1", 0) as url:
        remote = RemoteStore(url, session)
        assert await remote.server_kind() == ServerKind.HASH_SERVER
        store = MirrorStore(BlobsInMemory(), [remote], "me")
        assert [key async for key in store.fetch({KEY: 5, sha256(WRONG): 5})] == [KEY]
        assert not await store.fetch_one(sha256(WRONG))
        assert (await remote.size(KEY), await remote.size(sha256(WRONG))) == (5, None)
        await put_blobs(remote, WRONG)
        assert put == keyed(WRONG)
        await store.close()
    assert waited == []


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[true", b"9" * 5000, b"{}", b"[1, 2]", b"null", b"\xff"])
async def test_hash_server_with_malformed_lists_is_not_believed(session: Session, body: bytes) -> None:
    asked = list[bytes]()

    async def has_now(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return web.Response(body=b"[false]" if len(asked) == 1 else body)

    def doors(app: web.Application) -> None:
        app.router.add_get("/has-now", has_now)

    async with serve(application("liar", doors), "127.0.0.1", 0) as url:
        remote = RemoteStore(url, session)
        assert await remote.server_kind() == ServerKind.HASH_SERVER
        with pytest.raises(PeerError):
            await remote.size(KEY)


class Slow:
    """A server that has everything, and sends it when it may."""

    url, node_id = "http://slow", None

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.gate = asyncio.Event()

    async def takes_pulls(self) -> bool:
        return True

    async def fetch(
        self, wanted: Mapping[str, int | None], via: Sequence[str]
    ) -> AsyncGenerator[list[Part], None]:
        self.asked.append(tuple(via))
        for key in wanted:
            yield [Part(key, 5, memoryview(RIGHT[:2]), last=False)]
            await self.gate.wait()
            yield [Part(key, 5, memoryview(RIGHT[2:]), last=True)]


async def test_running_fetch_is_awaited_by_forwarded_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch_table, "_START_WAIT", 0.05)
    server = Slow()
    store = MirrorStore(BlobsInMemory(), [server], "me")
    first = asyncio.ensure_future(store.fetch_one(KEY))
    await wait_until(lambda: server.asked)
    second = asyncio.ensure_future(store.fetch_one(KEY, ["another"]))
    await asyncio.sleep(0.2)
    server.gate.set()
    assert await asyncio.gather(first, second) == [True, True]
    assert server.asked == [("me",)]
    await store.close()
