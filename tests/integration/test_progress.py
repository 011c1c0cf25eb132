"""Progress that programs are told: of downloads, of versions that are followed, of broadcasts."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

import shardcast
from shardcast import Client, ClientNode, OriginServer, Progress, TransferFailed, UsageError
from shardcast.fair_limit import FairLimit
from shardcast.progress import REPORT_INTERVAL
from tests.support.processes import wait_until
from tests.support.published import random_bytes, sha256

SIZE = 2_500_000
LIMIT = 1_000_000
"""Bytes a second: a download takes long enough for some calls."""
LARGE = 40_000_000
"""Bytes of v1, whose download never ends within a test at that limit."""


class Stop(Exception):
    """What a function for the progress raises."""


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("payload") / "model.bin"
    file.write_bytes(random_bytes(SIZE))
    return file


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Iterator[OriginServer]:
    place = tmp_path_factory.mktemp("origin")
    running = OriginServer(place / "data", 0, publish=True)
    (place / "large.bin").write_bytes(random_bytes(LARGE, 2))
    running.broadcast(place / "large.bin")
    running.broadcast(payload, 1_000_000)
    yield running
    running.shutdown(wait=0)


def check(told: list[Progress], source: str | None, size: int = SIZE) -> None:
    """Check what a program was told of one version from its beginning to its end."""
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert [one.done == one.size for one in told].count(True) >= 1
    last = told[-1]
    assert (last.done, last.size, last.seconds_left) == (size, size, 0.0)
    assert {one.version for one in told} <= {last.version, None}
    assert last.version
    assert last.received == ({source: size} if source else {})


def test_download_tells_its_progress(origin: OriginServer, tmp_path: Path, payload: Path) -> None:
    told, threads = list[Progress](), set[threading.Thread]()

    def tell(progress: Progress) -> None:
        told.append(progress)
        threads.add(threading.current_thread())

    client = ClientNode([origin.url], tmp_path, download_limit=LIMIT)
    started = time.monotonic()
    path = client.download_version("v2", progress=tell)
    calls = (time.monotonic() - started) / REPORT_INTERVAL
    assert path
    assert sha256(Path(path)) == sha256(payload)
    check(told, origin.url)
    assert 2 <= len(told) <= calls + 2
    assert threading.current_thread() not in threads
    under_way = [one for one in told if 0 < one.done < SIZE]
    assert under_way, "some calls come while bytes do"
    assert any(one.rate for one in under_way)
    assert all(one.seconds_left is None or one.seconds_left >= 0 for one in told)


async def test_functions_and_coroutines_are_called_in_the_event_loop(
    origin: OriginServer, tmp_path: Path
) -> None:
    loops = list[asyncio.AbstractEventLoop]()
    told = list[Progress]()

    async def tell(progress: Progress) -> None:
        await asyncio.sleep(0)
        told.append(progress)

    def note(progress: Progress) -> None:
        loops.append(asyncio.get_running_loop())

    async with Client(origin.url, tmp_path) as client:
        await client.download("v2", progress=tell)
        await client.download("v2", tmp_path / "again.bin", progress=note)
    check(told, origin.url)
    assert set(loops) == {asyncio.get_running_loop()}


@pytest.mark.parametrize("error", [Stop("enough"), TransferFailed("mine"), StopIteration("over")])
def test_exception_of_the_function_ends_the_download(
    error: Exception, origin: OriginServer, tmp_path: Path
) -> None:
    def tell(progress: Progress) -> None:
        raise error

    client = ClientNode([origin.url], tmp_path, download_limit=LIMIT)
    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(expected, match=r"enough|mine|StopIteration"):
        client.download_version("v1", progress=tell)
    assert not (tmp_path / "download_v1.bin").exists()
    assert ClientNode([origin.url], tmp_path).download_version("v1")


def test_slow_function_is_called_less_often(origin: OriginServer, tmp_path: Path) -> None:
    told = list[Progress]()

    def tell(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 1:
            wait_until((tmp_path / "download_v2.bin").exists, what="the download, during a call")

    client = ClientNode([origin.url], tmp_path, download_limit=LIMIT)
    assert client.download_version("v2", progress=tell)
    assert 2 <= len(told) < 10, "else some 20 times"


async def test_follower_tells_the_progress_of_each_version(origin: OriginServer, tmp_path: Path) -> None:
    told = list[Progress]()
    async with (
        Client(origin.url, tmp_path, downloads=FairLimit.of(LIMIT)) as client,
        aclosing(client.follow(progress=told.append)) as releases,
        asyncio.timeout(30),
    ):
        release = await anext(releases)
        check(told, origin.url, release.manifest.size)

        def refuse(progress: Progress) -> None:
            raise TransferFailed("the caller's own")

    with pytest.raises(TransferFailed, match="the caller's own"):
        async with (
            Client(origin.url, tmp_path / "other") as client,
            aclosing(client.follow(progress=refuse)) as releases,
            asyncio.timeout(30),
        ):
            await anext(releases)


def test_function_may_stop_the_following(origin: OriginServer, tmp_path: Path) -> None:
    started, stopped = threading.Event(), threading.Event()

    def tell(progress: Progress) -> None:
        assert started.wait(30)
        followed.stop()
        stopped.set()

    followed = ClientNode([origin.url], tmp_path).follow(lambda release: None, progress=tell)
    started.set()
    followed.wait(30)
    assert stopped.is_set()


def test_exception_of_the_function_reaches_who_waits_for_the_following(
    origin: OriginServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(progress: Progress) -> None:
        raise Stop("enough")

    followed = ClientNode([origin.url], tmp_path).follow(lambda release: None, progress=tell)
    with pytest.raises(Stop):
        followed.wait(30)
    assert "following ended: enough" in caplog.text


Publish = Callable[..., object]


@pytest.fixture(params=["here", "elsewhere", "data_dir"])
def publish(request: pytest.FixtureRequest, origin: OriginServer) -> Publish:
    if request.param == "here":
        return origin.broadcast
    extra = {"to": origin.url} if request.param == "elsewhere" else {"data_dir": origin.data_dir}
    return lambda path, **options: shardcast.broadcast(path, **extra, **options)


def test_broadcast_tells_its_progress(publish: Publish, payload: Path) -> None:
    told = list[Progress]()
    version = publish(payload, progress=told.append)
    check(told, None)
    assert told[-1].version == version


def test_exception_of_the_function_aborts_the_broadcast(
    publish: Publish, origin: OriginServer, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(200_000_000))
    before = ClientNode([origin.url]).list_available_versions()

    def tell(progress: Progress) -> None:
        raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        publish(large, progress=tell)
    assert ClientNode([origin.url]).list_available_versions() == before


def test_function_may_cancel_the_broadcast(publish: Publish, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(200_000_000))
    started = threading.Event()

    def tell(progress: Progress) -> None:
        if started.wait(30):
            handle.cancel()

    handle = publish(large, wait=False, progress=tell)
    assert isinstance(handle, shardcast.Broadcast | shardcast.RemoteBroadcast)
    started.set()
    with pytest.raises(shardcast.VersionAborted):
        handle.result(30)


@pytest.mark.parametrize("progress", ["yes", 1, object()])
def test_what_is_neither_function_nor_true_is_refused(
    progress: object, origin: OriginServer, payload: Path, tmp_path: Path
) -> None:
    client = ClientNode([origin.url], tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: client.download_version("v2", progress=progress),  # type: ignore[arg-type]
        lambda: client.follow(print, progress=progress),  # type: ignore[arg-type]
        lambda: origin.broadcast(payload, progress=progress),  # type: ignore[call-overload]
        lambda: shardcast.broadcast(payload, to=origin.url, progress=progress),  # type: ignore[call-overload]
    ]
    for call in calls:
        with pytest.raises(UsageError, match="give one that takes a Progress, or True"):
            call()


def test_true_shows_a_bar(
    origin: OriginServer, payload: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ClientNode([origin.url], tmp_path).download_version("v2", progress=True)
    assert "2.5 MB of 2.5 MB" in capfd.readouterr().err
    version = origin.broadcast(payload, progress=True)
    shown = capfd.readouterr()
    assert f"{version} " in shown.err
    assert shown.out == ""
    assert ClientNode([origin.url], tmp_path).download_version("v2", progress=False)
    assert capfd.readouterr().err == ""


def test_true_without_rich_fails_in_words(
    origin: OriginServer, payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == "rich" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    versions = ClientNode([origin.url]).list_available_versions()
    for call in (
        lambda: ClientNode([origin.url], tmp_path).download_version("v2", progress=True),
        lambda: ClientNode([origin.url], tmp_path).follow(print, progress=True),
        lambda: origin.broadcast(payload, progress=True),
        lambda: shardcast.broadcast(payload, to=origin.url, progress=True),
    ):
        with pytest.raises(UsageError, match="needs the package rich"):
            call()
    with contextlib.suppress(UsageError):
        assert ClientNode([origin.url]).list_available_versions() == versions
    assert not list(tmp_path.iterdir())
