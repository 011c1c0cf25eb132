"""gc's marks: whatever else shares a file, or changes its permissions, shortens no grace time."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardcast.blobs.copy import CopyProgress, copy
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import OWN_FOLDER, PREFIX, Folder
from shardcast.blobs.directory.marks import count_as_put, is_marked
from shardcast.blobs.maintenance.gc import GarbageCollection
from shardcast.blobs.maintenance.gc_policy import Rules
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from tests.integration.test_store_gc import HOUR, collect
from tests.support.archives import http, put_blobs
from tests.support.memory_store import BlobsInMemory
from tests.support.stores import blob_file, content, fill

BLOB = b"Hello!"
GC = Path(OWN_FOLDER, "gc")


def shared(root: Path, place: Path) -> Path:
    """A copy of a store whose files are the same (``cp -al``)."""
    shutil.copytree(root, place, copy_function=os.link)
    return place


def copied(root: Path, place: Path) -> Path:
    """A copy with permissions and times (``cp -a``, ``rsync -a``, a backup that was brought back)."""
    subprocess.run(["cp", "-a", str(root), str(place)], check=True)
    return place


def acts(result: Any) -> tuple[int, int, int]:
    """Blobs that were marked, that wait, and that were removed."""
    return result.marked.blobs, result.waiting.blobs, result.removed.blobs


MARKED, WAITS, REMOVED = (1, 0, 0), (0, 1, 0), (0, 0, 1)


@pytest.mark.parametrize("how", [shared, copied])
def test_copied_store_has_its_own_marks(tmp_path: Path, how: Callable[[Path, Path], Path]) -> None:
    root = tmp_path / "root"
    fill(root, BLOB)
    before = how(root, tmp_path / "before")
    assert acts(collect(root, later=2 * HOUR)) == MARKED
    after = how(root, tmp_path / "after")
    for other in (before, after):
        assert acts(collect(other, later=2 * HOUR)) == MARKED
        assert acts(collect(other, later=HOUR - 60)) == WAITS
    assert acts(collect(before, later=2 * HOUR)) == REMOVED
    if how is shared:  # that touched the file of the others
        assert acts(collect(after, later=2 * HOUR)) == MARKED
    assert acts(collect(after, later=2 * HOUR)) == REMOVED
    assert len(content(root)) == 1


def test_stores_sharing_files_delay_deletion_only_briefly(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill(root, BLOB)
    other = shared(root, tmp_path / "other")
    for one in (root, other):
        assert acts(collect(one, later=2 * HOUR)) == MARKED
    assert acts(collect(root, later=2 * HOUR)) == REMOVED
    assert acts(collect(other, later=2 * HOUR)) == MARKED
    assert acts(collect(other, later=2 * HOUR)) == REMOVED


def test_put_in_copy_restarts_grace_time_of_shared_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (key,) = fill(root, BLOB)
    other = shared(root, tmp_path / "other")
    for one in (root, other):
        collect(one, later=2 * HOUR)
    assert count_as_put(BlobDirectory(other, writable=True).folder, key)
    for one in (root, other):
        assert acts(collect(one, later=2 * HOUR)) == MARKED


@pytest.mark.parametrize("mode", ["o+x", "0445", "g+w", "a-x", "u+rw,o+rx"])
def test_changed_permissions_restart_the_grace_time(tmp_path: Path, mode: str) -> None:
    (key,) = fill(tmp_path, BLOB)
    change = ["chmod", "-R", mode, str(tmp_path / key[:2])]
    subprocess.run(change, check=True)
    assert acts(collect(tmp_path, later=2 * HOUR)) == MARKED
    assert acts(collect(tmp_path, later=HOUR - 60)) == WAITS
    subprocess.run(change, check=True)
    assert acts(collect(tmp_path, later=HOUR - 60)) == (0, 0, 0)
    assert acts(collect(tmp_path, later=2 * HOUR)) == MARKED
    assert acts(collect(tmp_path, later=2 * HOUR)) == REMOVED


def test_marks_of_earlier_versions_restart_the_grace_time(tmp_path: Path) -> None:
    (key,) = fill(tmp_path, BLOB)
    blob_file(tmp_path, key).chmod(0o445)  # as 0.4.0 marked it, who knows when
    assert acts(collect(tmp_path, later=9 * HOUR)) == MARKED
    assert acts(collect(tmp_path, later=9 * HOUR)) == REMOVED


def test_interrupted_run_loses_at_most_its_own_marks(tmp_path: Path) -> None:
    keys = fill(tmp_path, *(b"%d" % number for number in range(2000)))

    def begin() -> GarbageCollection:
        folder, now = Folder(str(tmp_path), PREFIX), time.time() + 2 * HOUR
        return GarbageCollection(folder, set(), Rules(0, HOUR), now=now, delete=True)

    left = begin()
    run = left.run()
    next(run)
    run.close()
    first = left.result.marked.blobs
    assert 0 < first < len(keys)
    whole = collect(tmp_path, later=HOUR - 60)
    assert whole.waiting.blobs == first
    (tmp_path / GC / "marks").unlink()  # as when it was killed
    again = collect(tmp_path, later=2 * HOUR)
    assert (again.removed.blobs, again.marked.blobs) == (0, len(keys))


def test_damaged_lines_lose_only_their_marks(tmp_path: Path) -> None:
    fill(tmp_path, BLOB, b"two")
    collect(tmp_path, later=2 * HOUR)
    record = tmp_path / GC / "marks"
    lines = record.read_bytes().splitlines()
    record.write_bytes(b"nonsense\n" + lines[0] + b"\n" + lines[1][:70])
    result = collect(tmp_path, later=2 * HOUR)
    assert (result.removed.blobs, result.marked.blobs) == (1, 1)
    collect(tmp_path, later=2 * HOUR)
    collect(tmp_path)
    assert record.read_bytes() == b"", "of blobs that are gone there is no mark"


# Put again, by who may not touch the file


@pytest.fixture
def of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a marked blob, whose file belongs to another user than who puts."""
    (key,) = fill(tmp_path, BLOB)
    collect(tmp_path, later=2 * HOUR)
    chmod, file = os.chmod, str(blob_file(tmp_path, key))

    def refuse(path: Any, *rest: Any, **more: Any) -> None:
        if path == file:
            raise PermissionError(1, os.strerror(1), path)
        chmod(path, *rest, **more)

    monkeypatch.setattr("shardcast.blobs.directory.layout.os.chmod", refuse)
    return Path(file)


async def put_at_a_server(root: Path) -> int:
    settings = StoreSettings(root, writable=True)
    async with StoreServer.running(settings) as server, http() as session:
        key = next(iter(content(root)))
        async with session.put(f"{server.url}/{key}", data=BLOB) as answer:
            return answer.status


async def test_put_by_another_user_restarts_the_grace_time(tmp_path: Path, of_others: Path) -> None:
    assert await put_at_a_server(tmp_path) == 201
    assert is_marked(of_others.stat())
    assert acts(collect(tmp_path, later=HOUR - 60)) == (0, 0, 0)
    assert acts(collect(tmp_path, later=2 * HOUR)) == MARKED
    assert acts(collect(tmp_path, later=4 * HOUR)) == REMOVED
    assert list((tmp_path / GC / "put").iterdir()) == []


async def test_blob_is_stored_anew_when_put_cannot_be_recorded(tmp_path: Path, of_others: Path) -> None:
    (tmp_path / GC / "put").write_text("in the way")
    assert await put_at_a_server(tmp_path) == 200
    assert not is_marked(of_others.stat())


def test_put_by_another_user_at_moment_of_deletion_stays(
    tmp_path: Path, of_others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, outcomes = BlobDirectory(tmp_path, writable=True), []
    rename = Path.rename

    def put_just_before(self: Path, target: Path) -> Path:
        if self == of_others:
            outcomes.append(count_as_put(store.folder, self.name))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", put_just_before)
    assert acts(collect(tmp_path, later=4 * HOUR)) == (0, 0, 0)
    assert outcomes == [True]
    assert content(tmp_path) == {of_others.name: BLOB}


def test_cleared_mark_survives_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob counts as put again when it can't be marked any more, also after the power went."""
    (key,) = fill(tmp_path, BLOB)
    store, file, synced = BlobDirectory(tmp_path, writable=True), blob_file(tmp_path, key), list[int]()
    fsync = os.fsync

    def look(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), file.stat()):
            synced.append(os.fstat(descriptor).st_mode & 0o777)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    assert count_as_put(store.folder, key)
    assert synced == [], "nothing was marked"
    collect(tmp_path, later=2 * HOUR)
    assert count_as_put(store.folder, key)
    assert synced == [0o444]


def test_removed_blob_is_not_counted_as_put(tmp_path: Path, of_others: Path) -> None:
    store = BlobDirectory(tmp_path, writable=True)
    assert count_as_put(store.folder, of_others.name)
    of_others.unlink()
    assert not count_as_put(store.folder, of_others.name)


async def test_pull_of_local_blob_clears_its_mark(tmp_path: Path) -> None:
    (key,) = fill(tmp_path, BLOB)
    collect(tmp_path, later=2 * HOUR)
    source, state, store = BlobsInMemory(), CopyProgress(), BlobDirectory(tmp_path, writable=True)
    await put_blobs(source, BLOB)
    await copy(source, store, [key], state)
    await store.close()
    assert state.present == 1
    assert acts(collect(tmp_path, later=2 * HOUR)) == MARKED
