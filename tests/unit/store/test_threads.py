"""What threads write while the event loop reads it, and what the loop changes while threads read."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardcast.blobs.directory.verify_cache import VerifiedFile, VerifyCache
from shardcast.protocol.manifest_reader import ManifestError, ManifestReader
from shardcast.store import removing
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.piece_map import PieceMap
from shardcast.store.removing import Remover
from shardcast.store.versions import VersionFolders
from tests.integration.test_put_aside import NEW, OLD, A, B, change, started_with
from tests.support.folders import StoredNode
from tests.support.payloads import PIECE, manifest, random_bytes, sha256

LINES = manifest(random_bytes(2000 * PIECE), shard_size=PIECE).raw.splitlines(keepends=True)
RIGHT, NEXT = b"".join(LINES[:1501]), b"".join(LINES[1501:1600])
WRONG = NEXT + b'{"shard": 7}\n'


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@contextmanager
def hammering(work: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Have a thread do something again and again for as long as the block runs; gives whether there is still
    time. What it raises is raised at the end."""
    stop, deadline = threading.Event(), time.monotonic() + 0.3

    def hammer() -> None:
        while not stop.is_set():
            work()

    with ThreadPoolExecutor(1) as thread:
        hammered = thread.submit(hammer)
        try:
            yield lambda: time.monotonic() < deadline and not hammered.done()
        finally:
            stop.set()
            hammered.result(10)


# Lines


def test_shards_of_wrong_manifest_lines_are_never_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveManifest("v1")
    live.add(RIGHT)
    take, seen = ManifestReader._read_line, set[tuple[int, int, bool]]()

    def look(self: ManifestReader, line: bytes) -> None:
        take(self, line)
        seen.add((len(live.shards), live.size, live.has_header))

    monkeypatch.setattr(ManifestReader, "_read_line", look)
    with pytest.raises(ManifestError):
        live.add(WRONG)
    assert seen == {(1500, 2000 * PIECE, True)}
    live.add(NEXT)
    assert len(live.shards) == 1599
    assert bytes(live.raw) == RIGHT + NEXT


def test_manifest_does_not_begin_with_wrong_first_line() -> None:
    live = LiveManifest("v1")
    with pytest.raises(ManifestError):
        live.add(LINES[0] + b"{}" * 40_000 + b"\n")
    assert not live.has_header
    live.add(RIGHT)
    assert live.has_header


def test_manifest_only_grows_while_wrong_lines_are_rolled_back() -> None:
    live = LiveManifest("v1")
    live.add(RIGHT)

    def add_wrong() -> None:
        with pytest.raises(ManifestError):
            live.add(WRONG)

    with hammering(add_wrong) as time_left:
        while time_left():
            shards = live.shards
            assert len(shards) == 1500
            assert shards[1499].number == 1500
            assert live.header.size == 2000 * PIECE


async def test_only_shards_of_accepted_lines_are_requested(tmp_path: Path) -> None:
    directory = DataDir(tmp_path, "middle")
    live = LiveManifest("v1")
    live.add(RIGHT)
    opened = VersionFolders(directory).open(1, live)

    def add_wrong() -> None:
        with pytest.raises(ManifestError):
            opened.append_manifest(WRONG)

    with hammering(add_wrong) as time_left:
        while time_left():
            waiting = [
                asyncio.ensure_future(opened.wait_for_shard(number)) for number in (1499, 1500, 1501, 1550)
            ]
            wanted = [await asyncio.wait_for(opened.next_wanted(), 5) for _ in range(2)]
            assert [shard.number for shard in wanted] == [1499, 1500]
            assert not opened._requests._wanted
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
    directory.close()


# Pieces


class LandsMeanwhile(bytearray):
    """Pieces of which the last one lands as soon as somebody looks at it alone."""

    def __getitem__(self, index: Any) -> Any:
        self[-1:] = b"\1"
        return super().__getitem__(index)


def test_byte_count_is_consistent_when_piece_lands_meanwhile() -> None:
    pieces = PieceMap(PIECE + 1, PIECE)
    pieces.mark(0, 1)
    pieces._landed = LandsMeanwhile(pieces._landed)
    assert pieces.byte_count == PIECE
    assert pieces._landed[-1] == 1
    assert pieces.byte_count == PIECE + 1


# What the loop changes


class LoopOnly(dict[Any, Any]):
    """A dictionary, or the keys of a set, that one thread may change."""

    def __init__(self, *content: Any) -> None:
        super().__init__(*content)
        self._owner = threading.get_ident()

    def _check(self) -> None:
        assert threading.get_ident() == self._owner, "another thread changed what the event loop reads"

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._check()
        super().__delitem__(key)

    def pop(self, *key: Any) -> Any:
        self._check()
        return super().pop(*key)

    def clear(self) -> None:
        self._check()
        super().clear()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoredNode]:
    running = StoredNode(tmp_path / "data")
    yield running
    running.stop()


async def test_only_the_event_loop_changes_the_inventory(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    folders.inventory.open = opened = LoopOnly(folders.inventory.open)
    folders.inventory.withdrawn = LoopOnly(folders.inventory.withdrawn)
    coming = manifest(random_bytes(3 * PIECE), "v7", PIECE, origin=A)
    await folders.begin_version(7, LiveManifest.of(coming))  # opens a version
    await change(folders, B, NEW)  # discards it
    await change(folders, A, OLD)
    await folders.change_line(A, {}, 0)  # puts all aside
    assert folders.inventory.open is opened


async def test_only_the_event_loop_hides_a_version(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    folders.inventory.open = LoopOnly(folders.inventory.open)
    folders.inventory.line = folders.line.with_digests({})  # as on a stand-in's word
    await folders.unlist(max(OLD))
    assert folders.hidden_numbers == {max(OLD)}


async def test_shard_lookup_in_thread_is_safe_during_changes(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    here = [folders.inventory.complete.get(one.version) for one in folders.listings]
    with hammering(lambda: folders.inventory.find("0" * 64)) as time_left:
        while time_left():
            for complete in here:
                assert complete
                folders.inventory.complete._versions = {}
                folders.inventory.complete.take_up(complete)


async def test_folder_removed_during_cleanup_is_deleted_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDir(tmp_path, "middle")
    for number in (1, 2):
        directory.folder(number).mkdir()
    begun, go_on = threading.Event(), threading.Event()
    gone, rename = Remover(directory, DiskUsage()), removing.rename

    def wait(*said: Any, **how: Any) -> None:
        begun.set()
        go_on.wait(10)
        rename(*said, **how)

    await gone.remove(directory.place(1))
    monkeypatch.setattr(removing, "rename", wait)
    second = asyncio.ensure_future(gone.remove(directory.place(2)))
    await asyncio.to_thread(begun.wait, 10)
    await gone.empty()
    assert not list(directory.retired.iterdir())
    go_on.set()
    await second
    await gone.empty()
    assert not list(directory.retired.iterdir())
    directory.close()


def test_verified_files_stay_bounded_with_concurrent_threads(tmp_path: Path) -> None:
    known, looks = VerifyCache(max_files=4), tmp_path.stat()
    digests = [sha256(bytes([number])) for number in range(64)]

    def add() -> None:
        for digest in digests:
            known.add(digest, looks, VerifiedFile(1))
            known.set_seal(digest, looks, "seal")
            known.forget(digest, looks)

    with hammering(add), hammering(add) as time_left:
        while time_left():
            add()
    assert len(known) <= 5
