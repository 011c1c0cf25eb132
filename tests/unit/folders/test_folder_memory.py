"""What a folder of many files takes in memory: columns, and no second copy of them or of its list."""

from __future__ import annotations

import sys
import tracemalloc
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardcast.folders.file_states import FileStates
from shardcast.folders.identities import EntryIdentities
from shardcast.folders.source_record import read_record, write_record
from shardcast.protocol.manifest import FolderFacts, Header, Shard, build_manifest, close_manifest
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.manifest_file import ManifestFile

COUNT = 100_000
FILLING = b'{"entries": "' + b"A" * 60_000 + b'"}\n'


@contextmanager
def at_most(max_bytes: int) -> Iterator[None]:
    """Fail when more bytes are taken at once than before."""
    tracemalloc.start()
    try:
        yield
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= max_bytes, f"{most} bytes"


@pytest.mark.parametrize("count", [0, 1, COUNT])
def test_file_states_are_written_without_a_copy(tmp_path: Path, count: int) -> None:
    states = FileStates(array("Q", [7, 8, 9, 10]) * count, bytearray(b"\1" * count))
    file = tmp_path / "states"
    with at_most(200_000), file.open("wb") as opened:
        for part in states.encode("ab" * 32, (), ()):
            opened.write(part)
    loaded = FileStates.load(file, "ab" * 32, count)
    assert loaded is not None and len(loaded) == count
    assert list(loaded.encode("ab" * 32, (), ())) == list(states.encode("ab" * 32, (), ()))


@pytest.mark.parametrize("count", [0, COUNT])
def test_record_of_published_folder_is_written_without_a_copy(tmp_path: Path, count: int) -> None:
    columns = array("Q", range(count)), array("Q", range(count)), array("Q", [(1 << 64) - 1]) * count
    manifest = build_manifest(Header("v1", "a1", "model.tar"), [Shard(1, 0, 1, "ab" * 32, b"x" * 32)], {})
    with at_most(200_000 if sys.byteorder == "little" else 1_000_000):
        write_record(tmp_path / "records", tmp_path, manifest, EntryIdentities(*columns), 5)
    record = read_record(tmp_path / "records", tmp_path)
    assert record is not None and record.identities.columns == columns


def test_live_manifest_keeps_its_lines_once(tmp_path: Path) -> None:
    """A list of many files is most of a manifest, tens of megabytes."""
    header = Header("v1", "a1", "m.tar", size=1, shard_size=1, folder=FolderFacts("m", 1))
    whole = build_manifest(header, [Shard(1, 0, 1, "ab" * 32, b"x" * 32)], {"sha256": "cd" * 32})
    head, shard, _ = whole.raw.splitlines(keepends=True)
    live, file = LiveManifest("v1"), tmp_path / "manifest.jsonl"
    growing = ManifestFile(file, live)
    with at_most(100 * len(FILLING) * 3 // 2):
        for line in (head, *[FILLING] * 100, shard):
            growing.append(line)
    manifest = close_manifest(live.header, live.shards, {"sha256": "cd" * 32}, live.raw)
    growing.commit(manifest)
    live.finish(manifest)
    assert live.manifest is manifest and live.raw is manifest.raw
    assert file.read_bytes() == manifest.raw


def test_manifest_file_with_other_bytes_is_replaced(tmp_path: Path) -> None:
    manifest = build_manifest(
        Header("v1", "a1", "x"), [Shard(1, 0, 1, "ab" * 32, b"x" * 32)], {"sha256": "cd" * 32}
    )
    file = tmp_path / "manifest.jsonl"
    for found in (None, b"", manifest.raw[:-1], manifest.raw[:-2] + b"?\n", manifest.raw):
        if found is not None:
            file.write_bytes(found)
        ManifestFile(file, LiveManifest("v1")).commit(manifest)
        assert file.read_bytes() == manifest.raw
