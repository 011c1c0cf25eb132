"""Answers over HTTP/1.0, whose end only the connection tells: one that was cut ends in a reset."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast.blobs.server.archive_server import ArchiveNode
from tests.support.archives import CorruptAtEnd, parse_answer, pull_body, put_blobs, running_archive
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import random_bytes, sha256
from tests.support.processes import origin

LARGE = random_bytes(8 << 20)


class Answer:
    """One answer over HTTP/1.0, read as the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()

    async def rest(self) -> bytes:
        """What comes until an orderly end.

        Raises:
            ConnectionResetError: it was cut.
        """
        return await asyncio.wait_for(self.reader.read(), 20)


@asynccontextmanager
async def asked(url: str, method: str, path: str, body: bytes = b"") -> AsyncIterator[Answer]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{method} {path} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = Answer(reader, writer)
        head = await answer.head()
        assert "content-length" not in head and "transfer-encoding" not in head, head
        yield answer
    finally:
        writer.close()


async def test_broken_pull_ends_with_reset(tmp_path: Path) -> None:
    store = CorruptAtEnd()
    await put_blobs(store, b"one", LARGE)
    async with running_archive(tmp_path, store) as node:
        async with asked(node.url, "POST", "/v1/pull", pull_body([b"one", LARGE])) as answer:
            with pytest.raises(ConnectionResetError):
                await answer.rest()
        async with asked(node.url, "POST", "/v1/pull", pull_body([b"one"])) as answer:
            assert await answer.rest() == bytes.fromhex(sha256(b"one")) + b"one"


async def test_whole_pull_ends_cleanly_for_slow_reader(tmp_path: Path) -> None:
    store = BlobsInMemory()
    await put_blobs(store, LARGE)
    async with running_archive(tmp_path, store) as node:
        async with asked(node.url, "POST", "/v1/pull", pull_body([LARGE])) as answer:
            answer.reader._limit = 1 << 10  # type: ignore[attr-defined]  # so that little is read ahead
            found = bytearray()
            while some := await answer.reader.read(1 << 18):
                found += some
        assert parse_answer(bytes(found), {sha256(LARGE): len(LARGE)}) == [(sha256(LARGE), LARGE)]


async def test_shutdown_ends_pull_with_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardcast.server.application.SHUTDOWN_GRACE", 0.2)
    store = BlobsInMemory()
    await put_blobs(store, LARGE)
    running = running_archive(tmp_path, store)
    node: ArchiveNode = await running.__aenter__()
    async with asked(node.url, "POST", "/v1/pull", pull_body([LARGE])) as answer:
        answer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await running.__aexit__(None, None, None)
        answer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionResetError):
            await answer.rest()


async def test_feed_ends_cleanly_on_shutdown_and_with_reset_on_kill(tmp_path: Path) -> None:
    with origin(tmp_path / "killed") as node:
        async with asked(node.url, "GET", "/feed") as answer:
            await answer.reader.readline()
            os.kill(node.process.pid, signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                await answer.rest()
    with origin(tmp_path / "ended") as node:
        async with asked(node.url, "GET", "/feed") as answer:
            await answer.reader.readline()
            node.process.terminate()
            await answer.rest()
