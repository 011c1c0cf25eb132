"""The next version of a folder: what did not change is linked; the result is as if all had been read."""

from __future__ import annotations

import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.errors import PayloadChanged
from shardcast.folders import payload, reuse
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.identities import EntryIdentities
from shardcast.folders.publishing import PublishedFolders, publish_folder
from shardcast.folders.reuse import compare_entries
from shardcast.folders.source_record import MAX_RECORDS, read_record, record_file, write_record
from shardcast.folders.survey import SurveyRules
from shardcast.folders.table import FolderTable
from shardcast.protocol.manifest import Manifest
from shardcast.sharding.publication import PayloadDescription, PublishProgress
from shardcast.store.data_dir import DataDir
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.folder_trees import FolderTree, folder_trees

MIB = 1 << 20
SECOND = 10**9


class Store:
    """A data directory into which folders are published."""

    def __init__(self, root: Path) -> None:
        self.data_dir = DataDir(root, "origin")
        self.folders = VersionFolders(self.data_dir)
        self.manifests: dict[str, Manifest] = {}

    async def publish(self, source: Path, shard_size: int = 100_000, checksum: bool = False) -> Manifest:
        number = self.data_dir.allot()
        opened = await self.folders.begin_version(number)
        versions = PublishedFolders(self.data_dir.sources, self.folders.manifest_of, checksum)
        manifest = publish_folder(
            source,
            opened,
            PayloadDescription(payloads.ORIGIN, shard_size),
            PublishProgress(),
            rules=SurveyRules(),
            versions=versions,
        )
        await opened.complete(manifest)
        return manifest

    def inodes(self, version: int) -> list[int]:
        """Return the inodes of the files of a version's shards."""
        files = sorted(self.data_dir.folder(version).glob("shard_*.bin"))
        return [file.stat().st_ino for file in files]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data")
    yield made
    made.data_dir.close()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that were written just now count as written long ago."""
    monkeypatch.setattr(reuse, "is_settled", lambda ctime, started: True)


@pytest.fixture
def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The paths of the files that are opened to be read."""
    found: list[bytes] = []
    opening = payload._OpenFile._open

    def note(self: payload._OpenFile, index: int, path: bytes) -> int:
        if self._survey.table.size(index) and found[-1:] != [path]:
            found.append(path)
        return opening(self, index, path)

    monkeypatch.setattr(payload._OpenFile, "_open", note)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    for number in range(10):
        (root / f"{number}.bin").write_bytes(os.urandom(MIB + number))
    (root / "config.json").write_bytes(b"{}")
    return root


def files(root: Path) -> list[Path]:
    """Return the files that this user may write to: root any."""
    found = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if os.access(path, os.W_OK))


def rewrite(root: Path, pick: int) -> None:
    found = files(root)
    if found:
        target = found[pick % len(found)]
        target.write_bytes(bytes(reversed(target.read_bytes())))


def grow(root: Path, pick: int) -> None:
    found = files(root)
    if found:
        with found[pick % len(found)].open("ab") as file:
            file.write(b"more")


def remove(root: Path, pick: int) -> None:
    found = files(root)
    if found:
        found[pick % len(found)].unlink()


def add(root: Path, pick: int) -> None:
    (root / f"{pick % 7}-new").write_bytes(bytes(pick % 5000))


def touch(root: Path, pick: int) -> None:
    found = files(root)
    if found:
        os.utime(found[pick % len(found)], (pick, pick))


def move(root: Path, pick: int) -> None:
    found = files(root)
    if found:
        found[pick % len(found)].rename(root / "moved")


changes = st.lists(
    st.tuples(st.sampled_from([rewrite, grow, remove, add, touch, move]), st.integers(0, 99)), max_size=2
)


@settings(deadline=None, max_examples=20)
@given(folder_trees(), changes)
async def test_next_version_is_as_if_all_files_had_been_read(
    tree: FolderTree, made: list[tuple[Callable[[Path, int], None], int]]
) -> None:
    with tempfile.TemporaryDirectory() as top:
        root = tree.write(Path(top) / "tree")
        store = Store(Path(top) / "data")
        await store.publish(root)
        for change, pick in made:
            change(root, pick)
        known, read = await store.publish(root), await store.publish(root, checksum=True)
        store.data_dir.close()
        assert known.digests == read.digests
        assert tuple(known.shards) == tuple(read.shards)
        assert known.raw.splitlines()[1:] == read.raw.splitlines()[1:]


async def test_unchanged_folder_is_linked_without_reading_a_file(
    store: Store, model: Path, opened_files: list[bytes]
) -> None:
    first = await store.publish(model)
    opened_files.clear()
    second = await store.publish(model)
    assert opened_files == []
    assert second.digests == first.digests
    assert store.inodes(1) == store.inodes(2)


async def test_of_ten_files_only_the_shards_of_the_changed_one_are_stored(store: Store, model: Path) -> None:
    first = await store.publish(model)
    (model / "4.bin").write_bytes(os.urandom(MIB + 4))
    os.utime(model / "4.bin", (0, 0))
    second = await store.publish(model)
    assert second.digests != first.digests
    new = set(store.inodes(2)) - set(store.inodes(1))
    assert len(new) == -(-(MIB + 4) // 100_000) + 1  # its own, and the one with its header


async def test_checksum_reads_all_files(store: Store, model: Path, opened_files: list[bytes]) -> None:
    await store.publish(model)
    opened_files.clear()
    await store.publish(model, checksum=True)
    assert len(opened_files) == 11


async def test_shards_of_another_size_are_cut_anew(store: Store, model: Path) -> None:
    first, second = await store.publish(model), await store.publish(model, shard_size=300_000)
    assert first.digests == second.digests
    assert len(second.shards) < len(first.shards)


async def test_folder_whose_last_version_is_gone_is_read(
    store: Store, model: Path, opened_files: list[bytes]
) -> None:
    first = await store.publish(model)
    await store.folders.retire(1)
    opened_files.clear()
    second = await store.publish(model)
    assert len(opened_files) == 11 and first.digests == second.digests


async def test_shard_that_was_damaged_in_the_store_is_cut_anew(store: Store, model: Path) -> None:
    await store.publish(model)
    store.data_dir.shard(1, 3).write_bytes(b"damaged")
    second = await store.publish(model)
    assert store.data_dir.shard(2, 3).stat().st_size == second.shards[2].size


async def test_file_changed_behind_its_record_aborts_the_version_where_bytes_are_read(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.publish(model)
    monkeypatch.setattr(EntryIdentities, "get", lambda self, index: (1, 1, 1))  # a record that lies
    rewrite(model, 3)
    os.utime(model / "3.bin", (0, 0))
    with pytest.raises(PayloadChanged, match=r"model.tar: the bytes of shard .*--checksum"):
        await store.publish(model)
    assert (await store.publish(model, checksum=True)).digests


def one_file(ctime: int) -> tuple[FolderTable, EntryIdentities]:
    table = FolderTable()
    table.append(FolderEntry(b"a", EntryKind.FILE, 5))
    return table, EntryIdentities(array("Q", [7]), array("q", [1]), array("q", [ctime]))


@pytest.mark.parametrize(
    ("ctime", "counts"),
    [
        (100 * SECOND + 1, True),
        (200 * SECOND - 10_000_001, False),
        (200 * SECOND + 1, False),
        (197 * SECOND, True),
        (199 * SECOND, False),
    ],
    ids=["long before", "a tick before", "after", "seconds before", "a second before, in whole seconds"],
)
def test_file_changed_shortly_before_the_last_survey_counts_as_changed(
    ctime: int, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    found = compare_entries(one_file(ctime), one_file(ctime), settled=200 * SECOND)
    assert bool(found.unchanged[0]) == found.same_list == counts


async def test_record_is_read_as_it_was_written_and_a_damaged_one_is_none(store: Store, model: Path) -> None:
    manifest = await store.publish(model)
    file = record_file(store.data_dir.sources, model)
    record, whole = read_record(store.data_dir.sources, model), file.read_bytes()
    assert record and (record.version, record.manifest) == ("v1", manifest.identity)
    assert len(record.identities) == 11
    for damaged in (b"", whole[:-1], whole + b"x", whole[3:], b"{}\n", b"[]\n", whole.replace(b"v1", b"x")):
        file.write_bytes(damaged)
        assert read_record(store.data_dir.sources, model) is None
        await store.publish(model)


@given(st.binary(max_size=200))
def test_any_record_is_read_or_none(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as top:
        record_file(Path(top), Path("/x")).write_bytes(data)
        read_record(Path(top), Path("/x"))


async def test_records_of_the_folders_published_last_are_kept(store: Store, model: Path) -> None:
    manifest = await store.publish(model)
    for number in range(MAX_RECORDS + 3):
        write_record(store.data_dir.sources, model / str(number), manifest, EntryIdentities(), 0)
    assert len(list(store.data_dir.sources.iterdir())) == MAX_RECORDS


async def test_copy_of_the_folder_elsewhere_is_read(store: Store, model: Path, tmp_path: Path) -> None:
    first = await store.publish(model)
    shutil.copytree(model, tmp_path / "copy")
    second = await store.publish(tmp_path / "copy")
    assert second.digests == first.digests
    assert store.inodes(1) == store.inodes(2)  # found by digest
