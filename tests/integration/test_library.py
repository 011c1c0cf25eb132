"""The library as its users call it: the calls of shardcast 0.1.0, and what was added beside them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import shardcast
from shardcast import (
    ClientNode,
    DataDirInUse,
    IntegrityError,
    MiddleNode,
    NodeFailed,
    NotInitialized,
    OriginServer,
    PayloadMissing,
    ShardcastError,
    UsageError,
)
from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, dead_address
from tests.support.published import publish, random_bytes, sha256

SIZE = 700_000
SHARD = 200_000
MANY = 100_000
"""Bytes of a shard with which a large file takes its time: each is a file that is written and fsynced."""
SOON = 8.0  # "within seconds"
BOUND = 30.0  # what happens by itself has happened by then


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("payload") / "model.bin"
    file.write_bytes(random_bytes(SIZE))
    return file


@pytest.fixture(autouse=True)
def shut_down() -> Iterator[None]:
    """Whatever a test left running ends with it."""
    yield
    shardcast.shutdown(wait=0)


@pytest.fixture
def port() -> Iterator[int]:
    """Where an origin may listen: nobody else does, so that it is free when the origin is gone."""
    with processes.reserved_port() as port:
        yield port


other_port = port


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("0.0.0.0", port)):
            return True
    except OSError:
        return False


def listed(port: int) -> dict[str, str]:
    """What an origin of this process offers."""
    return ClientNode([f"127.0.0.1:{port}"]).list_available_versions()


def served(port: int, version: str, shards: int) -> str:
    """The digest of a version as a server gives it out, shard by shard."""
    digest = hashlib.sha256()
    for number in range(1, shards + 1):
        url = f"http://127.0.0.1:{port}/{version}/shard_{number:03}.bin"
        with urllib.request.urlopen(url, timeout=10) as answer:
            digest.update(answer.read())
    return digest.hexdigest()


# As shardcast 0.1.0 had it -----------------------------------------------------------------------


def test_calls_of_0_1_0_work_unchanged(payload: Path, port: int, tmp_path: Path) -> None:
    shardcast.initialize(str(tmp_path / "data"), port)
    assert shardcast.broadcast(str(payload), SHARD) == "v1"
    assert shardcast.broadcast(str(payload)) == "v2"
    client = shardcast.ClientNode([f"127.0.0.1:{port}"], str(tmp_path / "out"))
    digest = sha256(payload)
    assert client.list_available_versions() == {"v1": f"{digest}|4", "v2": f"{digest}|1"}
    fetched = client.download_version("v1")
    assert fetched == str(tmp_path / "out" / "download_v1.bin")
    assert sha256(Path(fetched)) == digest
    named = client.download_version("v2", str(tmp_path / "model.bin"))
    assert named == str(tmp_path / "model.bin")
    assert sha256(tmp_path / "model.bin") == digest
    shardcast.shutdown()
    assert is_free(port)


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        (shardcast.initialize, ["data_dir", "port"]),
        (shardcast.broadcast, ["file_path", "shard_size"]),
        (shardcast.shutdown, []),
        (OriginServer, ["data_dir", "port"]),
        (OriginServer.broadcast, ["self", "file_path", "shard_size"]),
        (MiddleNode, ["upstream_servers", "data_dir", "port", "check_interval"]),
        (ClientNode, ["servers", "output_dir"]),
        (ClientNode.list_available_versions, ["self"]),
        (ClientNode.download_version, ["self", "version", "output_file"]),
    ],
)
def test_parameters_keep_their_positions(call: Callable[..., Any], parameters: list[str]) -> None:
    assert list(inspect.signature(call).parameters)[: len(parameters)] == parameters


@pytest.mark.parametrize(
    "name",
    [
        "SHARD_SIZE",
        "MAX_DISTRIBUTION_FOLDERS",
        "HTTP_PORT",
        "MAX_MIDDLE_NODE_LAYERS",
        "RETRY_ATTEMPTS",
        "LOG_LEVEL",
    ],
)
def test_settings_can_be_imported(name: str) -> None:
    assert type(getattr(shardcast, name)) in (int, str)


def test_second_initialize_warns_and_changes_nothing(
    payload: Path, port: int, other_port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shardcast.initialize(tmp_path / "data", port)
    assert not caplog.records
    shardcast.initialize(tmp_path / "other", other_port)
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    assert not (tmp_path / "other").exists()
    assert is_free(other_port)
    assert shardcast.broadcast(payload) == "v1"
    assert list(listed(port)) == ["v1"]


def test_initialize_works_after_shutdown(payload: Path, port: int, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        shardcast.initialize(tmp_path / "data", port)
        assert shardcast.broadcast(payload) == version
        shardcast.shutdown()
        shardcast.shutdown()
    with pytest.raises(NotInitialized):
        shardcast.broadcast(payload)


def test_broadcast_before_initialize_raises_runtime_error(payload: Path) -> None:
    with pytest.raises(RuntimeError, match="initialize") as failure:
        shardcast.broadcast(payload)
    assert isinstance(failure.value, ShardcastError)


def test_missing_file_raises_file_not_found_error(payload: Path, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    with pytest.raises(FileNotFoundError, match="nowhere") as failure:
        shardcast.broadcast(str(tmp_path / "nowhere.bin"))
    assert isinstance(failure.value, PayloadMissing | ShardcastError)
    with pytest.raises(FileNotFoundError):
        shardcast.broadcast(tmp_path / "nowhere.bin", wait=False)
    assert shardcast.broadcast(payload) == "v1", "a number was used up for nothing"


def test_relative_path_is_resolved_by_the_caller(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shardcast.initialize("data", 0)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    Path("small.bin").write_bytes(b"small")
    assert shardcast.broadcast("small.bin") == "v1"
    assert (tmp_path / "data" / "v1" / "shard_001.bin").read_bytes() == b"small"


@pytest.mark.parametrize("shard_size", [0, -1, "much"])
def test_invalid_shard_size_is_refused(shard_size: Any, payload: Path, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    with pytest.raises(ValueError, match="shard") as failure:
        shardcast.broadcast(payload, shard_size)
    assert isinstance(failure.value, UsageError)
    assert shardcast.broadcast(payload) == "v1"


def test_max_distribution_folders_bounds_kept_versions(payload: Path, port: int, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", port, 2)
    for _ in range(4):
        shardcast.broadcast(payload, SHARD)
    assert list(listed(port)) == ["v3", "v4"]
    shardcast.shutdown()
    with contextlib.closing(Closing(OriginServer(tmp_path / "data", 0, max_distribution_folders=1))) as one:
        assert one.node.broadcast(payload) == "v5"
        assert list(listed(one.node.port)) == ["v5"]


class Closing:
    """A node that ends with the block."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def close(self) -> None:
        self.node.shutdown()


def test_taken_port_raises(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NodeFailed, match=str(port)):
            shardcast.initialize(tmp_path / "data", port)
    shardcast.initialize(tmp_path / "data", port)


def test_data_directory_in_use_raises(tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    with pytest.raises(DataDirInUse, match="origin"):
        OriginServer(tmp_path / "data", 0)


# Broadcasts that nobody waits for ----------------------------------------------------------------


def test_handle_reports_progress(port: int, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(random_bytes(60_000_000))
    shardcast.initialize(tmp_path / "data", port)
    with shardcast.open_broadcast("first.bin"):  # has its turn until the block ends
        handle = shardcast.broadcast(large, 5_000_000, wait=False)
        behind = shardcast.broadcast(large, 5_000_000, wait=False)
        assert (handle.version, behind.version) == ("v2", "v3"), "each has its number at once"
        assert not behind.done()
        with pytest.raises(TimeoutError):
            behind.result(0.001)
    seen = []
    while not behind.done():
        seen.append(handle.progress.done)
        handle_size, behind_size = handle.progress.size, behind.progress.size
        assert handle_size in (None, 60_000_000)
        assert behind_size in (None, 60_000_000)
        threading.Event().wait(0.005)
    assert seen == sorted(seen)
    assert handle.result() == handle.result(0) == "v2"
    assert behind.result(10) == "v3"
    for one in (handle, behind):
        assert one.done()
        assert (one.progress.done, one.progress.size) == (60_000_000, 60_000_000)
    assert list(listed(port)) == ["v1", "v2", "v3"]


def test_handle_raises_the_failure(payload: Path, tmp_path: Path) -> None:
    """The first one keeps the origin busy, so that the second one's file can go before its turn."""
    gone = tmp_path / "gone.bin"
    gone.write_bytes(b"here now")
    shardcast.initialize(tmp_path / "data", 0)
    with shardcast.open_broadcast("first.bin") as first:
        second = shardcast.broadcast(gone, wait=False)
        gone.unlink()
    with pytest.raises(FileNotFoundError, match="gone"):
        second.result(BOUND)
    assert second.done()
    assert (first.version, second.version) == ("v1", "v2")
    assert shardcast.broadcast(payload) == "v3", "a number was given twice"


# From wherever -----------------------------------------------------------------------------------


def test_many_threads_broadcast_at_once(port: int, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", port, 40)
    files = []
    for number in range(24):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(random_bytes(300_000 + number, seed=number))
    with ThreadPoolExecutor(24) as pool:
        versions = list(pool.map(lambda file: shardcast.broadcast(file, SHARD), files))
    assert sorted(versions, key=lambda one: int(one[1:])) == [f"v{n}" for n in range(1, 25)]
    offered = listed(port)
    for version, file in zip(versions, files, strict=True):
        assert offered[version] == f"{sha256(file)}|2"
        assert served(port, version, 2) == sha256(file)


async def test_broadcast_works_inside_running_loop(payload: Path, port: int, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", port)
    assert shardcast.broadcast(payload) == "v1"
    assert (await asyncio.to_thread(shardcast.broadcast, payload)) == "v2"
    client = ClientNode([f"127.0.0.1:{port}"], tmp_path / "out")
    assert list(client.list_available_versions()) == ["v1", "v2"]
    fetched = client.download_version("v2")
    assert fetched
    assert sha256(Path(fetched)) == sha256(payload)
    assert await asyncio.sleep(0, "the loop still runs")


def script(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program of a user of the library to its end."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), *map(str, words)],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_forked_child_broadcasts_and_does_not_end_origin(payload: Path, port: int, tmp_path: Path) -> None:
    done = script(
        """
        import os, sys
        import shardcast

        data_dir, port, payload = sys.argv[1:]
        shardcast.initialize(data_dir, int(port))
        print(shardcast.broadcast(payload), flush=True)
        child = os.fork()
        if not child:
            print(shardcast.broadcast(payload), flush=True)
            shardcast.shutdown()
            sys.exit(7)  # with everything that a clean end does
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
        print(shardcast.broadcast(payload))
        print(*shardcast.ClientNode([f"127.0.0.1:{port}"]).list_available_versions())
        """,
        tmp_path / "data", port, payload,
    )  # fmt: skip
    assert done.stdout.split() == ["v1", "v2", "7", "v3", "v1", "v2", "v3"], done.stderr
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("child", ["downloads", "computes"])
def test_process_may_fork_after_download(child: str, payload: Path, tmp_path: Path) -> None:
    """An inference worker that loads what it fetched in workers of its own."""
    done = script(
        """
        import os, sys
        import shardcast

        data_dir, out, payload, does = sys.argv[1:]
        origin = shardcast.OriginServer(data_dir, 0)
        origin.broadcast(payload)
        client = shardcast.ClientNode([f"localhost:{origin.port}"], out)
        client.download_version("v1")
        child = os.fork()
        if not child:
            if does == "downloads":
                assert client.download_version("v1", os.path.join(out, "again.bin"))
            sys.exit(7)  # with everything that a clean end does
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
        """,
        tmp_path / "data", tmp_path / "out", payload, child,
    )  # fmt: skip
    assert done.stdout.split() == ["7"], done.stderr
    if child == "downloads":
        assert sha256(tmp_path / "out" / "again.bin") == sha256(payload)


def test_multiprocessing_child_broadcasts_without_ending_origin(
    payload: Path, port: int, tmp_path: Path
) -> None:
    done = script(
        """
        import multiprocessing, sys, threading
        import shardcast

        def work(payload):
            print(shardcast.broadcast(payload), flush=True)

        data_dir, port, payload = sys.argv[1:]
        shardcast.initialize(data_dir, int(port))
        print(shardcast.broadcast(payload), flush=True)
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            child = context.Process(target=work, args=(payload,))
            child.start()
            child.join()
            print(child.exitcode, flush=True)
        busy = [context.Process(target=work, args=(payload,)) for _ in range(4)]
        for one in busy:
            one.start()
        for one in busy:
            one.join()
        print(shardcast.broadcast(payload))
        """,
        tmp_path / "data", port, payload,
    )  # fmt: skip
    words = done.stdout.split()
    assert words[:7] == ["v1", "v2", "0", "v3", "0", "v4", "0"], done.stderr
    assert sorted(words[7:]) == ["v5", "v6", "v7", "v8", "v9"]
    assert done.returncode == 0


# How it ends -------------------------------------------------------------------------------------

TRAINER = """
import json, os, signal, sys, threading, time
import shardcast

data_dir, port, payload, how = sys.argv[1:]
shardcast.initialize(data_dir, int(port))
shardcast.broadcast(payload)
worker = 0
if how == "worker":
    worker = os.fork()
    if not worker:
        time.sleep(600)
        os._exit(0)
if how == "decides":
    def decide(number, frame):
        print("told", shardcast.broadcast(payload), flush=True)
    signal.signal(signal.SIGINT, decide)
print(json.dumps({"origin": shardcast.api.current_origin._origin._process.pid, "worker": worker}), flush=True)
if how == "returns":
    sys.exit()
if how == "raises":
    raise RuntimeError("the training failed")
for _ in range(6000):  # a signal that comes just before a sleep begins doesn't end it
    time.sleep(0.1)
"""


@contextlib.contextmanager
def trainer(payload: Path, tmp_path: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], int, int, int]]:
    """A training process with an origin beside it: itself, the port, and the ids of origin and worker."""
    ids = {}
    with (
        processes.reserved_port() as port,
        subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(tmp_path / "data"), str(port), str(payload), how],
            env=processes.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout
            ids = json.loads(process.stdout.readline())
            yield process, port, ids["origin"], ids["worker"]
        finally:
            process.kill()
            for pid in filter(None, ids.values()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_origin_ends_with_the_interpreter(how: str, payload: Path, tmp_path: Path) -> None:
    with trainer(payload, tmp_path, how) as (process, port, origin, _):
        process.wait(BOUND)
        processes.wait_until(lambda: not lives(origin), what="the origin to end")
        assert is_free(port)
    assert not (tmp_path / "data" / ".shardcast" / "socket").exists(), "it was killed, not ended"


@pytest.mark.parametrize("how", ["waits", "worker"])
def test_origin_ends_when_process_is_killed(how: str, payload: Path, tmp_path: Path) -> None:
    """Also when a worker lives on that was forked from it and holds all that was open."""
    with trainer(payload, tmp_path, how) as (process, port, origin, worker):
        assert list(listed(port)) == ["v1"]
        process.kill()
        process.wait()
        processes.wait_until(lambda: not lives(origin), what="the origin to end")
        processes.wait_until(lambda: is_free(port), what="the port to be free")
        if worker:
            assert lives(worker)


def test_next_run_takes_over_directory_and_port(payload: Path, tmp_path: Path) -> None:
    with trainer(payload, tmp_path, "waits") as (process, port, origin, _):
        process.kill()
        process.wait()
        processes.wait_until(lambda: not lives(origin), what="the origin to end")
    shardcast.initialize(tmp_path / "data", port)
    assert shardcast.broadcast(payload) == "v2"


def test_origin_survives_ctrl_c_until_its_process_ends_it(payload: Path, tmp_path: Path) -> None:
    with trainer(payload, tmp_path, "decides") as (process, port, origin, _):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout
        assert process.stdout.readline().split() == ["told", "v2"]
        assert lives(origin)
        assert list(listed(port)) == ["v1", "v2"]


def test_ctrl_c_ends_process_and_origin(payload: Path, tmp_path: Path) -> None:
    with trainer(payload, tmp_path, "waits") as (process, port, origin, _):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(BOUND)
        processes.wait_until(lambda: not lives(origin), what="the origin to end")
        assert is_free(port)


def origin_of_this_process() -> int:
    from shardcast.api import current_origin

    assert current_origin._origin
    return current_origin._origin._process.pid


def test_kill_of_publishing_origin_raises_at_once(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(300_000_000))
    shardcast.initialize(tmp_path / "data", 0)
    handle = shardcast.broadcast(large, MANY, wait=False)
    processes.wait_until(lambda: handle.progress.done, what="it to begin")
    os.kill(origin_of_this_process(), signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(NodeFailed):
        handle.result(20)
    assert time.monotonic() - begun < 3
    shardcast.shutdown()
    shardcast.initialize(tmp_path / "data", 0)
    large.write_bytes(b"smaller now")
    assert shardcast.broadcast(large) == "v2", "a number was given twice"


def test_shutdown_during_publish_leaves_nothing_half_done(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(300_000_000))
    shardcast.initialize(tmp_path / "data", 0)
    handle = shardcast.broadcast(large, MANY, wait=False)
    processes.wait_until(lambda: handle.progress.done, what="it to begin")
    begun = time.monotonic()
    shardcast.shutdown()
    assert time.monotonic() - begun < SOON
    with pytest.raises(ShardcastError):
        handle.result(BOUND)
    left = [file.name for file in (tmp_path / "data").iterdir() if file.name.startswith("v")]
    assert left == [], "part of a version was left behind"


# The classes -------------------------------------------------------------------------------------


def test_origin_middle_and_client_deliver_a_file(
    payload: Path, port: int, other_port: int, tmp_path: Path
) -> None:
    origin = OriginServer(str(tmp_path / "origin"), port)
    middle = MiddleNode([f"127.0.0.1:{port}"], str(tmp_path / "middle"), other_port, 1)
    try:
        assert origin.broadcast(str(payload), SHARD) == "v1"
        assert (origin.port, middle.port) == (port, other_port)
        client = ClientNode([f"127.0.0.1:{middle.port}"], str(tmp_path / "out"))
        got: list[str | None] = []
        # What is listed may have yet to come to the middle; then there is nothing to download.
        processes.wait_until(lambda: got.append(client.download_version("v1")) or got[-1], what="v1 there")
        assert sha256(Path(got[-1] or "")) == sha256(payload)
    finally:
        middle.shutdown()
        origin.shutdown(wait=0)
    assert is_free(origin.port)
    assert is_free(middle.port)


def test_two_origins_of_one_process_are_independent(payload: Path, tmp_path: Path) -> None:
    one, two = OriginServer(tmp_path / "one", 0), OriginServer(tmp_path / "two", 0)
    try:
        assert (one.broadcast(payload), two.broadcast(payload), one.broadcast(payload)) == ("v1", "v1", "v2")
        one.shutdown()
        assert two.broadcast(payload) == "v2"
    finally:
        one.shutdown()
        two.shutdown()


def test_malformed_addresses_raise_usage_error(tmp_path: Path) -> None:
    for servers in (["http://"], ["a b"], []):
        with pytest.raises(UsageError):
            ClientNode(servers)
        with pytest.raises(UsageError):
            MiddleNode(servers, tmp_path / "middle", 0)


def test_listing_is_empty_without_versions(tmp_path: Path) -> None:
    origin = OriginServer(tmp_path / "data", 0)
    try:
        client = ClientNode([f"127.0.0.1:{origin.port}"], tmp_path / "out")
        assert client.list_available_versions() == {}
        assert client.download_version("v1") is None
        assert client.download_version("latest") is None
    finally:
        origin.shutdown()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_listing_is_empty_without_reachable_server(caplog: pytest.LogCaptureFixture) -> None:
    with dead_address() as dead:
        assert ClientNode([dead]).list_available_versions() == {}
    assert any(dead in one.getMessage() for one in caplog.records)


def test_download_of_missing_version_returns_none(payload: Path, tmp_path: Path) -> None:
    data = publish(tmp_path / "data", payload.read_bytes(), SHARD)
    with BadServer(data.data_dir) as server:
        client = ClientNode([server.address], tmp_path / "out")
        assert client.download_version("v2") is None
        with pytest.raises(UsageError):
            client.download_version("../v1")


def test_failed_download_raises(payload: Path, tmp_path: Path) -> None:
    data = publish(tmp_path / "data", payload.read_bytes(), SHARD)
    with BadServer(data.data_dir) as server:
        server.set("/v1/shard_002.bin", bad.flipped(5))
        with pytest.raises(IntegrityError, match="v1 shard 2"):
            ClientNode([server.address], tmp_path / "out").download_version("v1")
    assert not (tmp_path / "out" / "download_v1.bin").exists()


async def test_async_client_downloads(payload: Path, tmp_path: Path) -> None:
    data = publish(tmp_path / "data", payload.read_bytes(), SHARD)
    with BadServer(data.data_dir) as one, BadServer(data.data_dir) as two:
        async with shardcast.Client([one.address, two.url], tmp_path / "out") as client:
            assert [listing.version for listing in await client.listings()] == ["v1"]
            offered = await client.offered()
            assert [(one.listing.shards, one.header and one.header.size) for one in offered] == [(4, SIZE)]
            first, second = await asyncio.gather(
                client.download("v1"), client.download("latest", tmp_path / "second.bin")
            )
            with pytest.raises(shardcast.VersionNotOffered, match="v7"):
                await client.download("v7")
    for release, path in (
        (first, tmp_path / "out" / "download_v1.bin"),
        (second, tmp_path / "second.bin"),
    ):
        assert (release.version, release.path) == ("v1", path)
        assert sha256(path) == data.sha256 == release.manifest.digests["sha256"]


# Importing ---------------------------------------------------------------------------------------


def test_import_loads_only_used_modules() -> None:
    done = script(
        """
        import sys
        import shardcast
        heavy = {"aiohttp", "asyncio", "uvloop", "click", "rich", "tenacity", "blake3", "multiprocessing"}
        print(sorted(heavy & set(sys.modules)))
        shardcast.SHARD_SIZE, shardcast.ShardcastError
        print(sorted({"aiohttp", "click", "rich", "uvloop"} & set(sys.modules)))
        shardcast.broadcast, shardcast.initialize, shardcast.OriginServer, shardcast.MiddleNode
        print(sorted({"aiohttp", "click", "rich", "uvloop"} & set(sys.modules)))
        """
    )
    assert done.stdout.splitlines() == ["[]", "[]", "[]"], done.stderr


def test_every_public_name_is_importable() -> None:
    done = script(
        """
        from shardcast import *
        import shardcast
        missing = [name for name in shardcast.__all__ if name not in globals()]
        print(missing, [name for name in shardcast.__all__ if name not in dir(shardcast)])
        print(shardcast.__all__ == sorted(shardcast.__all__, key=lambda one: (one.lower() == one, one)))
        """
    )
    assert done.stdout.splitlines()[0] == "[] []", done.stderr
    for name in shardcast.__all__:
        assert getattr(shardcast, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = shardcast.no_such_name
