"""An origin that dies under its process: the next call starts it again, once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shardcast
from shardcast import ClientNode, NodeFailed, NoNode, OriginServer, ShardcastError, UsageError
from shardcast.api import origin_process
from tests.support import processes
from tests.support.published import random_bytes, sha256


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(700_000))
    return file


@pytest.fixture(autouse=True)
def shut_down() -> Iterator[None]:
    yield
    shardcast.shutdown(wait=0)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[OriginServer]:
    running = OriginServer(tmp_path / "data", 0, max_distribution_folders=2)
    yield running
    running.shutdown(wait=0)


def kill(origin: OriginServer | None) -> None:
    assert origin
    os.kill(origin._process.pid, signal.SIGKILL)


def listed(origin: OriginServer) -> list[str]:
    return list(ClientNode([f"127.0.0.1:{origin.port}"]).list_available_versions())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


def stream(origin: OriginServer, payload: Path) -> str:
    with origin.open_broadcast("x.bin") as out:
        out.write(payload.read_bytes())
    return out.version


CALLS: list[Callable[[OriginServer, Path], str]] = [
    lambda origin, payload: origin.broadcast(payload),
    lambda origin, payload: origin.broadcast(payload, wait=False).result(30),
    stream,
]


@pytest.mark.parametrize("call", CALLS, ids=["broadcast", "a handle", "open_broadcast"])
def test_next_call_restarts_dead_origin_with_same_options(
    call: Callable[[OriginServer, Path], str],
    payload: Path,
    origin: OriginServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        origin.broadcast(payload)
    url, port = origin.url, origin.port
    kill(origin)
    assert call(origin, payload) == "v3"
    assert (origin.url, origin.port) == (url, port)
    assert listed(origin) == ["v2", "v3"], "it keeps two versions, as before"
    fetched = ClientNode([f"127.0.0.1:{port}"], tmp_path / "out").download_version("v2")
    assert fetched
    assert sha256(Path(fetched)) == sha256(payload)
    (warning,) = warnings(caplog)
    assert "has died (SIGKILL) and is started again" in warning


def test_initialize_restarts_dead_origin(
    payload: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    shardcast.broadcast(payload)
    origin = shardcast.api.current_origin._origin
    assert origin
    kill(origin)
    processes.wait_until(lambda: not origin._process.running, what="it to die")
    shardcast.initialize(tmp_path / "data", 0)
    assert listed(origin) == ["v1"]
    assert shardcast.broadcast(payload) == "v2"
    assert len(warnings(caplog)) == 1, "not that it is already initialized"


def test_second_death_within_a_minute_raises(payload: Path, origin: OriginServer) -> None:
    kill(origin)
    assert origin.broadcast(payload) == "v1"
    kill(origin)
    for call in CALLS:
        with pytest.raises(NodeFailed, match=r"died again \(SIGKILL\), \d+ s after it was restarted"):
            call(origin, payload)
    assert not origin._process.running


def test_death_after_a_minute_restarts_again(
    payload: Path, origin: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(origin)
    assert origin.broadcast(payload) == "v1"
    monkeypatch.setattr(origin_process, "_RESTART_INTERVAL", 0.0)
    kill(origin)
    assert origin.broadcast(payload) == "v2"


def test_concurrent_threads_restart_origin_once(
    payload: Path, origin: OriginServer, caplog: pytest.LogCaptureFixture
) -> None:
    kill(origin)
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: origin.broadcast(payload), range(8)))
    assert sorted(versions) == [f"v{number}" for number in range(1, 9)]
    assert len(warnings(caplog)) == 1


def test_running_broadcast_fails_and_next_restarts(
    payload: Path, origin: OriginServer, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(300_000_000))
    handle = origin.broadcast(large, 100_000, wait=False)
    processes.wait_until(lambda: handle.progress.done, what="it to begin")
    kill(origin)
    with pytest.raises(NodeFailed, match=r"(went away|ended) while it published"):
        handle.result(20)
    assert origin.broadcast(payload) == "v2", "a number was given twice"
    assert listed(origin) == ["v2"]


def test_origin_reaped_by_the_program_is_restarted(
    payload: Path, origin: OriginServer, caplog: pytest.LogCaptureFixture
) -> None:
    kill(origin)
    os.waitpid(origin._process.pid, 0)
    assert origin.broadcast(payload) == "v1"
    assert "has died (exit code unknown)" in warnings(caplog)[0]


def test_nothing_is_restarted_after_shutdown(payload: Path, origin: OriginServer) -> None:
    origin.shutdown()
    with pytest.raises(NodeFailed, match="was shut down"):
        origin.broadcast(payload)
    kill_then_shut_down = OriginServer(origin.data_dir, 0)
    kill(kill_then_shut_down)
    begun = time.monotonic()
    kill_then_shut_down.shutdown()
    assert time.monotonic() - begun < 5


def test_taken_port_raises_and_is_retried(payload: Path, origin: OriginServer) -> None:
    kill(origin)
    processes.wait_until(lambda: not origin._process.running, what="it to die")
    taken = socket.create_server(("0.0.0.0", origin.port))
    with taken, pytest.raises(NodeFailed, match=str(origin.port)):
        origin.broadcast(payload)
    assert origin.broadcast(payload) == "v1"


def test_followers_get_versions_of_restarted_origin(
    payload: Path, origin: OriginServer, tmp_path: Path
) -> None:
    with processes.middle(f"127.0.0.1:{origin.port}", tmp_path / "m"):
        assert origin.broadcast(payload, copies=1, timeout=30) == "v1"
        kill(origin)
        assert origin.broadcast(payload, copies=1, timeout=30) == "v2"


WORKER = """
import os, signal, sys, time
import shardcast

data_dir, payload = sys.argv[1:]
shardcast.initialize(data_dir, 0)
owner, origin = os.getpid(), shardcast.api.current_origin._origin
worker = os.fork()
if not worker:
    os.kill(origin._process.pid, signal.SIGKILL)
    time.sleep(0.5)
    for call in (lambda: shardcast.broadcast(payload), lambda: shardcast.open_broadcast("x")):
        try:
            call()
        except shardcast.NoNode as error:
            assert f"only the process that started it ({owner}) can start it again" in str(error)
            assert isinstance(error, shardcast.NodeFailed)
            print("NoNode", flush=True)
    shardcast.shutdown()
    os._exit(0)
os.waitpid(worker, 0)
print(shardcast.broadcast(payload), flush=True)
worker = os.fork()
if not worker:
    print(shardcast.broadcast(payload), flush=True)
    os._exit(0)
os.waitpid(worker, 0)
"""


def test_only_parent_restarts_origin_not_forked_worker(payload: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", WORKER, tmp_path / "data", payload],
        env=processes.environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["NoNode", "NoNode", "v1", "v2"], done.stderr
    assert done.returncode == 0


def test_signal_handler_may_shut_down_during_restart(payload: Path, origin: OriginServer) -> None:
    """The handler runs in the thread that holds the lock."""
    kill(origin)
    processes.wait_until(lambda: not origin._process.running, what="it to die")
    before = signal.signal(signal.SIGUSR1, lambda *_: origin.shutdown(wait=0))
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(NodeFailed, match="was shut down"):
            origin.broadcast(payload)
        assert not origin._process.running
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_no_node_is_exported_and_a_node_failed(tmp_path: Path) -> None:
    from shardcast.control.client import connect
    from shardcast.errors import NoNode as same

    assert NoNode is same
    assert issubclass(NoNode, NodeFailed)
    with pytest.raises(NoNode):
        connect(tmp_path)


# The first version -------------------------------------------------------------------------------


def test_first_version_continues_after_lost_directory(payload: Path, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0, first_version=7)
    assert shardcast.broadcast(payload) == "v7"
    kill(shardcast.api.current_origin._origin)
    assert shardcast.broadcast(payload) == "v8"
    with contextlib.ExitStack() as stack:
        other = OriginServer(tmp_path / "other", 0, first_version=20)
        stack.callback(other.shutdown)
        assert (other.broadcast(payload), other.broadcast(payload)) == ("v20", "v21")


@pytest.mark.parametrize("first", [0, -1, 10**18])
def test_invalid_first_version_raises_usage_error(first: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"first_version={first} is no number of a version") as failure:
        shardcast.initialize(tmp_path / "data", 0, first_version=first)
    assert isinstance(failure.value, ShardcastError)
    assert not (tmp_path / "data").exists()
