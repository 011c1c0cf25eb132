"""Shards sent: under conditions, from files that are not what they were, to readers that take nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from shardcast import constants
from shardcast.nodes.origin import Origin
from tests.support.published import Published, publish, random_bytes

SIZE = 10_000
SHARD = "/v1/shard_001.bin"


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "data", random_bytes(SIZE), SIZE)


@pytest.fixture
async def web(published: Published) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
        aiohttp.ClientSession(origin.url) as session,
    ):
        yield session


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
async def test_if_none_match_gets_no_bytes(
    form: str, published: Published, web: aiohttp.ClientSession
) -> None:
    async with web.get(SHARD, headers={"If-None-Match": form.format(published.sha256)}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
        assert answer.headers["ETag"] == f'"{published.sha256}"'
    async with web.get(SHARD, headers={"If-None-Match": '"other"'}) as answer:
        assert (answer.status, await answer.read()) == (200, published.payload)


@pytest.mark.parametrize(
    ("form", "status"), [('"{}"', 206), ('"other"', 200), ('W/"{}"', 200), ("*", 200), ("yesterday", 200)]
)
async def test_if_range_of_other_digest_gets_the_whole_shard(
    form: str, status: int, published: Published, web: aiohttp.ClientSession
) -> None:
    """A reader that goes on in what it has of another version must not be sent a part of this one."""
    headers = {"Range": "bytes=10-19", "If-Range": form.format(published.sha256)}
    async with web.get(SHARD, headers=headers) as answer:
        expected = published.payload[10:20] if status == 206 else published.payload
        assert (answer.status, await answer.read()) == (status, expected)


@pytest.mark.parametrize("left", [0, SIZE - 1])
async def test_truncated_shard_gets_404(left: int, published: Published, web: aiohttp.ClientSession) -> None:
    with (published.data_dir / SHARD.lstrip("/")).open("r+b") as file:
        file.truncate(left)
    async with web.get(SHARD) as answer:
        assert answer.status == 404


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 20)


async def test_reader_that_takes_nothing_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would hold its version and a file for ever."""
    monkeypatch.setattr(constants, "STALLED_READER", 0.3)
    large = publish(tmp_path / "large", bytes(20_000_000), 20_000_000)
    async with Origin.running(large.data_dir, "127.0.0.1", 0) as origin:
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", int(origin.url.rpartition(":")[2])))
            reader.sendall(f"GET {SHARD} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await until(lambda: origin.folders.holds.seconds_since_read() == 0)
            await until(lambda: origin.folders.holds.seconds_since_read() > 0)
            assert origin.folders.holds.sent_in_all() < 20_000_000
