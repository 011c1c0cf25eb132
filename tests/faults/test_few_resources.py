"""Few descriptors, few threads, little memory: less at once, or an error that says what is lacking."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

import shardcast
from shardcast.concurrency import ThreadPool
from shardcast.errors import CannotAsk, LocalLimit, ServerUnreachable
from shardcast.nodes.runtime import run
from shardcast.peer import connecting
from shardcast.peer.connecting import SocketAddress
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.protocol.manifest import Shard
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from shardcast.upstream.follow import no_news_error
from tests.support import processes
from tests.support.bad_servers import BadServer, dead_address
from tests.support.published import publish, random_bytes

PAYLOAD = random_bytes(3_000_000)
FEW_THREADS = """
import sys, threading
most, start = int(sys.argv.pop(1)), threading.Thread.start
def few(thread):
    if threading.active_count() > most:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = few
from shardcast.cli.main import main
main()
"""
LITTLE_MEMORY = """
import sys, resource
from shardcast.cli.main import main
import shardcast.sharding.cutter, shardcast.nodes.origin, shardcast.nodes.client
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv.pop(1)),) * 2)
main()
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An origin with a version of 30 shards."""
    data_dir = tmp_path_factory.mktemp("origin") / "data"
    publish(data_dir, PAYLOAD, 100_000)
    with processes.origin(data_dir) as origin:
        yield origin.url


def command(script: str, most: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(most), *words],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def with_descriptors(count: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        processes.command(*words),
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count)),
    )


def download(url: str, output: Path) -> list[str]:
    return ["client", "--servers", url, "--version", "v1", "--output-file", str(output)]


# Descriptors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [22, 27])
def test_client_with_few_descriptors_lowers_concurrency(count: int, url: str, tmp_path: Path) -> None:
    done = with_descriptors(count, *download(url, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == PAYLOAD


@pytest.mark.parametrize("count", [8, 12])
def test_client_with_too_few_descriptors_exits_with_6(count: int, url: str, tmp_path: Path) -> None:
    done = with_descriptors(count, *download(url, tmp_path / "out"))
    assert done.returncode == 6
    assert re.fullmatch(r"Error: (.*: )?too many open files; allow this process more .*\n", done.stderr)


def test_server_that_cannot_accept_connections_logs_it(tmp_path: Path) -> None:
    """asyncio tells it to its own log alone, which nobody reads."""
    publish(tmp_path / "data", b"payload", 100)
    with processes.origin(tmp_path / "data") as origin:
        open_now = len(list(Path(f"/proc/{origin.process.pid}/fd").iterdir()))
        resource.prlimit(origin.process.pid, resource.RLIMIT_NOFILE, (open_now, open_now))
        with socket.create_connection(("127.0.0.1", origin.port)):
            origin.wait_for_log("no connection is accepted for now: too many open files; allow this process")
        assert origin.log.count("no connection is accepted") == 1


def test_failure_to_accept_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """asyncio tries each second."""

    async def fail() -> None:
        context = {
            "message": "socket.accept() out of system resource",
            "exception": OSError(errno.EMFILE, "x"),
        }
        for _ in range(3):
            asyncio.get_running_loop().call_exception_handler(context)

    run(fail())
    assert [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR] == [
        f"no connection is accepted for now: {LocalLimit.of(OSError(errno.EMFILE, 'x'))}"
    ]


def test_limit_of_open_files_is_raised_to_the_hard_limit() -> None:
    """A cluster that comes at once takes more than the usual 1024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def limits() -> tuple[int, int]:
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(500, before[1]), before[1]))
    try:
        assert run(limits()) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limits_fit_the_free_descriptors() -> None:
    limits = Limits(at_once=10, look_ahead=10)
    assert limits.within(1000) == limits
    assert (limits.within(20).at_once, limits.within(20).look_ahead) == (7, 7)
    assert (limits.within(0).at_once, limits.within(0).look_ahead) == (1, 1)


async def test_download_survives_temporary_lack_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that uses the library opens files of its own meanwhile."""
    published, full = publish(tmp_path / "data", PAYLOAD, 300_000), set[int]()
    landing, connect = OutputFile.landing, connecting._connect_to
    connected: list[SocketAddress] = []

    async def land(filling: OutputFile, shard: Shard) -> Landing:
        if shard.number > 1 and shard.number not in full:
            full.add(shard.number)
            raise LocalLimit("too many open files")
        return await landing(filling, shard)

    async def connect_once(place: SocketAddress) -> socket.socket:
        connected.append(place)
        if len(connected) in (2, 3):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await connect(place)

    monkeypatch.setattr(OutputFile, "landing", land)
    monkeypatch.setattr(connecting, "_connect_to", connect_once)
    live = LiveManifest.of(published.manifest)
    with (
        BadServer(published.data_dir) as server,
        contextlib.closing(OutputFile(tmp_path / "out", live)) as out,
    ):
        async with open_session() as session:
            limits = Limits(attempts=1, unreachable_at_start=0, unreachable_once_begun=0)
            await Transfer(live, [Peer(server.url, session)], out, limits=limits).run()
    assert (tmp_path / "out").read_bytes() == PAYLOAD
    assert len(full) == 9


async def test_local_lack_of_connections_blames_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(place: SocketAddress) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(connecting, "_connect_to", connect)
    live = LiveManifest.of(publish(tmp_path / "data", b"payload", 100).manifest)
    with dead_address() as dead, contextlib.closing(OutputFile(tmp_path / "out", live)) as out:
        async with open_session() as session:
            limits = Limits(attempts=1, unreachable_at_start=0, unreachable_once_begun=0)
            with pytest.raises(LocalLimit, match="too many open files"):
                await Transfer(live, [Peer(f"http://{dead}", session)], out, limits=limits).run()


# Threads -----------------------------------------------------------------------------------------


def test_client_with_few_threads_lowers_concurrency(url: str, tmp_path: Path) -> None:
    # The loop, which needs four threads of its own where there are enough, does without them here.
    done = command(FEW_THREADS, 4, *download(url, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    # How many depends on which of its parts had threads first.
    assert re.search(r"requests at once from now on: \d at most; no more threads can be started", done.stderr)
    assert (tmp_path / "out").read_bytes() == PAYLOAD


@pytest.mark.parametrize("role", ["client", "broadcast", "origin"])
def test_command_without_threads_exits_with_6(role: str, url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"payload")
    words = {
        "client": download(url, tmp_path / "out"),
        "broadcast": ["broadcast", str(file), "--data-dir", str(tmp_path / "data")],
        "origin": ["origin", "--data-dir", str(tmp_path / "data"), "--host", "127.0.0.1", "--port", "0"],
    }
    done = command(FEW_THREADS, 0, *words[role])
    assert done.returncode == 6, done.stderr
    assert "Error: no more threads can be started; allow more of them (ulimit -u" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def only_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many more threads can be started, in a list of one."""
    left, start = [1], threading.Thread.start

    def few(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    yield left


def test_work_waits_for_existing_threads(only_threads: list[int]) -> None:
    with ThreadPool(4, "work") as threads:
        assert [one.result(10) for one in [threads.submit(lambda n=n: n) for n in range(8)]] == list(range(8))


def test_exclusive_work_fails_without_a_free_thread(only_threads: list[int]) -> None:
    going, begun = threading.Event(), threading.Event()
    with ThreadPool(4, "work", dedicated=True) as threads:
        first = threads.submit(lambda: (begun.set(), going.wait(10)))
        begun.wait(10)
        with pytest.raises(LocalLimit, match="no more threads"):
            threads.submit(lambda: None)
        going.set()
        first.result(10)


def test_exclusive_work_reuses_a_thread_that_just_ended(only_threads: list[int]) -> None:
    going, second = threading.Event(), list[Future[int]]()
    with ThreadPool(4, "work", dedicated=True) as threads:
        first = threads.submit(going.wait, 10)
        first.add_done_callback(lambda _: second.append(threads.submit(lambda: 2)))  # in the thread itself
        going.set()
        assert first.result(10)
    assert [one.result(10) for one in second] == [2]


RUN = """
import asyncio, os, sys, threading
start, ours = threading.Thread.start, set()
def few(thread):
    if threading.active_count() > int(sys.argv[1]):
        raise RuntimeError("can't start new thread")
    start(thread)
    ours.add(str(thread.native_id))
threading.Thread.start = few
from shardcast.nodes.runtime import run
async def look():
    print(type(asyncio.get_running_loop()).__module__, len(set(os.listdir("/proc/self/task")) - ours))
run(look(), fast_loop=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("most", "loop"),
    [
        (20, "uvloop 5\n"),  # the threads of libuv are there before any look-up
        (9, "asyncio.unix_events 1\n"),
        (0, "asyncio.unix_events 1\n"),
    ],
)
def test_libuv_is_not_used_where_it_would_abort(most: int, loop: str) -> None:
    """It aborts the process when it can't start its threads, at the first look-up of a name."""
    done = command(RUN, most)
    assert (done.returncode, done.stdout) == (0, loop)


def test_only_concurrency_module_makes_thread_pools() -> None:
    """What makes its own pool goes round what is done where no thread can be started."""
    package = Path(shardcast.__file__).parent
    named = [file for file in package.rglob("*.py") if "ThreadPoolExecutor" in file.read_text()]
    assert named == [package / "concurrency.py"]


# Memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["client", "broadcast"])
def test_command_with_too_little_memory_exits_with_6(role: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PAYLOAD)
    words = {
        "client": download(url, tmp_path / "out"),
        "broadcast": ["broadcast", str(tmp_path / "file"), "--data-dir", str(tmp_path / "data")],
    }
    done = command(LITTLE_MEMORY, 1_000_000, *words[role])
    assert done.returncode == 6, done.stderr
    assert re.search(r"Error: .*(too little memory|no more threads can be started)", done.stderr)
    assert "Traceback" not in done.stderr


# What is told apart ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (OSError(errno.ENFILE, "x"), "on this machine"),
        (OSError(errno.ENOMEM, "x"), "memory"),
        (MemoryError(), "memory"),
        (ImportError("x.so: failed to map segment from shared object"), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
    ],
)
def test_errors_of_machine_limits_are_recognized(error: BaseException, text: str) -> None:
    limit = LocalLimit.of(error)
    assert limit and text in str(limit)


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), RuntimeError("x"), ImportError("x")])
def test_other_errors_are_no_machine_limits(error: BaseException) -> None:
    assert LocalLimit.of(error) is None


def test_machine_limit_among_failures_blames_no_server() -> None:
    failures = {"a": ServerUnreachable("a", "refused"), "b": CannotAsk("b", "too many open files")}
    assert isinstance(no_news_error(failures), LocalLimit)


def test_loop_logs_other_errors_through_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "another", "exception": OSError("x")})

    with caplog.at_level(logging.ERROR, "asyncio"):
        run(fail())
    assert [one.name for one in caplog.records] == ["asyncio"]
