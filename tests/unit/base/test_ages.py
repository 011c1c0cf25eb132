"""Clocks jump, and machines have one each: no age is negative, and what lies ahead keeps nobody for ever."""

from __future__ import annotations

import ast
import asyncio
import os
import time
from pathlib import Path

import pytest

import shardcast
from shardcast.ages import CLOCK_SKEW, ObservedAges, age, age_of
from shardcast.blobs.directory.layout import OWN_FOLDER, Folder
from shardcast.blobs.directory.lock_files import ExternalLocks, lock_files
from shardcast.blobs.directory.marks import note_put
from shardcast.blobs.maintenance.gc import GarbageCollection, GcResult
from shardcast.blobs.maintenance.gc_policy import Rules
from shardcast.errors import DataDirInUse
from shardcast.nodes import release_folder as announcing
from shardcast.registry import Registry, gc
from shardcast.store import directory_lock
from shardcast.store.directory_lock import OLD_AFTER, DirectoryLock
from shardcast.store.output_part import clear_abandoned
from tests.support.blob_stores import digest_of
from tests.support.stores import blob_file, fill

HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0


class Clocks:
    """A wall clock that the test sets, and one that only runs while somebody sleeps."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 0.0

    async def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds
        await asyncio.sleep(0)


def date(file: Path, when: float) -> None:
    os.utime(file, (when, when))


def is_now(file: Path) -> bool:
    return abs(file.stat().st_mtime - time.time()) < 30


def test_age_is_never_negative() -> None:
    assert (age(5, 7), age(7, 7), age(9, 7)) == (2, 0, 0)


def test_future_mtime_of_own_file_is_reset_to_now(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    date(file, 1000 + CLOCK_SKEW + 1)
    assert age_of(file, file.stat(), lambda: 1000.0) == 0
    assert age_of(file, file.stat(), lambda: 1007.0) == 7
    date(file, 1000 + CLOCK_SKEW - 1)  # that clocks differ a little is no mistake
    assert age_of(file, file.stat(), lambda: 1000.0) == 0
    assert file.stat().st_mtime == 1000 + CLOCK_SKEW - 1


def test_future_time_of_foreign_file_counts_from_first_sight() -> None:
    clocks = Clocks()
    ages = ObservedAges(lambda: clocks.wall, lambda: clocks.steady)
    assert ages.age("a", clocks.wall - 5) == 5
    ahead = clocks.wall + YEAR
    assert ages.age("a", ahead) == 0
    clocks.steady += 7
    assert ages.age("a", ahead) == 7
    assert ages.age("a", ahead + 1) == 0  # it was touched
    clocks.steady += 3
    ages.forget("a")
    assert ages.age("a", ahead + 1) == 0


def test_remembered_future_times_are_bounded() -> None:
    clocks = Clocks()
    ages = ObservedAges(lambda: clocks.wall, lambda: clocks.steady)
    for name in range(1001):
        assert ages.age(str(name), clocks.wall + YEAR) == 0
    clocks.steady += 7
    assert ages.age("1000", clocks.wall + YEAR) == 7
    assert ages.age("0", clocks.wall + YEAR) == 0, "the first of so many is forgotten"


@pytest.mark.parametrize("ahead", [0.0, HOUR, 100 * YEAR])
@pytest.mark.parametrize("which", [0, 1])
async def test_lock_with_future_mtime_expires_as_any_other(ahead: float, which: int, tmp_path: Path) -> None:
    clocks, digest = Clocks(), digest_of(b"blob")
    locks = ExternalLocks(120, lambda: clocks.wall, lambda: clocks.steady, clocks.sleep)
    folder = Folder(str(tmp_path), "prefix")
    lock = Path(lock_files(folder, digest)[which])
    lock.parent.mkdir()
    lock.touch()
    date(lock, clocks.wall + ahead)
    await asyncio.wait_for(locks.wait_released(folder, digest), 10)
    assert clocks.steady == 121
    await asyncio.wait_for(locks.wait_released(folder, digest), 10)
    assert clocks.steady == 121  # who comes next waits no more


async def test_clock_set_back_extends_lock_once_at_most(tmp_path: Path) -> None:
    clocks, digest = Clocks(), digest_of(b"blob")
    locks = ExternalLocks(120, lambda: clocks.wall, lambda: clocks.steady, clocks.sleep)
    folder = Folder(str(tmp_path), "prefix")
    lock = Path(lock_files(folder, digest)[0])
    lock.parent.mkdir()
    lock.touch()
    date(lock, clocks.wall - 60)
    assert locks.is_held(str(lock))
    clocks.wall -= YEAR
    await asyncio.wait_for(locks.wait_released(folder, digest), 10)
    assert clocks.steady == 121


def test_download_leftover_with_future_mtime_ages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f".model.bin.part-{'a' * 16}"
    left.write_bytes(b"half")
    date(left, time.time() + YEAR)
    monkeypatch.setattr("shardcast.store.output_part.is_local", lambda descriptor: False)
    clear_abandoned(tmp_path / "model.bin")
    assert is_now(left)
    date(left, left.stat().st_mtime - DAY - HOUR)
    clear_abandoned(tmp_path / "model.bin")
    assert not left.exists()


def test_leftover_with_future_mtime_in_followed_folder_ages(tmp_path: Path) -> None:
    left = tmp_path / ".download_v9.bin.part"
    left.touch()
    date(left, time.time() + YEAR)
    assert not announcing._is_old(left)
    assert is_now(left)
    date(left, left.stat().st_mtime - DAY - HOUR)
    assert announcing._is_old(left)


def collect(root: Path, later: float, delete: bool = True) -> GcResult:
    rules = Rules(0.0, HOUR)
    collection = GarbageCollection(
        Folder(str(root), "prefix"), set(), rules, now=time.time() + later, delete=delete
    )
    for _ in collection.run():
        pass
    return collection.result


def test_blob_with_future_mtime_is_collected(tmp_path: Path) -> None:
    (digest,) = fill(tmp_path, b"from the future")
    file = blob_file(tmp_path, digest)
    date(file, time.time() + YEAR)
    collect(tmp_path, 0, delete=False)
    assert not is_now(file)
    collect(tmp_path, 0)
    assert is_now(file)
    assert collect(tmp_path, 2 * HOUR).marked.blobs == 1
    assert collect(tmp_path, 4 * HOUR).removed.blobs == 1


def test_put_note_with_future_mtime_protects_blob_no_longer(tmp_path: Path) -> None:
    (digest,) = fill(tmp_path, b"put again")
    assert note_put(Folder(str(tmp_path), "prefix"), digest)
    note = tmp_path / OWN_FOLDER / "gc" / "put" / digest
    date(note, time.time() + YEAR)
    collect(tmp_path, 0)
    assert is_now(note)
    assert collect(tmp_path, 2 * HOUR).marked.blobs == 1
    assert collect(tmp_path, 4 * HOUR).removed.blobs == 1


def test_registry_content_with_future_mtime_is_collected(tmp_path: Path) -> None:
    store = Registry({"default": "main", "main": {"protocol": "file", "location": str(tmp_path)}})
    path = tmp_path / store.put_hash(b"content", "lab")["path"]
    part = path.with_name(".0123456789abcdef.part")
    part.touch()

    def done(hours: float, dry_run: bool = False) -> tuple[int, int]:
        now = time.time() + hours * HOUR
        stats = gc.collect("lab", references=[], registry=store, dry_run=dry_run, clock=lambda: now)
        return stats["hash_quarantined"], stats["leftovers_deleted"]

    for file in (path, part):
        date(file, time.time() + YEAR)
    assert done(0, dry_run=True) == (0, 0)
    assert not is_now(path)
    assert done(0) == (0, 0)
    assert is_now(path) and is_now(part)
    assert done(25) == (1, 1)


def test_directory_lock_renewed_in_the_future_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_lock, "is_local", lambda descriptor: False)
    lock = tmp_path / "lock"
    lock.write_text('{"role": "middle", "pid": 1, "machine": "another"}')
    date(lock, time.time() + YEAR)
    with pytest.raises(DataDirInUse, match="another machine"):
        DirectoryLock(lock, tmp_path, "middle", settling=0)
    assert is_now(lock)
    date(lock, lock.stat().st_mtime - OLD_AFTER - 1)
    taken = DirectoryLock(lock, tmp_path, "middle", settling=0)
    assert taken.held
    taken.release()


def test_only_one_module_computes_wall_clock_ages() -> None:
    root = Path(shardcast.__file__).parent
    times = ("time.time()", "st_mtime", "st_ctime", "modified(")
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        if path.name != "ages.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)
        if any(time in ast.unparse(node) for time in times)
    ]
    assert found == []
