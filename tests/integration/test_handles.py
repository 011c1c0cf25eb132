"""Handles of broadcasts that run: awaited, told of their end, cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardcast import Broadcast, OriginServer, RemoteBroadcast, ShardcastError, broadcast
from shardcast.errors import VersionAborted
from tests.support import processes
from tests.support.published import random_bytes

Handle = Broadcast | RemoteBroadcast
Start = Callable[[Path], Handle]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OriginServer]:
    running = OriginServer(tmp_path_factory.mktemp("origin") / "data", 0, 3, publish=True)
    yield running
    running.shutdown(wait=0)


@pytest.fixture(params=["here", "elsewhere"])
def start(request: pytest.FixtureRequest, origin: OriginServer) -> Start:
    if request.param == "here":
        return lambda path: origin.broadcast(path, 100_000, wait=False)
    return lambda path: broadcast(path, 100_000, wait=False, to=origin.url)


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(100_000))
    return file


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A payload that takes seconds."""
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(300_000_000))
    return file


async def test_handle_is_awaited_while_the_loop_runs(start: Start, payload: Path) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.ensure_future(tick())
    handle = start(payload)
    async with asyncio.timeout(30):
        version = await handle
        assert await handle == version == handle.result(0), "an ended one is awaited again"
    ticking.cancel()
    assert ticks > 5


async def test_cancelled_waiting_leaves_the_broadcast_running(start: Start, payload: Path) -> None:
    handle = start(payload)

    async def wait() -> str:
        return await handle

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert handle.result(30).startswith("v")


def test_callbacks_run_once_each_in_order_at_the_end(start: Start, payload: Path) -> None:
    handle, told, last = start(payload), list[Any](), threading.Event()
    handle.add_done_callback(lambda _: 1 / 0)
    handle.add_done_callback(told.append)
    handle.add_done_callback(lambda one: told.append(one.done()))
    handle.add_done_callback(lambda _: last.set())
    assert last.wait(30)
    assert told == [handle, True]
    handle.add_done_callback(told.append)
    assert told == [handle, True, handle], "at once, for a broadcast that has ended"


def test_cancel_publishes_nothing(start: Start, large: Path, origin: OriginServer) -> None:
    handle, told = start(large), list[Handle]()
    handle.add_done_callback(told.append)
    processes.wait_until(lambda: handle.progress.done, what="it to begin")
    handle.cancel()
    with pytest.raises(VersionAborted, match="was cancelled"):
        handle.result(10)
    assert told == [handle]
    if isinstance(handle, Broadcast):
        assert "VersionAborted" in repr(handle)
        with pytest.raises(VersionAborted):
            handle.wait_for(1, 10)
        folder = Path(origin.data_dir) / handle.version
        processes.wait_until(lambda: not folder.exists(), what="the version to go")


async def test_await_of_cancelled_handle_raises_an_error_of_its_own(start: Start, large: Path) -> None:
    handle = start(large)
    handle.cancel()
    with pytest.raises(ShardcastError, match="was cancelled"):
        await handle


def test_cancel_leaves_a_complete_version(start: Start, payload: Path) -> None:
    handle = start(payload)
    version = handle.result(30)
    handle.cancel()
    assert handle.result(0) == version


@pytest.mark.parametrize("step", range(6))
def test_cancelled_or_published_but_never_both(step: int, origin: OriginServer, payload: Path) -> None:
    """Cancel at moments around the confirmation."""
    handle = origin.broadcast(payload, wait=False)
    threading.Event().wait(step * 0.004)
    handle.cancel()
    listed = f"{handle.version}:" in (Path(origin.data_dir) / "distribution.txt").read_text()
    try:
        assert handle.result(10) == handle.version
        assert listed
    except VersionAborted:
        assert not listed


def test_cancel_does_not_wait_for_copies(origin: OriginServer, payload: Path) -> None:
    handle = origin.broadcast(payload, wait=False, copies=9, timeout=300)
    processes.wait_until(lambda: handle.progress.size == handle.progress.done, what="it to be complete")
    handle.cancel()
