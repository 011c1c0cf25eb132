"""Work that is cancelled, interrupted or forked at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from shardcast.access.client_access import ClientAccess
from shardcast.access.live_context import LiveContext
from shardcast.access.tls import ClientTls
from shardcast.api.background import Background
from shardcast.peer.bulk import Bulk
from shardcast.peer.requests import RangeRequest
from shardcast.peer.session import Session
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.store.data_dir import DataDir
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.bad_servers import BadServer
from tests.support.payloads import PIECE, random_bytes
from tests.support.processes import environment
from tests.support.published import Published, publish

SHARD = 40_000
BOUND = 20.0
DATA = random_bytes(4 * PIECE)
(WHOLE,) = payloads.shards([DATA])


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), BOUND)


class Held:
    """A call that a test holds back in whichever thread it is made."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.begun.set()
        assert self.go.wait(BOUND)


# An answer that nobody waits for any more ---------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(SHARD), SHARD)


@contextlib.asynccontextmanager
async def landing_of(published: Published, output: Path) -> AsyncIterator[Landing]:
    live = LiveManifest.of(published.manifest)
    with contextlib.closing(OutputFile(output, live)) as filling:
        landing = await filling.landing(live.shards[0])
        try:
            yield landing
        finally:
            landing.close()


def connections_to(server: BadServer, threads: ThreadPoolExecutor) -> Bulk:
    """Those of a session with these threads, which are closed by hand."""
    session = SimpleNamespace(
        threads=threads,
        closing=[],
        access=ClientAccess(),
        tls=LiveContext(ClientTls()),
        downloads=None,
    )
    return Bulk(server.url, cast(Session, session), BOUND)


async def test_connection_of_cancelled_answer_is_closed(published: Published, tmp_path: Path) -> None:
    """Cancelled while its last piece is written, it would be fit to be used again, and nobody closes it.
    A connection that is left open is a ResourceWarning, which fails the test."""
    held = Held()
    with BadServer(published.data_dir) as server, ThreadPoolExecutor(1) as threads:
        connections = connections_to(server, threads)
        async with landing_of(published, tmp_path / "got") as landing:
            land = landing.land_in_thread

            def slowly(start: int, data: memoryview) -> None:
                held.wait()
                land(start, data)

            landing.land_in_thread = slowly  # type: ignore[method-assign, assignment]
            receiving = connections.receive("/v1/shard_001.bin", {}, landing, RangeRequest(0, SHARD))
            asking = asyncio.ensure_future(receiving)
            await until(held.begun.is_set)
            asking.cancel()
            await asyncio.wait([asking])
            held.go.set()
            await asyncio.to_thread(threads.shutdown)
        connections.close()
        del asking, receiving
        gc.collect()
        await until(lambda: server.idle)


@pytest.mark.parametrize("ever", [True, False], ids=["begins-later", "never-begins"])
async def test_answer_cancelled_before_its_thread_starts_sends_no_request(
    ever: bool, published: Published, tmp_path: Path
) -> None:
    """Its thread may come later, or never where the session ends; the connection is closed either way."""
    held = Held()
    with BadServer(published.data_dir) as server, ThreadPoolExecutor(1) as threads:
        threads.submit(held.wait)
        connections = connections_to(server, threads)
        async with landing_of(published, tmp_path / "got") as landing:
            order = RangeRequest(0, SHARD)
            asking = asyncio.ensure_future(connections.receive("/v1/shard_001.bin", {}, landing, order))
            await until(lambda: not server.idle)  # connected, and waiting for a thread
            asking.cancel()
            await asyncio.wait([asking])
            if not ever:
                threads.shutdown(wait=False, cancel_futures=True)
            held.go.set()
            await asyncio.to_thread(threads.shutdown)
        connections.close()
        del asking
        gc.collect()
        await until(lambda: server.idle)
        assert server.requested() == 0


# A thread that goes on writing -------------------------------------------------------------------


async def test_write_of_a_cancelled_download_never_reaches_another_file(tmp_path: Path) -> None:
    """The number of a descriptor that is closed too early is given to the next file that is opened."""
    held, part, other = Held(), tmp_path / "part", tmp_path / "other"
    landing = Landing(WHOLE, PIECE, path=part, descriptor=os.open(part, os.O_RDWR | os.O_CREAT))
    number = landing.descriptor

    def late() -> None:
        held.wait()
        landing.land_in_thread(0, DATA)

    writing = asyncio.ensure_future(landing.in_thread(late))
    await until(held.begun.is_set)
    writing.cancel()
    await asyncio.wait([writing])
    landing.close()
    with other.open("wb"):
        held.go.set()
        await until(lambda: landing.whole)
    assert other.read_bytes() == b""
    assert part.read_bytes() == DATA
    await until(lambda: landing.descriptor < 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


async def test_interrupt_while_a_version_is_completed_waits_for_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, output = payloads.manifest(DATA), tmp_path / "got"
    filling = OutputFile(output, LiveManifest.of(manifest))
    for shard in manifest.shards:
        landing = await filling.landing(shard)
        await landing.land(0, DATA[shard.offset : shard.end])
        landing.close()
    held, fsync = Held(), os.fsync

    def slowly(descriptor: int) -> None:
        held.wait()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slowly)
    completing = asyncio.ensure_future(filling.complete(manifest))
    await until(held.begun.is_set)
    completing.cancel()
    await asyncio.wait([completing], timeout=0.05)
    assert not completing.done(), "the file would be closed under the thread that works with it"
    held.go.set()
    await asyncio.wait([completing])
    filling.close()
    assert completing.cancelled()
    assert output.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [output]


async def test_lines_are_checked_before_they_reach_the_disk(tmp_path: Path) -> None:
    lines = payloads.manifest(DATA).raw.splitlines(keepends=True)
    held = DataDir(tmp_path / "data", "middle")
    try:
        folders = VersionFolders(held)
        folders.load(True)
        opened = await folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(b"".join(lines[:2]))
        with pytest.raises(ManifestError):
            opened.append_manifest(b'{"shard":99}\n')
        assert opened.place.manifest.read_bytes() == b"".join(lines[:2])
        opened.append_manifest(b"".join(lines[2:]))
        assert opened.place.manifest.read_bytes() == b"".join(lines)
    finally:
        held.close()


# Interrupts and forks ----------------------------------------------------------------------------


def test_interrupt_while_waiting_for_result_ends_the_work() -> None:
    begun, ended, main = threading.Event(), threading.Event(), threading.get_ident()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupt() -> None:
        assert begun.wait(BOUND)
        while not waits_for_result(main):
            time.sleep(0.005)
        signal.pthread_kill(main, signal.SIGINT)

    background = Background(work())
    interrupting = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever earlier tests left
    try:
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            background.result()
        interrupting.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.is_set()
    assert background.wait(0)


def waits_for_result(thread: int) -> bool:
    """Whether a thread is inside ``result``, and waits there."""
    frame = sys._current_frames().get(thread)
    waits = frame is not None and frame.f_code.co_filename == threading.__file__
    while frame and frame.f_code is not Background.result.__code__:
        frame = frame.f_back
    return waits and frame is not None


FORKS = """
import os, signal, threading
import shardcast, shardcast.api.current_origin

held, go = threading.Event(), threading.Event()

class SlowOrigin:
    def __init__(self, *words, **more):
        held.set()
        go.wait()
    def shutdown(self, wait):
        pass

shardcast.api.current_origin.OriginServer = SlowOrigin
beginning = threading.Thread(target=shardcast.initialize)
beginning.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    shardcast.shutdown()
    os._exit(7)
_, status = os.waitpid(child, 0)
go.set()
beginning.join()
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_forked_during_initialize_is_not_locked_out() -> None:
    """A trainer forks its workers from one thread while another calls ``initialize``."""
    words = [sys.executable, "-W", "ignore", "-c", FORKS]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "7", done.stdout + done.stderr
