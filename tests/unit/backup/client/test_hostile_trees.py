"""Listings of a hostile server, which knows the key of ids: trees without end, and rights that nobody has."""

from __future__ import annotations

import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shardcast.backup.client.browsing import SnapshotSearch, diff_trees, list_entries
from shardcast.backup.client.checking import SnapshotCheck
from shardcast.backup.client.snapshot_tree import EndlessTree, SnapshotTree
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.backup.snapshots import Snapshot, snapshot_record
from shardcast.errors import IntegrityError
from tests.support.restores import IS_ROOT, Restored
from tests.support.saved_trees import SavedTree, saved

LEVELS, SHARES = 30, 100
"""Folders inside each other, and folders with the same listing in each: 100^30 folders."""


def endless(seed: bytes = b"x", files: int = 50, folders: int = 500) -> tuple[SavedTree, Snapshot]:
    """Return a tree of some kilobytes without end, whose record says that it is small."""
    tree = SavedTree()
    below = tree.folder(b"0", [tree.file(b"file", seed)])
    for _ in range(LEVELS):
        below = tree.folder(b"0", [replace(below, name=b"%d" % number) for number in range(SHARES)])
    tree.root = replace(below, name=b"top")
    tree.flush()
    return tree, Snapshot(tree.root, b"/work", "host", files=files, folders=folders)


def test_walks_of_a_tree_without_end_end(tmp_path: Path) -> None:
    tree, made = endless()
    other, others = endless(b"y")
    other.server.packs |= tree.server.packs
    other.server.places |= tree.server.places
    walks: list[Callable[[], Iterator[object]]] = [
        lambda: list_entries(SnapshotTree.of(tree.reader, made), b"", recursive=True),
        lambda: SnapshotSearch("nothing").run(SnapshotTree.of(tree.reader, made)),
        lambda: diff_trees(SnapshotTree.of(other.reader, made), SnapshotTree.of(other.reader, others)),
    ]
    for walk in walks:
        with pytest.raises(IntegrityError, match=r"memory:: this snapshot lists more than its 50 files"):
            list(walk())


def test_restore_of_a_tree_without_end_ends(tmp_path: Path) -> None:
    tree, made = endless()
    with pytest.raises(EndlessTree):
        Restored(tree, tmp_path / "r", snapshot=made)
    assert sum(1 for _ in (tmp_path / "r").rglob("*")) <= made.folders


class Records:
    """The record of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def record(self, _: str) -> bytes:
        return snapshot_record(self._snapshot)

    def damaged(self, _: str) -> list[bytes]:
        return []


def test_check_reads_each_listing_once() -> None:
    """A check of shared folders needs no end: a folder that was checked is not checked again."""
    tree, made = endless()

    told: list[str] = []
    check = SnapshotCheck(Records(made), tree.reader, (1, 1), lambda _, path, text: told.append(text))
    check.run(["one"])
    assert told == [] and check.counts.read == 1


def test_check_of_more_entries_than_the_record_says_names_it() -> None:
    tree, made = endless(folders=3)
    told: list[str] = []
    check = SnapshotCheck(Records(made), tree.reader, None, lambda _, path, text: told.append(text))
    check.run(["one"])
    assert len(told) == 1 and "lists more than" in told[0]
    assert check.counts.hurt == 1


def test_large_entries_are_not_held_together(tmp_path: Path) -> None:
    """Thousands of files wait for each other's chunks; with large attributes there must be fewer."""
    tree = SavedTree()
    attributes = {f"user.{number}": bytes(50_000) for number in range(10)}
    saved(tree, *(tree.file(b"%04d" % number, b"x", xattrs=attributes) for number in range(300)))
    tracemalloc.start()
    try:
        done = Restored(tree, tmp_path / "r")
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()
    assert done.counts["files"] == 300


def rights_of_others(tree: SavedTree) -> list[SavedEntry]:
    """Return entries that lend rights: a setuid program, one with capabilities, a disk that all may write."""
    owner = {"uid": os.geteuid(), "gid": os.getegid()}
    capabilities = {"security.capability": bytes.fromhex("0100000200200000000000000000000000000000")}
    return [
        tree.file(b"caps", b"#!", mode=0o755, xattrs=capabilities, **owner),
        SavedEntry(b"disk", SavedKind.BLOCK, mode=0o666, device=(7, 0), **owner),  # type: ignore[arg-type]
        tree.file(b"setuid", b"#!", mode=0o4755, **owner),
    ]


def test_rights_are_restored_only_on_demand(tmp_path: Path) -> None:
    tree = SavedTree()
    saved(tree, *rights_of_others(tree))
    done = Restored(tree, tmp_path / "r", privileged=False)
    assert sorted(done.told) == ["caps", "disk", "setuid"]
    assert (done.report.devices, done.report.system_attributes, done.counts["failed"]) == (1, True, 3)
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["caps", "setuid"]
    assert stat.S_IMODE((tmp_path / "r" / "setuid").stat().st_mode) == 0o755
    assert os.listxattr(tmp_path / "r" / "caps") == []


@pytest.mark.skipif(not IS_ROOT, reason="only root makes devices")
def test_rights_that_are_demanded_are_restored(tmp_path: Path) -> None:
    tree = SavedTree()
    saved(tree, *rights_of_others(tree))
    assert Restored(tree, tmp_path / "r", privileged=True).told == {}
    assert stat.S_ISBLK((tmp_path / "r" / "disk").lstat().st_mode)
    assert os.listxattr(tmp_path / "r" / "caps") == ["security.capability"]
    again = Restored(tree, tmp_path / "r", privileged=False)
    assert again.counts == {"kept": 2, "kept_bytes": 4, "failed": 1}
