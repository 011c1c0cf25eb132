"""A client's check: damage is found, and named with the files and snapshots that it hurts."""

from __future__ import annotations

import os

import pytest

from shardcast.backup.client.checking import SnapshotCheck
from shardcast.backup.client.snapshot_tree import SnapshotTree
from shardcast.backup.entries import SavedEntry
from shardcast.backup.snapshots import Snapshot, snapshot_record
from tests.support.saved_trees import SavedTree


class Records:
    """Records of snapshots that share chunks."""

    def __init__(self) -> None:
        self.tree = SavedTree(pack_size=1)
        shared = self.tree.folder(b"d", [self.tree.file(b"shared", os.urandom(1000))])
        self.entries: dict[str, list[SavedEntry]] = {
            "one": [shared, self.tree.file(b"only one", os.urandom(1000))],
            "two": [shared, self.tree.file(b"large", os.urandom(1 << 18))],
        }
        self.tree_of = {name: self.tree.folder(b"top", entries) for name, entries in self.entries.items()}
        self.tree.flush()
        self.known_damage: dict[str, list[bytes]] = {}

    def record(self, snapshot: str) -> bytes:
        return snapshot_record(Snapshot(self.tree_of[snapshot], b"/work", "host", files=9, folders=9))

    def damaged(self, snapshot: str) -> list[bytes]:
        return self.known_damage.get(snapshot, [])

    def chunks(self, snapshot: str, path: bytes) -> tuple[bytes, ...]:
        found = SnapshotTree(self.tree.reader, self.tree_of[snapshot]).find(path)
        assert found is not None
        return found.chunks or found.segments

    def check(self, part: tuple[int, int] | None = None) -> tuple[SnapshotCheck, set[tuple[str, str]]]:
        told: set[tuple[str, str]] = set()
        check = SnapshotCheck(self, self.tree.reader, part, lambda name, path, _: told.add((name, path)))
        check.run(["one", "two"])
        return check, told


def test_whole_snapshots_have_no_damage() -> None:
    check, told = Records().check((1, 1))
    assert told == set()
    counts = check.counts
    assert (counts.snapshots, counts.chunks, counts.read, counts.damaged, counts.hurt) == (2, 6, 6, 0, 0)


def test_chunk_that_is_gone_hurts_each_snapshot_that_has_it() -> None:
    records = Records()
    del records.tree.server.places[records.chunks("one", b"d/shared")[0]]
    check, told = records.check()
    assert told == {("one", "d/shared"), ("two", "d/shared")}
    assert (check.counts.damaged, check.counts.hurt) == (1, 2)


def test_wrong_bytes_are_found_by_reading_alone() -> None:
    records = Records()
    (chunk,) = records.chunks("one", b"only one")
    place = records.tree.server.places[chunk]
    pack = records.tree.server.packs[place.pack]
    records.tree.server.packs[place.pack] = pack[:20] + bytes([pack[20] ^ 1]) + pack[21:]
    assert records.check()[1] == set()
    assert records.check((1, 1))[1] == {("one", "only one")}
    found = [records.check((number, 3))[1] for number in (1, 2, 3)]
    assert sorted(map(len, found)) == [0, 0, 1]


def test_parts_together_read_every_chunk() -> None:
    records = Records()
    assert sum(records.check((number, 3))[0].counts.read for number in (1, 2, 3)) == 6


def test_damage_that_the_server_knows_is_told() -> None:
    records = Records()
    records.known_damage["two"] = [records.chunks("two", b"large")[2]]
    assert records.check()[1] == {("two", "large")}


@pytest.mark.parametrize("gone", ["places", "packs"])
def test_listing_that_is_gone_hurts_its_snapshots(gone: str) -> None:
    records = Records()
    (segment,) = records.chunks("two", b"d")
    if gone == "places":
        del records.tree.server.places[segment]
    else:
        del records.tree.server.packs[records.tree.server.places[segment].pack]
    check, told = records.check()
    assert told == {("one", "d"), ("two", "d")}
    assert check.counts.hurt == 2


def test_listing_below_a_shared_folder_hurts_each_snapshot() -> None:
    records = Records()
    inner = records.tree.folder(b"inner", [records.tree.file(b"x", b"1")])
    shared = records.tree.folder(b"shared", [inner])
    records.tree_of = {
        name: records.tree.folder(b"top", [shared, records.tree.file(b"y", name.encode())])
        for name in ("one", "two")
    }
    records.tree.flush()
    del records.tree.server.places[inner.segments[0]]
    check, told = records.check()
    assert told == {("one", "shared/inner"), ("two", "shared/inner")}
    assert check.counts.hurt == 2


def test_record_that_cannot_be_read_hurts_its_snapshot_alone() -> None:
    records = Records()
    records.record = lambda name: b"{}" if name == "one" else Records.record(records, name)  # type: ignore[method-assign]
    check, told = records.check()
    assert told == {("one", ".")}
    assert check.counts.hurt == 1
