"""The client of archives: what it makes of answers, and what it sends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shardcast import Archive
from shardcast.blobs.client import archive as peer
from shardcast.blobs.framing import parse_pull
from shardcast.errors import (
    BadAnswer,
    PayloadChanged,
    PayloadMissing,
    PeerError,
    ServerStalled,
    ServerUnreachable,
    UsageError,
    WrongBytes,
)
from shardcast.peer.session import Session, open_session
from shardcast.server.application import application, serve
from tests.support import processes
from tests.support.archives import running_archive
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import random_bytes, sha256
from tests.unit.blobs.test_framing import HELLO, WORLD


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with open_session(timeout=5) as opened:
        yield opened


@contextlib.asynccontextmanager
async def answering(pull: Any = None, push: Any = None) -> AsyncIterator[str]:
    def doors(app: web.Application) -> None:
        app.router.add_post("/v1/pull", pull or push)
        app.router.add_post("/v1/push", push or pull)

    async with serve(application("server", doors), "127.0.0.1", 0) as url:
        yield url


async def test_pull_returns_pushed_blobs(tmp_path: Path, session: Session) -> None:
    file = tmp_path / "file"
    file.write_bytes(random_bytes(3_000_000))
    blobs = [b"", b"one", memoryview(b"two"), bytearray(b"three"), random_bytes(200_000), b"one"]
    async with running_archive(tmp_path / "own") as node:
        assert node.push_url
        keys = await peer.ArchiveClient(node.push_url + "/", session).push([*blobs, file])
        everything = [*map(bytes, blobs), file.read_bytes()]
        assert keys == [sha256(blob) for blob in everything]
        wanted = {sha256(blob): len(blob) for blob in everything} | {HELLO: 6}
        client = peer.ArchiveClient(node.url, session)
        assert {key: blob async for key, blob in client.pull(wanted)} == {
            sha256(blob): blob for blob in everything
        }
        assert [one async for one in client.pull({HELLO.upper(): 6})] == []
        assert [one async for one in client.pull({})] == []


async def test_pull_sends_many_keys_in_batches(session: Session) -> None:
    blobs = {sha256(b"%d" % number): b"%d" % number for number in range(3000)}
    asked: list[int] = []

    async def pull(request: web.Request) -> web.Response:
        keys = [key for key, _ in parse_pull(await request.read())]
        asked.append(len(keys))
        return web.Response(body=b"".join(bytes.fromhex(key) + blobs[key] for key in reversed(keys)))

    async with answering(pull) as url:
        wanted = {key: len(blob) for key, blob in blobs.items()}
        assert {key: blob async for key, blob in peer.ArchiveClient(url, session).pull(wanted)} == blobs
        assert asked == [1280, 1280, 440]
        few = peer.ArchiveClient(url, session, keys_per_request=1000)
        assert len([one async for one in few.pull(wanted)]) == 3000
        assert asked[3:] == [1000] * 3
    for number in (0, 1281):
        with pytest.raises(UsageError):
            peer.ArchiveClient(url, session, keys_per_request=number)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (bytes.fromhex(HELLO) + b"World!", WrongBytes),
        (bytes.fromhex(WORLD) + b"World!", BadAnswer),
        (bytes.fromhex(HELLO) + b"Hello", BadAnswer),
        (bytes.fromhex(HELLO) + b"Hello!" + bytes.fromhex(HELLO) + b"Hello!", BadAnswer),
        (bytes.fromhex(HELLO) + b"Hello!" + b"more", BadAnswer),
    ],
    ids=["wrong", "not asked for", "short", "twice", "more"],
)
async def test_pull_raises_on_wrong_answers(session: Session, body: bytes, error: type[PeerError]) -> None:
    async def pull(request: web.Request) -> web.Response:
        return web.Response(body=body)

    async with answering(pull) as url:
        with pytest.raises(error) as raised:
            _ = [one async for one in peer.ArchiveClient(url, session).pull({HELLO: 6})]
        assert raised.value.server == url


async def test_unexpected_status_raises(session: Session) -> None:
    for status in (204, 302, 400, 403, 404, 413, 500, 503):

        async def refuse(request: web.Request, status: int = status) -> web.Response:
            return web.Response(status=status)

        async with answering(refuse) as url:
            with pytest.raises(PeerError, match=str(status)):
                _ = [one async for one in peer.ArchiveClient(url, session).pull({HELLO: 6})]
            with pytest.raises(PeerError, match=str(status)):
                await peer.ArchiveClient(url, session).push([b"Hello!"])


async def test_trickling_or_blocked_archive_times_out(session: Session) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes.fromhex(sha256(bytes(100_000))))
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"\0")
                await asyncio.sleep(0.02)
        return response

    async def take_nothing(request: web.Request) -> web.Response:
        await asyncio.sleep(2)
        return web.Response()

    async with answering(trickle, take_nothing) as url:
        client = peer.ArchiveClient(url, session, timeout=0.5)
        with pytest.raises(ServerStalled):
            _ = [one async for one in client.pull({sha256(bytes(100_000)): 100_000})]
        with pytest.raises(ServerStalled):
            await client.push(bytes(1 << 20) for _ in range(100))


async def test_malformed_keys_and_lengths_are_not_requested(tmp_path: Path, session: Session) -> None:
    client = peer.ArchiveClient("127.0.0.1:1", session)
    for wanted in ({"x": 1}, {HELLO: -1}, {HELLO: 2**64}, {HELLO: "6"}, {HELLO + "0": 6}):
        with pytest.raises(UsageError):
            _ = [one async for one in client.pull(wanted)]  # type: ignore[arg-type]
    with pytest.raises(ServerUnreachable):
        _ = [one async for one in client.pull({HELLO: 6})]
    store = BlobsInMemory()
    async with running_archive(tmp_path, store) as node:
        assert node.push_url
        with pytest.raises(PayloadMissing):
            await peer.ArchiveClient(node.push_url, session).push([b"Hello!", tmp_path / "nowhere"])
        assert await store.size(HELLO) is None


async def test_push_raises_when_file_exceeds_its_size(tmp_path: Path, session: Session) -> None:
    store, made_as_read = BlobsInMemory(), Path("/proc/version")
    if not made_as_read.exists():
        pytest.skip("there is no /proc here")
    async with running_archive(tmp_path, store) as node:
        assert node.push_url
        with pytest.raises(
            PayloadChanged, match="/proc/version grew while being pushed, or is made as it is read"
        ):
            await peer.ArchiveClient(node.push_url, session).push([b"Hello!", made_as_read])
        assert [await store.size(digest) for digest in (HELLO, sha256(b""))] == [None, None]


# Threads


async def test_blocking_archive_pushes_and_pulls(tmp_path: Path) -> None:
    store = BlobsInMemory()
    blobs = [random_bytes(10_000, seed) for seed in range(200)]

    def work(url: str, push_url: str) -> None:
        database = sqlite3.connect(":memory:")  # which serves the thread alone that opened it
        database.execute("CREATE TABLE blobs (blob BLOB)")
        database.executemany("INSERT INTO blobs VALUES (?)", [(blob,) for blob in blobs])
        rows = (row[0] for row in database.execute("SELECT blob FROM blobs"))
        assert Archive(push_url).push(rows) == [sha256(blob) for blob in blobs]
        database.close()
        wanted = {sha256(blob): len(blob) for blob in blobs}
        assert dict(Archive(url).pull(wanted | {HELLO: 6})) == {sha256(blob): blob for blob in blobs}
        for _ in Archive(url, keys_per_request=1).pull(wanted):
            break  # the rest is not waited for
        with pytest.raises(PeerError, match="authorized port"):
            Archive(url).push(bytes(100_000) for _ in range(1000))
        with pytest.raises(ZeroDivisionError):
            Archive(push_url).push(1 // 0 for _ in range(2))  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            list(Archive(url).pull({"x": 1}))

    async with running_archive(tmp_path, store) as node:
        assert node.push_url
        await asyncio.to_thread(work, node.url, node.push_url)


async def test_blocking_archive_works_inside_running_loop(tmp_path: Path) -> None:
    with command(tmp_path / "blobs") as (
        url,
        push_url,
    ):  # in another process, since this loop is kept waiting
        assert Archive(push_url).push([b"Hello!"]) == [HELLO]
        assert list(Archive(url).pull({HELLO: 6})) == [(HELLO, b"Hello!")]


# The command


@contextlib.contextmanager
def command(directory: Path, *words: str) -> Iterator[tuple[str, str]]:
    options = ("--host", "127.0.0.1", "--port", "0", "--authorized-port", "0")
    with processes.node("archive", "serve", str(directory), *options, *words) as node:
        node.wait_for_log("Taking pushes at")
        found = re.search(r"Taking pushes at (http://\S+)", node.log)
        assert found
        yield node.url, found[1]
        assert node.stop() == 0
        assert "Traceback" not in node.log


def test_archive_command_mirrors_and_requires_token(tmp_path: Path) -> None:
    blobs = [random_bytes(1000, seed) for seed in range(50)] + [random_bytes(2_000_000)]
    wanted = {sha256(blob): len(blob) for blob in blobs}
    expected = {sha256(blob): blob for blob in blobs}
    with command(tmp_path / "a") as (url, push_url):
        Archive(push_url).push(blobs)
        with command(tmp_path / "b", "--mirror", url) as (mirror, _):
            assert dict(Archive(mirror).pull(wanted)) == expected
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with command(tmp_path / "b", "--token-file", str(token)) as (url, _):  # by itself now
        assert dict(Archive(url).pull(wanted)) == expected
        with pytest.raises(PeerError, match="401"):
            Archive(url, token="guess").push([b"Hello!"])
        assert Archive(url, token="s3cret").push([b"Hello!"]) == [HELLO]


def test_archive_command_refuses_store_of_another_digest(tmp_path: Path) -> None:
    (tmp_path / ".shardcast-store").mkdir()
    (tmp_path / ".shardcast-store" / "digest").write_text("sha3-256\n")
    done = processes.run("archive", "serve", str(tmp_path), "--port", "0")
    assert done.returncode != 0
    assert "sha3-256" in done.stderr and "Traceback" not in done.stderr


def memory_of(pid: int) -> int:
    """The most bytes that a process had in memory."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def test_memory_is_bounded_when_pulling_and_pushing(tmp_path: Path) -> None:
    """Of an archive, its mirror and its client; several times what they may take."""
    size, count = 8 << 20, 40
    base = bytearray(random_bytes(size))

    def blobs() -> Iterator[bytes]:
        for number in range(count):
            base[:4] = number.to_bytes(4, "big")
            yield bytes(base)

    options = ("--host", "127.0.0.1", "--port", "0", "--authorized-port", "0")
    with processes.node("archive", "serve", str(tmp_path / "a"), *options, fork=False) as node:
        node.wait_for_log("Taking pushes at")
        found = re.search(r"Taking pushes at (http://\S+)", node.log)
        assert found
        keys = Archive(found[1]).push(blobs())
        with processes.node(
            "archive", "serve", str(tmp_path / "b"), *options, "--mirror", node.url, fork=False
        ) as mirror:
            pulled = sum(len(blob) for _, blob in Archive(mirror.url).pull(dict.fromkeys(keys, size)))
            assert pulled == size * count > 300_000_000
            assert memory_of(mirror.process.pid) < 150_000_000
        assert memory_of(node.process.pid) < 150_000_000
