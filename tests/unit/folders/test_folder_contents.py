"""What a manifest tells of a folder: the entries with their digests, or an error."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings

from shardcast.folders.contents import contained_files, folder_layout
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.table import FolderTable
from shardcast.protocol.manifest_reader import ManifestError, parse
from tests.support.folder_manifests import counted, folder_manifest, with_first_line
from tests.support.folder_tables import folder_tables


def some_table() -> FolderTable:
    table = FolderTable()
    table.append(FolderEntry(b"config.json", EntryKind.FILE, 640, 0o644, 5))
    table.append(FolderEntry(b"large", EntryKind.FILE, 3 << 20, 0o600, 7))
    table.append(FolderEntry(b"one-shard", EntryKind.FILE, 1 << 20, 0o600, 7))
    table.append(FolderEntry(b"weights/", EntryKind.FOLDER, mode=0o755))
    table.append(FolderEntry(b"weights/\xff", EntryKind.SYMLINK, 0, 0o777, 9, b"a"))
    return table


@settings(deadline=None, max_examples=30)
@given(folder_tables())
def test_entries_come_back_as_they_were_published(table: FolderTable) -> None:
    manifest, _ = folder_manifest(table)
    layout = folder_layout(manifest)
    assert layout and list(layout.table) == list(table)


def test_files_have_the_digests_that_the_manifest_has() -> None:
    manifest, _ = folder_manifest(some_table())
    config, large, one_shard, weights, link = contained_files(manifest)
    assert config.sha256 == hashlib.sha256(counted(0, 0, 640)).hexdigest()
    assert large.sha256 is None
    assert one_shard.sha256 == hashlib.sha256(counted(2, 0, 1 << 20)).hexdigest()
    assert (weights.kind, weights.path, weights.mode) == ("folder", "weights/", 0o755)
    assert (link.kind, link.path, link.link) == ("symlink", "weights/\udcff", "a")


def test_version_that_is_a_file_contains_no_entries() -> None:
    manifest, _ = folder_manifest(some_table())
    plain = replace(manifest, header=replace(manifest.header, folder=None))
    assert folder_layout(plain) is None and list(contained_files(plain)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'["config.json",640,420,5]', b'["config.json",6400,420,5]'),
        (b'["config.json",640,420,5]', b'["config.json",%d,420,5]' % 2**62),
        (b'["config.json",640,420,5]', b'["config.json",%d,420,5]' % 2**70),
        (b'["config.json",640,420,5]', b'["config.json",640,420,%d]' % 2**70),
        (b'["config.json",640,420,5],', b""),
        (b'"weights/"', b'"../"'),
        (b'"weights/"', b'"/etc/"'),
        (b'"symlink","a"', b'"symlink","../../a"'),
        (b'["large",3145728', b'["large",3145728.0'),
        (b'"file_digests":0', b'"file_digests":1'),
        (b'["config.json",640,420,5]', b'["config.json",640,420,5],["config.json",640,420,5]'),
    ],
)
def test_list_that_does_not_fit_is_refused(old: bytes, new: bytes) -> None:
    manifest, _ = folder_manifest(some_table())
    assert manifest.raw.count(old) == 1
    changed = parse(manifest.raw.replace(old, new))
    with pytest.raises(ManifestError):
        folder_layout(changed)


@pytest.mark.parametrize("shard_size", [1, (1 << 20) - 1, 2 << 20, None])
def test_header_whose_shard_size_does_not_fit_the_shards_is_refused(shard_size: int | None) -> None:
    manifest, _ = folder_manifest(some_table())
    with pytest.raises(ManifestError):
        folder_layout(parse(with_first_line(manifest.raw, shard_size=shard_size)))


@pytest.mark.parametrize("entries", [4, 6])
def test_header_with_another_number_of_entries_is_refused(entries: int) -> None:
    manifest, _ = folder_manifest(some_table())
    with pytest.raises(ManifestError):
        folder_layout(parse(with_first_line(manifest.raw, folder={"name": "model", "entries": entries})))


@pytest.mark.parametrize(
    "folder",
    [7, [], {"name": "a/b", "entries": 5}, {"name": "..", "entries": 5}, {"name": "a"},
     {"name": "", "entries": 5}, {"name": "a", "entries": -1}, {"name": "a", "entries": 2_000_001},
     {"name": "a", "entries": True}],
)  # fmt: skip
def test_header_with_a_malformed_folder_is_refused(folder: object) -> None:
    manifest, _ = folder_manifest(some_table())
    with pytest.raises(ManifestError):
        parse(with_first_line(manifest.raw, folder=folder))
