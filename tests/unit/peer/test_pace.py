"""Bodies that must go on: each portion of them has its time, whoever takes or sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from shardcast.errors import ServerStalled
from shardcast.peer.pace import PORTION, Upload, read_by, read_paced


class Clock:
    """The event loop's clock, which only the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock)
    return clock


def coming(clock: Clock, count: int, size: int, seconds: float) -> aiohttp.ClientResponse:
    """An answer whose body comes in ``count`` pieces of a size, one each ``seconds``."""
    left = count

    async def readany() -> bytes:
        nonlocal left
        clock.now += seconds if left else 0
        left -= 1
        return bytes(size) if left >= 0 else b""

    return cast(aiohttp.ClientResponse, SimpleNamespace(content=SimpleNamespace(readany=readany)))


async def test_each_portion_of_a_body_has_its_own_deadline(clock: Clock) -> None:
    body = read_paced(coming(clock, 50, PORTION, 9), "http://one", "GET /v1", 10)
    assert sum([len(some) async for some in body]) == 50 * PORTION
    assert clock.now == 1000 + 50 * 9


async def test_chunks_smaller_than_a_portion_share_its_deadline(clock: Clock) -> None:
    body = read_paced(coming(clock, 50, PORTION // 10, 2), "http://one", "GET /v1", 10)
    with pytest.raises(ServerStalled, match="GET /v1: too little came within 10 s"):
        async for _ in body:
            await asyncio.sleep(0)
    assert clock.now < 1020


async def test_time_reading_an_upload_locally_does_not_count_for_server(clock: Clock) -> None:
    async def slow_disk() -> AsyncIterator[bytes]:
        clock.now += 100
        assert upload.due_since(1000) == clock.now, "the disk is read"
        yield bytes(2 * PORTION)
        clock.now += 100
        assert upload.due_since(1000) == clock.now

    upload: Any = Upload(slow_disk())
    taken = []
    assert upload.due_since(1000) == 1000
    async for portion in upload.portions():
        handed_over = clock.now
        clock.now += 7
        assert upload.due_since(1000) == handed_over, "the server takes it"
        taken.append(len(portion))
    assert taken == [PORTION, PORTION]
    assert upload.due_since(1000) == clock.now
    clock.now += 7
    assert upload.due_since(1000) == clock.now - 7, "the server answers"


async def test_buffered_bytes_are_not_read_after_the_deadline(clock: Clock) -> None:
    """Reading them never suspends, so that no timer could end a flood."""

    async def flood(count: int) -> bytes:
        clock.now += 1
        return bytes(count)

    deadline = clock.now + 10
    with pytest.raises(TimeoutError):
        while await read_by(deadline, flood, 16):
            pass
    assert clock.now == deadline


async def test_reading_ends_at_the_deadline() -> None:
    async def silence() -> bytes:
        await asyncio.sleep(60)
        return b""

    with pytest.raises(TimeoutError):
        await read_by(asyncio.get_running_loop().time() + 0.05, silence)
