"""Folders that are written file by file: the list grows, and nothing that was laid out moves."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.folders.contents import layout_of_lines
from shardcast.folders.entries import EntryKind, FolderEntry, UnsafeEntry
from shardcast.folders.growing_list import GrowingList
from shardcast.folders.layout import LEAST_LARGE, FileRange
from shardcast.folders.listing import entry_line
from shardcast.folders.written_table import MAX_WRITTEN, WrittenLayout, WrittenTable
from shardcast.protocol.manifest import FolderFacts, Header, header_line
from shardcast.protocol.manifest_reader import ManifestError, ManifestReader
from shardcast.protocol.wire import MAX_SHARDS

SHARD = 300_000
HEADER = Header("v1", "a" * 32, "m.tar", shard_size=SHARD, folder=FolderFacts("m", None))
names = st.text("ab/ü", min_size=1, max_size=120)
sizes = st.one_of(st.integers(0, 3000), st.integers(LEAST_LARGE - 1, LEAST_LARGE + SHARD))


def file(path: str, size: int = 1) -> FolderEntry:
    return FolderEntry(path.encode(), EntryKind.FILE, size, 0o644, 5)


@st.composite
def written(draw: st.DrawFn) -> list[FolderEntry]:
    """Draw the entries of a folder in the order written."""
    table = WrittenTable()
    for name, size in draw(st.lists(st.tuples(names, sizes), max_size=8)):
        above = [name[: at + 1] for at, char in enumerate(name) if char == "/"]
        entries = [FolderEntry(path.encode(), EntryKind.FOLDER, 0, 0o755) for path in above]
        for entry in (*entries, file(name, size)):
            try:
                table.append(entry)
            except UnsafeEntry:
                break
    return list(table)


@given(entries=written())
@settings(max_examples=200)
def test_list_that_arrives_line_by_line_is_the_whole_list(entries: list[FolderEntry]) -> None:
    table = WrittenTable()
    growing, raw, before = GrowingList(HEADER), bytearray(header_line(HEADER)), list[Any]()
    for index, entry in enumerate(entries):
        table.append(entry)
        raw += entry_line(table, index)
        assert growing.take(raw) and not growing.take(raw)
        shards = list(growing.layout.shards())
        assert shards[: len(before)] == before
        before = shards[:-1] if shards[-1].size <= 2 * 512 or not entry.size else before
        before = [shard for shard in before if shard.offset + shard.size <= growing.layout.entries_end]
    whole = layout_of_lines(HEADER, bytes(raw))
    assert list(whole.table) == list(growing.layout.table) == entries
    shards = list(whole.shards())
    assert sum(shard.size for shard in shards) == whole.size
    assert all(first.offset + first.size == second.offset for first, second in pairwise(shards))
    assert all(0 < shard.size <= SHARD for shard in shards)


@given(entries=written())
@settings(max_examples=50)
def test_payload_is_a_tar_of_the_files_in_the_order_written(entries: list[FolderEntry]) -> None:
    table = WrittenTable()
    for entry in entries:
        table.append(entry)
    layout = WrittenLayout(table, SHARD)
    parts = layout.parts(0, layout.size)
    payload = b"".join(part if isinstance(part, bytes) else content(part) for part in parts)
    assert len(payload) == layout.size
    with tarfile.open(fileobj=io.BytesIO(payload)) as tar:
        found = [(member.name, member.size, member.mtime) for member in tar]
    assert found == [(entry.text.rstrip("/"), entry.size, entry.mtime) for entry in entries]


def content(part: FileRange) -> bytes:
    return b"x" * part.length


def test_file_ends_its_shard_and_a_large_one_has_shards_of_its_own() -> None:
    table = WrittenTable()
    for path, size in (("a", 10), ("empty", 0), ("b", LEAST_LARGE), ("c", 700)):
        table.append(file(path, size))
    found = [(shard.size, shard.index, shard.file_offset) for shard in WrittenLayout(table, 1 << 30).shards()]
    assert found == [(1024, None, 0), (1024, None, 0), (LEAST_LARGE, 2, 0), (1536, None, 0), (1024, None, 0)]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([file("a"), file("a")], "twice"),
        ([file("a"), FolderEntry(b"a/", EntryKind.FOLDER, 0, 0o755)], "twice"),
        ([FolderEntry(b"a/", EntryKind.FOLDER, 0, 0o755), file("a")], "twice"),
        ([file("a/b")], "no entry"),
        ([file("a"), file("a/b")], "no entry"),
        ([FolderEntry(b"a", EntryKind.SYMLINK, 0, 0o777, 1, b"b")], "is a link"),
        ([file("a"), FolderEntry(b"b", EntryKind.HARD_LINK, 0, 0o644, 1, b"a")], "is a link"),
        ([file("../a")], "a"),
        ([file("/a")], "a"),
        ([file("a", 1 << 62)], "bytes"),
        ([file(str(number)) for number in range(MAX_WRITTEN + 1)], "more than"),
    ],
)
def test_entry_that_is_unsafe_or_out_of_bounds_is_refused(entries: list[FolderEntry], says: str) -> None:
    table = WrittenTable()
    with pytest.raises(UnsafeEntry, match=says):
        for entry in entries:
            table.append(entry)


def test_more_shards_than_a_version_can_have_are_refused() -> None:
    growing = GrowingList(Header("v1", None, "m.tar", shard_size=1, folder=FolderFacts("m", None)))
    line = json.dumps({"entries": [["a", MAX_SHARDS + 1, 420, 0]]}).encode() + b"\n"
    with pytest.raises(ManifestError, match="at most"):
        growing.take(line)


@pytest.mark.parametrize("values", [{"name": "a/b"}, {"name": ".."}, {"name": 3}, {}, [], "m", 7])
def test_wrong_header_of_such_a_folder_is_refused(values: Any) -> None:
    line = json.loads(header_line(HEADER))
    assert line["written_folder"] == {"name": "m"} and "folder" not in line
    reader = ManifestReader("v1")
    reader.feed(header_line(HEADER))
    assert reader.header == HEADER
    with pytest.raises(ManifestError):
        ManifestReader("v1").feed(json.dumps(line | {"written_folder": values}).encode() + b"\n")
