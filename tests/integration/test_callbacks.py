"""Following with a callback: in the background, in threads, until it is stopped."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardcast import Client, ClientNode, LocalDiskError, OriginServer, UsageError, Withdrawal
from shardcast.api.client import Followed
from shardcast.nodes.client import Release
from tests.support.bad_servers import BadServer, Exchange
from tests.support.processes import wait_until
from tests.support.published import publish, random_bytes

SHARD = 100_000
SOON = 15.0


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OriginServer]:
    running = OriginServer(tmp_path_factory.mktemp("origin") / "data", 0, 1000)
    yield running
    running.shutdown(wait=0)


def broadcast(origin: OriginServer, folder: Path, seed: int = 1) -> str:
    file = folder / "payload"
    file.write_bytes(random_bytes(3 * SHARD, seed))
    return origin.broadcast(file, SHARD)


@contextlib.contextmanager
def following(
    client: ClientNode, callback: Callable[[Release], object], first: str = "latest"
) -> Iterator[Followed]:
    followed = client.follow(callback, first, every=True)
    try:
        yield followed
    finally:
        done = threading.Thread(target=followed.stop, daemon=True)
        done.start()
        done.join(SOON)
        assert not done.is_alive(), "it did not stop"


class Releases:
    """A callback that keeps what it was called with, and the bytes that were there then."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.payloads: list[bytes] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, release: Release) -> None:
        self.payloads.append(release.path.read_bytes())
        self.threads.add(threading.current_thread())
        self.versions.append(release.version)

    def wait_for(self, version: str) -> None:
        wait_until(lambda: version in self.versions, SOON, version)


def test_callback_gets_each_version_once_whole_and_in_order(origin: OriginServer, tmp_path: Path) -> None:
    first = broadcast(origin, tmp_path, 1)
    got = Releases()
    with following(ClientNode([origin.url], tmp_path / "out"), got):
        got.wait_for(first)
        told = [first] + [broadcast(origin, tmp_path, seed) for seed in range(2, 6)]
        got.wait_for(told[-1])
    assert got.versions == told
    assert got.payloads == [random_bytes(3 * SHARD, seed) for seed in range(1, 6)]
    assert threading.current_thread() not in got.threads
    broadcast(origin, tmp_path, 6)
    time.sleep(0.3)
    assert got.versions == told  # it was stopped


def test_the_next_version_waits_for_the_callback(origin: OriginServer, tmp_path: Path) -> None:
    first = broadcast(origin, tmp_path)
    at_once, most, calls = 0, 0, 0

    def callback(release: Release) -> None:
        nonlocal at_once, most, calls
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.2)
        at_once -= 1
        calls += 1

    with following(ClientNode([origin.url], tmp_path / "out"), callback, first):
        for seed in range(3):
            broadcast(origin, tmp_path, seed)
        wait_until(lambda: calls == 4, SOON, "four calls")
    assert most == 1


def stops(release: Release) -> None:
    next(iter(()))


def is_cancelled(release: Release) -> None:
    work: concurrent.futures.Future[None] = concurrent.futures.Future()
    work.cancel()
    work.result()


def fails(release: Release) -> None:
    raise ZeroDivisionError("the callback's own")


def is_an_asyncio_callers(release: Release) -> None:
    raise asyncio.CancelledError


def says_shardcast(release: Release) -> None:
    raise LocalDiskError("not this disk")


@pytest.mark.parametrize("raises", [fails, stops, is_cancelled, is_an_asyncio_callers, says_shardcast])
def test_exception_in_callback_is_logged_and_following_continues(
    raises: Callable[[Release], None], origin: OriginServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    got = Releases()

    def callback(release: Release) -> None:
        got(release)
        raises(release)

    first = broadcast(origin, tmp_path)
    with following(ClientNode([origin.url], tmp_path / "out"), callback) as followed:
        got.wait_for(first)
        second = broadcast(origin, tmp_path, 2)
        got.wait_for(second)
        with pytest.raises(TimeoutError):
            followed.wait(0.01)
    assert first in caplog.text
    assert any(record.exc_info for record in caplog.records)


def test_stop_works_inside_the_callback(origin: OriginServer, tmp_path: Path) -> None:
    first = broadcast(origin, tmp_path)
    ready, stopped, calls = threading.Event(), threading.Event(), 0

    def callback(release: Release) -> None:
        nonlocal calls
        calls += 1
        ready.wait(SOON)
        followed.stop()
        stopped.set()

    followed = ClientNode([origin.url], tmp_path / "out").follow(callback, first)
    ready.set()
    assert stopped.wait(SOON), "stop() in the callback waits for the callback"
    followed.wait(SOON)
    broadcast(origin, tmp_path, 2)
    time.sleep(0.2)
    assert calls == 1


def test_stop_waits_for_running_callback(origin: OriginServer, tmp_path: Path) -> None:
    first = broadcast(origin, tmp_path)
    begun, ended = threading.Event(), threading.Event()

    def callback(release: Release) -> None:
        begun.set()
        time.sleep(0.5)
        ended.set()

    with following(ClientNode([origin.url], tmp_path / "out"), callback, first) as followed:
        assert begun.wait(SOON)
        followed.stop()
        assert ended.is_set()
        followed.stop()  # twice is no mistake
        followed.wait(1)


def test_stop_during_download_lets_next_run_resume(tmp_path: Path) -> None:
    one = publish(tmp_path / "data", random_bytes(5 * SHARD), SHARD)
    opened = threading.Event()

    async def gate(exchange: Exchange) -> None:
        if exchange.path[-7:-4] > "003":
            while not opened.is_set():
                await asyncio.sleep(0.01)
        await exchange.answer(exchange.right_answer())

    with BadServer(one.data_dir).set("/v1/shard_*", gate) as server:
        client, got = ClientNode([server.url], tmp_path / "out"), Releases()
        with following(client, got) as followed:
            part = tmp_path / "out" / ".download_v1.bin.part"
            wait_until(
                lambda: part.exists() and part.stat().st_blocks * 512 >= 3 * SHARD, SOON, "the first shards"
            )
            begun = time.monotonic()
            followed.stop()
            assert time.monotonic() - begun < 5
            assert part.exists()
            assert got.versions == []
        opened.set()
        before = {path: server.sent_bytes(path) for path in ("/v1/shard_001.bin", "/v1/shard_002.bin")}
        with following(client, got):
            got.wait_for("v1")
        assert got.payloads == [one.payload]
        for path, sent in before.items():
            assert server.sent_bytes(path) == sent  # what had arrived is not fetched again


def test_wait_raises_timeout_while_following_continues(origin: OriginServer, tmp_path: Path) -> None:
    with following(ClientNode([origin.url], tmp_path / "out"), Releases()) as followed:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            followed.wait(0.2)
        assert 0.2 <= time.monotonic() - begun < 5
        waited = threading.Event()

        def wait() -> None:
            followed.wait()
            waited.set()

        threading.Thread(target=wait, daemon=True).start()
        followed.stop()
        assert waited.wait(SOON)


def test_leaving_with_block_stops_following(origin: OriginServer, tmp_path: Path) -> None:
    got = Releases()
    first = broadcast(origin, tmp_path)
    with pytest.raises(ZeroDivisionError), ClientNode([origin.url], tmp_path / "out").follow(got) as followed:
        got.wait_for(first)
        raise ZeroDivisionError
    followed.wait(1)


def test_disk_error_ends_following_and_is_raised(origin: OriginServer, tmp_path: Path) -> None:
    broadcast(origin, tmp_path)
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    got = Releases()
    with following(ClientNode([origin.url], tmp_path / "out"), got) as followed:
        with pytest.raises(LocalDiskError, match="out"):
            followed.wait(SOON)
        with pytest.raises(LocalDiskError):
            followed.wait()
    assert got.versions == []


def test_invalid_first_version_raises_at_once(tmp_path: Path) -> None:
    client = ClientNode(["127.0.0.1:9"], tmp_path / "out")
    for nonsense in ("v0", "newest", "../v1", ""):
        with pytest.raises(UsageError):
            client.follow(print, nonsense)


async def test_follow_works_inside_running_loop(origin: OriginServer, tmp_path: Path) -> None:
    got = Releases()
    first = await asyncio.to_thread(broadcast, origin, tmp_path)
    with following(ClientNode([origin.url], tmp_path / "out"), got):
        await asyncio.to_thread(got.wait_for, first)
        assert asyncio.get_running_loop()  # of this thread, and undisturbed
    assert got.versions == [first]


def test_several_followers_run_in_threads(origin: OriginServer, tmp_path: Path) -> None:
    first = broadcast(origin, tmp_path)
    all_got = [Releases() for _ in range(3)]

    def follow(number: int) -> None:
        with following(ClientNode([origin.url], tmp_path / f"out{number}"), all_got[number], first):
            all_got[number].wait_for(first)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * SOON)
    assert [got.versions for got in all_got] == [[first]] * 3


# Withdrawals -----------------------------------------------------------------------------------------


def test_withdrawal_callback_never_runs_beside_the_other(
    origin: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = broadcast(origin, tmp_path)
    withdrawal = Withdrawal("v999", "0" * 64, "loss was NaN")
    tasks: list[asyncio.Task[None]] = []
    follow = Client.follow

    async def following_with_a_withdrawal(
        self: Client, *words: Any, on_withdrawn: Callable[[Withdrawal], Any], **named: Any
    ) -> AsyncGenerator[Release, None]:
        async for release in follow(self, *words, on_withdrawn=on_withdrawn, **named):
            tasks.append(asyncio.ensure_future(on_withdrawn(withdrawal)))
            yield release

    monkeypatch.setattr(Client, "follow", following_with_a_withdrawal)
    told: list[str] = []
    threads: set[threading.Thread] = set()

    def callback(release: Release) -> None:
        told.append(f"begun {release.version}")
        time.sleep(0.3)
        told.append(f"ended {release.version}")

    def on_withdrawn(withdrawal: Withdrawal) -> None:
        threads.add(threading.current_thread())
        told.append(f"{withdrawal.version}: {withdrawal.reason}")
        raise ZeroDivisionError("the callback's own")

    client = ClientNode([origin.url], tmp_path / "out")
    with client.follow(callback, first, every=True, on_withdrawn=on_withdrawn):
        wait_until(lambda: len(told) == 3, SOON, "the withdrawal")
        second = broadcast(origin, tmp_path, 2)
        wait_until(lambda: f"ended {second}" in told, SOON, "the next version")
    expected = [f"begun {first}", f"ended {first}"]
    assert sorted(told[:3]) == sorted([*expected, "v999: loss was NaN"])
    assert told.index(expected[1]) == told.index(expected[0]) + 1, "one at a time"
    assert threading.current_thread() not in threads
    assert "v999" in caplog.text, "what it raises is logged"
