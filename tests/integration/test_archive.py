"""The archive: what Casa's clients are answered, to the bit, and what none of them can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardcast.blobs import framing
from shardcast.blobs.access_stats import AccessStats
from shardcast.blobs.server.archive_routes import pulls
from shardcast.blobs.server.archive_routes.pages import iso, preview
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.errors import BlobCorrupt
from shardcast.server import bodies, writing
from shardcast.server.bounds import Bounds
from tests.support.archives import http, parse_answer, pull_body, push_body, put_blobs, running_archive
from tests.support.memory_store import BlobsInMemory, BytesReader
from tests.support.payloads import random_bytes, sha256
from tests.unit.blobs.test_framing import HELLO, PULL, PUSH, WORLD

EMPTY = sha256(b"")


@pytest.fixture
async def store() -> BlobsInMemory:
    return BlobsInMemory()


@pytest.fixture
async def node(tmp_path: Path, store: BlobsInMemory) -> AsyncIterator[ArchiveNode]:
    async with running_archive(tmp_path, store) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with http() as opened:
        yield opened


# Casa's own vectors


async def test_casa_client_pushes_and_pulls(node: ArchiveNode, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{node.push_url}/v1/push", data=PUSH) as answer:
        assert (answer.status, answer.content_type, await answer.read()) == (
            200,
            "application/octet-stream",
            b"",
        )
    async with session.post(f"{node.url}/v1/pull", data=PULL) as answer:
        assert (answer.status, answer.content_type) == (200, "application/octet-stream")
        assert answer.content_length is None  # it is streamed
        body = await answer.read()
    assert dict(parse_answer(body, {HELLO: 6, WORLD: 6})) == {HELLO: b"Hello!", WORLD: b"World!"}
    for path in (f"/{HELLO}", f"/{HELLO.upper()}", f"/{HELLO}.txt", f"/{HELLO}00"):
        async with session.get(node.url + path) as answer:
            assert (answer.status, answer.content_type) == (200, "application/octet-stream")
            assert (answer.content_length, await answer.read()) == (6, b"Hello!")


async def test_metadata_has_key_creation_length_and_preview(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    blob = b'a "b"\n\\' + bytes([200]) + b"1" + bytes(range(100))
    async with session.post(f"{node.push_url}/v1/push", data=push_body([blob])) as answer:
        assert answer.status == 200
    async with session.get(f"{node.url}/v1/metadata/{sha256(blob)}") as answer:
        assert answer.content_type == "application/json"
        said = await answer.json()
    assert list(said) == ["key", "created", "length", "preview"]
    assert (said["key"], said["length"]) == (sha256(blob), len(blob))
    assert said["preview"] == preview(blob[:80])
    assert len(said["created"]) == len("2019-12-09T11:51:18.123456Z")
    async with session.post(f"{node.push_url}/v1/push", data=push_body([blob])) as answer:
        assert answer.status == 200
    async with session.get(f"{node.url}/v1/metadata/{sha256(blob)}") as answer:
        assert (await answer.json())["created"] == said["created"]
    async with session.get(f"{node.url}/v1/metadata/{HELLO}") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain ~", '"plain ~"'),
        (b'"\\\n\t\r\a\b\v\f', r'"\"\\\n\t\r\a\b\v\f"'),
        (b"\xc8", r'"\200"'),
        (b"\xc81", r'"\200\&1"'),
        (b"\xc8a", r'"\200a"'),
        (b"\x0eH\x0eh\x0e", r'"\SO\&H\SOh\SO"'),
        (b"\x00\x01\x1f\x7f7", r'"\NUL\SOH\US\DEL7"'),
        (b"", '""'),
    ],
)
def test_previews_are_haskell_literals(data: bytes, shown: str) -> None:
    assert preview(data) == shown


# Pull


@pytest.mark.parametrize(
    ("seconds", "year"), [(-(10**12), "0001"), (0, "1970"), (10**12, "9999"), (float("inf"), "9999")]
)
def test_any_time_is_formatted(seconds: float, year: str) -> None:
    assert iso(seconds).startswith(year)


async def test_pull_accepts_1280_keys_and_refuses_1281(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    blobs = [b"%d" % number for number in range(1281)]
    await put_blobs(store, *blobs)
    async with session.post(f"{node.url}/v1/pull", data=pull_body(blobs[:1280])) as answer:
        found = parse_answer(await answer.read(), {sha256(blob): len(blob) for blob in blobs})
        assert sorted(blob for _, blob in found) == sorted(blobs[:1280])

    async def in_parts() -> AsyncIterator[bytes]:
        yield pull_body(blobs)

    for body in (pull_body(blobs), in_parts()):  # told before, and found out
        async with session.post(f"{node.url}/v1/pull", data=body) as answer:
            assert (answer.status, answer.content_type) == (413, "text/plain")
            text = await answer.text()
            assert text.startswith("Too Large")
            assert "51240" in text and "51200" in text


async def test_pull_omits_missing_blobs_and_sends_duplicates_once(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    blobs = [b"", b"one", random_bytes(70_000), random_bytes(3_000_000, 2)]
    await put_blobs(store, *blobs)
    lengths = {sha256(blob): len(blob) for blob in blobs}
    body = pull_body([blobs[1], b"missing", *blobs, blobs[1], random_bytes(80_000, 3)]) + b"x" * 39
    async with session.post(f"{node.url}/v1/pull", data=body) as answer:
        found = parse_answer(await answer.read(), lengths)
    assert len(found) == len(blobs)
    assert dict(found) == {sha256(blob): blob for blob in blobs}
    async with session.post(f"{node.url}/v1/pull", data=pull_body([b"missing"])) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_pull_omits_blob_when_length_is_wrong(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    small, large = b"small", random_bytes(100_000)
    await put_blobs(store, small, large)
    for said in (0, 4, 6, 99_999, 100_001, 2**64 - 1):
        wanted = [(sha256(small), said), (sha256(large), said), (sha256(small), 5)]
        async with session.post(f"{node.url}/v1/pull", data=framing.write_pull(wanted)) as answer:
            assert await answer.read() == b""  # the first length counts


@pytest.mark.parametrize("body", [b"", b"x" * 39])
async def test_pull_without_keys_is_invalid(
    node: ArchiveNode, session: aiohttp.ClientSession, body: bytes
) -> None:
    async with session.post(
        f"{node.url}/v1/pull", data=body, headers={"Accept": "application/json"}
    ) as answer:
        said = await answer.json()
        assert (answer.status, said["message"]) == (400, "Invalid Arguments")
        assert said["errors"][0].startswith("Invalid blob keys, parse error:")
    async with session.post(f"{node.url}/v1/pull", data=body) as answer:
        assert (answer.status, answer.content_type) == (400, "text/html")


async def test_pull_sends_right_blobs_or_breaks_off_when_blobs_are_deleted(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    blobs = [random_bytes(100_000, seed) for seed in range(100)]
    keys = await put_blobs(store, *blobs)
    lengths = dict.fromkeys(keys, 100_000)
    async with session.post(f"{node.url}/v1/pull", data=pull_body(blobs)) as answer:
        reader, whole = framing.PullReader(lengths), 0
        with contextlib.suppress(aiohttp.ClientError):
            async for chunk in answer.content.iter_any():
                whole += sum(part.last for part in reader.feed(chunk))
                if whole and keys:
                    for key in keys[50:]:
                        await store.delete(key)
                    keys = []
            reader.end()
    assert 50 <= whole <= 100


async def test_stalled_or_vanished_client_does_not_block_others(
    node: ArchiveNode,
    store: BlobsInMemory,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (writing, bodies):
        monkeypatch.setattr(module, "bounds_of", lambda request: Bounds(reader_seconds=0.5, body_seconds=0.5))
    blobs = [random_bytes(8 << 20, seed) for seed in range(4)]
    await put_blobs(store, *blobs)
    port = int(node.url.rsplit(":", 1)[1])
    body = pull_body(blobs)
    head = f"POST /v1/pull HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    stalled = socket.create_connection(("127.0.0.1", port), timeout=30)
    stalled.sendall(head + body)
    silent = socket.create_connection(("127.0.0.1", port), timeout=30)
    silent.sendall(head + body[:100])
    gone = socket.create_connection(("127.0.0.1", port), timeout=30)
    gone.sendall(head + body)
    gone.close()
    async with session.post(f"{node.url}/v1/pull", data=body) as answer:
        assert len(parse_answer(await answer.read(), {sha256(blob): len(blob) for blob in blobs})) == 4
    assert (await asyncio.to_thread(silent.recv, 100)).startswith(b"HTTP/1.1 408 ")

    def drain() -> int:
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := stalled.recv(1 << 20):
                received += len(data)
        return received

    await asyncio.sleep(1)  # it takes nothing for as long as that is borne
    assert await asyncio.to_thread(drain) < sum(len(blob) for blob in blobs)
    stalled.close()
    silent.close()


async def test_pull_sends_other_blobs_when_one_is_damaged(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    blobs = [b"whole", b"small", random_bytes(200_000), random_bytes(200_000, 2)]
    async with ArchiveNode.on_directory(tmp_path, host="127.0.0.1", port=0, authorized_port=0) as node:
        async with session.post(f"{node.push_url}/v1/push", data=push_body(blobs)) as answer:
            assert answer.status == 200
        for blob in blobs[1:3]:
            (file,) = tmp_path.rglob(sha256(blob))
            file.unlink()
            file.write_bytes(blob[:-1] + b"!")
        async with session.post(f"{node.url}/v1/pull", data=pull_body(blobs)) as answer:
            found = parse_answer(await answer.read(), {sha256(blob): len(blob) for blob in blobs})
        assert sorted(blob for _, blob in found) == sorted((blobs[0], blobs[3]))
        async with session.get(f"{node.url}/{sha256(blobs[2])}") as answer:
            assert answer.status == 404
        async with session.post(f"{node.push_url}/v1/push", data=push_body(blobs)) as answer:
            assert answer.status == 200
        async with session.get(f"{node.url}/{sha256(blobs[2])}") as answer:
            assert await answer.read() == blobs[2]


class Failing(BlobsInMemory):
    """Its large blobs turn out to be damaged half-way."""

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[BytesReader]:
        async with super().open(digest) as reader:
            reader.read = self._fail_later(reader.read)  # type: ignore[method-assign]
            yield reader

    def _fail_later(self, read: Callable[[int], Awaitable[bytes]]) -> Callable[[int], Awaitable[bytes]]:
        begun = False

        async def fail_later(most: int) -> bytes:
            nonlocal begun
            if begun:
                raise BlobCorrupt("it was changed")
            begun = True
            return await read(most)

        return fail_later


async def test_pull_breaks_off_when_blob_fails_half_way(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    store = Failing()
    large, next_one = random_bytes(3 << 20), random_bytes(100_000, 2)
    await put_blobs(store, large, next_one)
    async with running_archive(tmp_path, store) as node:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with session.post(f"{node.url}/v1/pull", data=pull_body([large, next_one])) as answer:
                await answer.read()
        with pytest.raises(aiohttp.ClientPayloadError):
            async with session.get(f"{node.url}/{sha256(large)}") as answer:
                await answer.read()


async def test_pull_is_gzipped_when_client_accepts_gzip(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    blob = bytes(50_000)
    await put_blobs(store, blob)
    for accepted, coding in (("deflate, gzip", "gzip"), ("x-gzip", "gzip"), ("gzip;q=0", None)):
        headers = {"Accept-Encoding": accepted}
        async with session.post(f"{node.url}/v1/pull", data=pull_body([blob]), headers=headers) as answer:
            assert (answer.headers.get("Content-Encoding"), answer.headers["Vary"]) == (
                coding,
                "Accept-Encoding",
            )
            assert parse_answer(await answer.read(), {sha256(blob): 50_000}) == [(sha256(blob), blob)]


# Push


async def test_push_requires_token_or_authorized_port(
    tmp_path: Path, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    json_please = {"Accept": "application/json"}
    async with running_archive(tmp_path / "a", store) as node:
        for headers in ({}, {"Authorization": "Bearer guess"}):
            async with session.post(
                f"{node.url}/v1/push", data=PUSH, headers=json_please | headers
            ) as answer:
                assert answer.status == 403
                assert await answer.json() == {"message": "Permission Denied. Not authorized on this port"}
    async with running_archive(tmp_path / "b", store, token="s3cret", authorized_port=None) as node:
        assert node.push_url is None
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic s3cret"}):
            async with session.post(f"{node.url}/v1/push", data=PUSH, headers=headers) as answer:
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert await store.size(HELLO) is None
        bearer = {"Authorization": "Bearer s3cret"}
        async with session.post(f"{node.url}/v1/push", data=PUSH, headers=bearer) as answer:
            assert answer.status == 200
    assert await store.size(HELLO) == 6


async def test_push_stores_all_blobs_or_none(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    async def here() -> list[str]:
        return [key async for key in store.digests()]

    large = random_bytes(3_000_000)
    for body in (PUSH[:-1], PUSH[:18], PUSH + b"\0", push_body([b"a", large])[:-1]):
        async with session.post(f"{node.push_url}/v1/push", data=io.BytesIO(body)) as answer:
            assert answer.status == 400
        assert await here() == []
    for body in (b"", push_body([b""]), push_body([large, b"", b"x", large])):
        async with session.post(f"{node.push_url}/v1/push", data=io.BytesIO(body)) as answer:
            assert answer.status == 200
    assert sorted(await here()) == sorted([EMPTY, sha256(large), sha256(b"x")])


async def test_push_stores_nothing_when_it_breaks_off(
    node: ArchiveNode, store: BlobsInMemory, tmp_path: Path
) -> None:
    assert node.push_url
    port = int(node.push_url.rsplit(":", 1)[1])
    body = push_body([b"whole", random_bytes(3_000_000)])
    head = b"POST /v1/push HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + b"%x\r\n" % len(body) + body[:-5])
    await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await reader.read()
    async with http() as session, session.get(f"{node.url}/{sha256(b'whole')}") as answer:
        assert answer.status == 404
    assert [key async for key in store.digests()] == []
    assert {one.name.split("-")[0] for one in tmp_path.iterdir()} <= {"archive.sqlite"}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "no coding"])
@pytest.mark.parametrize("path", ["pull", "push"])
async def test_push_with_content_encoding_is_refused_undecoded(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession, path: str, coding: str
) -> None:
    """It may hold anything, or become anything: also more than there is room for."""
    for body in (b"nonsense", gzip.compress(push_body([bytes(1 << 20)]) * 3)):
        headers = {"Content-Encoding": coding, "Accept": "application/json"}
        async with session.post(f"{node.push_url}/v1/{path}", data=body, headers=headers) as answer:
            assert answer.status == 415
            assert (await answer.json())["errors"] == ["send it without a Content-Encoding"]
    assert [key async for key in store.digests()] == []


async def test_push_refuses_blob_over_the_limit_before_reading_it(
    tmp_path: Path, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    async with running_archive(tmp_path, store, max_blob=1000) as node:
        sent = 0

        async def body(length: int) -> AsyncIterator[bytes]:
            nonlocal sent
            yield framing.write_length(5) + b"small" + framing.write_length(length)
            for _ in range(10_000):
                yield bytes(100_000)
                sent += 100_000

        for length in (1001, 2**63, 2**64 - 1):
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.post(f"{node.push_url}/v1/push", data=body(length)) as answer:
                    assert answer.status == 413
                    text = await answer.text()
                    assert str(length) in text and "1000" in text
        assert sent < 3 * 200_000_000
        assert [key async for key in store.digests()] == []
        async with session.post(f"{node.push_url}/v1/push", data=push_body([bytes(1000)])) as answer:
            assert answer.status == 200


# Single blobs, pages and failures


async def test_blob_route_supports_ranges_etags_and_head(
    node: ArchiveNode, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    blob = random_bytes(3_000_000)
    (key,) = await put_blobs(store, blob)
    url = f"{node.url}/{key}"
    async with session.get(url, headers={"Range": "bytes=1000000-2500000"}) as answer:
        assert (answer.status, await answer.read()) == (206, blob[1_000_000:2_500_001])
        assert answer.headers["Content-Range"] == "bytes 1000000-2500000/3000000"
    async with session.head(url) as answer:
        assert (answer.status, answer.content_length) == (200, len(blob))
        assert answer.headers["ETag"] == f'"{key}"'
        assert "immutable" in answer.headers["Cache-Control"]
    async with session.get(url, headers={"If-None-Match": f'"{key}"'}) as answer:
        assert answer.status == 304
    async with session.get(url, headers={"Range": "bytes=3000000-"}) as answer:
        assert answer.status == 416


async def test_errors_are_json_or_html_as_the_client_accepts(
    node: ArchiveNode, session: aiohttp.ClientSession
) -> None:
    json_please = {"Accept": "text/html;q=0.5, application/json"}
    for path in (f"/{HELLO}", "/short", f"/{'g' * 64}", f"/{HELLO}/x", "/v1/metadata/short", "/meta/x"):
        async with session.get(node.url + path, headers=json_please) as answer:
            assert (answer.status, await answer.json()) == (404, {"message": "Not Found"})
        async with session.get(node.url + path) as answer:
            assert (answer.status, answer.content_type) == (404, "text/html")
    async with session.delete(f"{node.url}/{HELLO}", headers=json_please) as answer:
        assert answer.status == 405
        assert await answer.json() == {"message": "Bad method", "method": "DELETE"}


async def test_access_counts_include_misses_and_survive_restart(
    tmp_path: Path, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    async with running_archive(tmp_path, store) as node:
        async with session.get(f"{node.url}/") as answer:
            assert "Never" in await answer.text()
        async with session.post(f"{node.push_url}/v1/push", data=PUSH) as answer:
            assert answer.status == 200
        async with session.post(f"{node.url}/v1/pull", data=PULL + PULL[:40]) as answer:
            await answer.read()
        async with session.get(f"{node.url}/{EMPTY}") as answer:
            assert answer.status == 404
    async with running_archive(tmp_path, store) as node:
        async with session.get(f"{node.url}/stats") as answer:
            page = await answer.text()
        assert page.index(HELLO) < page.index(WORLD)
        assert f"{HELLO}</code></a></td><td>2</td>" in page
        assert f"{EMPTY}</code></a></td><td>1</td>" in page
        async with session.get(f"{node.url}/meta/{HELLO}") as answer:
            assert "Hello!" in await answer.text()
        async with session.get(f"{node.url}/liveness") as answer:
            assert (await answer.text()).startswith("Database connectivity is OK!")


async def test_home_page_shows_latest_existing_upload(
    tmp_path: Path, store: BlobsInMemory, session: aiohttp.ClientSession
) -> None:
    async def last(node: ArchiveNode) -> list[str]:
        async with session.get(f"{node.url}/") as answer:
            return re.findall(r'"/meta/([0-9a-f]{64})"', await answer.text())

    async with running_archive(tmp_path, store) as node:
        for blob in (b"first", b"second"):
            async with session.post(f"{node.push_url}/v1/push", data=push_body([blob])) as answer:
                assert answer.status == 200
            assert await last(node) == [sha256(blob)]
        assert await store.delete(sha256(b"second"))
        assert await last(node) == [sha256(b"first")]


async def test_access_stats_drop_rarely_requested_blobs(tmp_path: Path) -> None:
    now = 1000.0
    ledger = AccessStats(tmp_path / "ledger", lambda: now, max_keys=10)
    keys = [sha256(b"%d" % number) for number in range(30)]
    ledger.count_pulls([keys[0]] * 5)
    for key in keys:
        now += 1
        ledger.count_pulls([key])
    listed = await ledger.most_pulled(100)
    assert [one.key for one in listed] == [keys[0], *reversed(keys[21:])]
    assert (listed[0].pulls, listed[1].last) == (6, 1030.0)
    await ledger.close()


# Whatever comes


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
    path=st.one_of(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80),
        st.sampled_from(["v1/pull", "v1/push", f"v1/metadata/{HELLO}", HELLO, "meta/" + HELLO, "stats"]),
    ),
    accept=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    body=st.binary(max_size=200),
)
async def test_any_request_is_answered_without_server_error(
    node: ArchiveNode, method: str, path: str, accept: str, body: bytes
) -> None:
    assert node.push_url
    port = int(node.push_url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} /{path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n"
    writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answer.startswith(b"HTTP/1.") and int(answer.split()[1]) < 500, answer[:200]


def test_blobs_are_read_in_batches_bounded_by_count_and_bytes() -> None:
    lengths = {f"k{number}": 10 for number in range(100)} | {f"l{number}": 64 << 10 for number in range(10)}
    steps = list(pulls._steps(list(lengths), lengths))
    assert [key for step in steps for key in step] == list(lengths)
    assert [len(step) for step in steps] == [64, 40, 4, 2]
