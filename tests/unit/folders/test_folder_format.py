"""The tar of a folder, its shards, and the list in its manifest: what other programs read, and back."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardcast.folders.entries import EntryKind, FolderEntry, UnsafeEntry, check_entry
from shardcast.folders.layout import FileRange, FolderLayout
from shardcast.folders.listing import ListingReader, digest_lines, entry_lines
from shardcast.folders.table import FolderTable
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.manifest_reader import ManifestError
from tests.support.folder_tables import folder_tables
from tests.support.payloads import patient


def table_of(*entries: FolderEntry) -> FolderTable:
    table = FolderTable()
    for entry in entries:
        table.append(entry)
    return table


def file(path: str, size: int = 0, mtime: int = 1_763_780_000) -> FolderEntry:
    return FolderEntry(path.encode(), EntryKind.FILE, size, 0o644, mtime)


def folder(path: str) -> FolderEntry:
    return FolderEntry(path.encode(), EntryKind.FOLDER, mode=0o755)


def folder_of(entry: FolderEntry) -> bytes:
    return entry.path[: entry.path.rstrip(b"/").rfind(b"/") + 1]


def content(part: bytes | FileRange) -> bytes:
    """Return the bytes of a part, where byte ``n`` of file ``i`` is ``i + n`` modulo 256."""
    if isinstance(part, bytes):
        return part
    return bytes((part.index + part.offset + number) % 256 for number in range(part.length))


def payload(layout: FolderLayout) -> bytes:
    return b"".join(map(content, layout.parts(0, layout.size)))


@settings(deadline=None)
@given(folder_tables())
def test_tar_has_the_entries_as_tarfile_reads_them(table: FolderTable) -> None:
    layout = FolderLayout(table, 1000)
    data = payload(layout)
    assert len(data) == layout.size
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        members = tar.getmembers()
        assert len(members) == len(table)
        for member, (index, entry) in zip(members, enumerate(table), strict=True):
            name = member.name.encode("utf-8", "surrogateescape")
            assert name == entry.path.rstrip(b"/")
            assert (int(member.type), member.mode, int(member.mtime)) == (entry.kind, entry.mode, entry.mtime)
            assert member.linkname.encode("utf-8", "surrogateescape") == entry.link.rstrip(b"/")
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            if entry.kind is EntryKind.FILE:
                extracted = tar.extractfile(member)
                assert extracted and extracted.read() == content(FileRange(index, 0, entry.size))


@settings(deadline=None)
@given(folder_tables(), st.data())
def test_parts_of_any_range_are_the_payloads_bytes(table: FolderTable, data: st.DataObject) -> None:
    layout = FolderLayout(table, 1000)
    whole = payload(layout)
    start = data.draw(st.integers(0, layout.size))
    end = data.draw(st.integers(start, layout.size))
    assert b"".join(map(content, layout.parts(start, end))) == whole[start:end]


@given(folder_tables(huge=True), st.integers(1 << 16, 1 << 40))
def test_shards_cover_the_payload_and_none_crosses_a_large_file(table: FolderTable, shard_size: int) -> None:
    layout = FolderLayout(table, max(shard_size, 2**40 // 1000))
    position = 0
    for shard in layout.shards():
        assert shard.offset == position and 0 < shard.size <= layout.shard_size
        position += shard.size
        if shard.index is not None:
            assert layout.is_large(shard.index)
            assert shard.offset == layout.body(shard.index) + shard.file_offset
            assert shard.file_offset + shard.size <= table.size(shard.index)
    assert position == layout.size


def test_file_of_1_mib_is_shards_of_its_own_and_a_smaller_one_is_not() -> None:
    layout = FolderLayout(table_of(file("a", (1 << 20) - 1), file("b", 1 << 20), file("c", 3 << 20)), 2 << 20)
    assert [(shard.index, shard.size) for shard in layout.shards()] == [
        (None, 512 + (1 << 20) + 512),
        (1, 1 << 20),
        (None, 512),
        (2, 2 << 20),
        (2, 1 << 20),
        (None, 1024),
    ]


def test_threshold_doubles_until_999_shards_are_enough() -> None:
    table = table_of(*(file(f"{number:04}", 1 << 20) for number in range(600)), file("z", 8 << 20))
    layout = FolderLayout(table, 50_000_000)
    assert layout.large == 2 << 20
    assert len(list(layout.shards())) <= 999


def test_threshold_stays_where_999_shards_are_never_enough() -> None:
    table = table_of(*(file(f"{number:02}", 5_000_000_000) for number in range(20)))
    layout = FolderLayout(table, 50_000_000)
    assert layout.large == 1 << 20
    assert len(list(layout.shards())) == 20 * 100 + 21


def test_vector_of_the_protocol() -> None:
    """The digest of a small folder, as ``docs/protocol.md`` has it."""
    table = table_of(
        file("config.json", 5),
        FolderEntry(b"empty/", EntryKind.FOLDER, mode=0o700),
        FolderEntry(b"latest", EntryKind.SYMLINK, 0, 0o777, 1_763_780_000, b"weights/a"),
        FolderEntry(b"weights/", EntryKind.FOLDER, mode=0o755),
        file("weights/a", 700),
        FolderEntry(b"weights/b", EntryKind.HARD_LINK, 0, 0o644, 1_763_780_000, b"weights/a"),
        FolderEntry("weights/ü".encode(), EntryKind.FILE, 3, 0o600, -1),
        FolderEntry(b"weights/\xff", EntryKind.FILE, 0, 0o600, 0),
    )
    digest = hashlib.sha256(payload(FolderLayout(table, 50_000_000))).hexdigest()
    assert digest == "e83d23a83a1ac39765fe5d43ef83854422ef590da70a846ab0abc44441daf1e4"


@pytest.mark.parametrize(
    ("above", "names"),
    [
        (b"", [b"a", b""]),
        (b"", [b"a", b"."]),
        (b"", [b".."]),
        (b"", [b"a", b"b/c"]),
        (b"", [b"a", b"b\0c"]),
        (b"", [b"a", b"x" * 256]),
        (b"", [b"b", b"a"]),
        (b"", [b"a", b"a"]),
        (b"", [b"0"]),
        (b"no folder/", [b"a"]),
    ],
)
def test_unsafe_name_among_files_is_refused(above: bytes, names: list[bytes]) -> None:
    table = table_of(file("0"))
    with pytest.raises(UnsafeEntry):
        table.append_files(above, names, [1] * len(names), [0o644] * len(names), [0] * len(names))


@pytest.mark.parametrize(
    "numbers", [(-1, 0o644, 0), (1 << 61, 0o644, 0), (1, 0o4755, 0), (1, 0o644, 1 << 62)]
)
def test_unsafe_number_among_files_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(UnsafeEntry):
        FolderTable().append_files(b"", [b"a", b"b"], *zip((1, 0o644, 0), numbers, strict=True))


@given(folder_tables(huge=True))
def test_files_appended_together_are_those_appended_one_by_one(table: FolderTable) -> None:
    together = FolderTable()
    for above, entries in groupby(table, lambda entry: (folder_of(entry), entry.kind is EntryKind.FILE)):
        if not above[1]:
            for entry in entries:
                together.append(entry)
            continue
        run = list(entries)
        together.append_files(
            above[0],
            [entry.path[len(above[0]) :] for entry in run],
            [entry.size for entry in run],
            [entry.mode for entry in run],
            [entry.mtime for entry in run],
        )
    assert list(together) == list(table)
    assert together.paths(0, len(table)) == [entry.path for entry in table]


@given(folder_tables())
def test_runs_of_a_table_are_its_files_and_links_by_folder(table: FolderTable) -> None:
    runs = [
        (first + at, above + name) for first, above, names in table.runs() for at, name in enumerate(names)
    ]
    others = [entry.path for entry in table if entry.kind is EntryKind.FOLDER]
    assert runs == [(at, entry.path) for at, entry in enumerate(table) if entry.path not in others]
    assert list(table.folders()) == others
    assert table.counts() == Counter(map(folder_of, table))


@settings(deadline=None)
@given(folder_tables(huge=True))
def test_list_in_a_manifest_is_read_as_it_was_written(table: FolderTable) -> None:
    reader = ListingReader(len(table))
    for line in entry_lines(table):
        assert len(line) <= MAX_LINE
        reader.read(json.loads(line))
    assert reader.whole and list(reader.table) == list(table)


def test_longest_entry_fits_a_line() -> None:
    deep = b"/".join([b"\xff" * 255] * 15)
    table = FolderTable()
    for end in [number for number, byte in enumerate(deep) if byte == ord("/")]:
        table.append(FolderEntry(deep[: end + 1], EntryKind.FOLDER))
    table.append(FolderEntry(deep, EntryKind.SYMLINK, 0, 0o777, 0, b"\xfe" * 4096))
    lines = list(entry_lines(table))
    assert all(len(line) <= MAX_LINE for line in lines)


def test_digests_of_small_files_are_read_as_they_were_written() -> None:
    table = table_of(*(file(f"{number:04}", 1) for number in range(3000)), file("large", 1 << 20))
    digests = [hashlib.sha256(bytes([number % 256])).digest() for number in range(3000)]
    reader = ListingReader(len(table))
    for line in (*entry_lines(table), *digest_lines(0, digests[:10]), *digest_lines(10, digests[10:])):
        assert len(line) <= MAX_LINE
        reader.read(json.loads(line))
    reader.note_digests(FolderLayout(reader.table, 50_000_000))
    assert [reader.table.digest(index) for index in range(3001)] == [*digests, None]


@pytest.mark.parametrize(
    "entry",
    [
        file(""),
        file("/etc/passwd"),
        file("../x"),
        file("a/../x"),
        file("./a"),
        file("a//b"),
        file("a\0b"),
        file("x" * 256),
        file("a/"),
        FolderEntry(b"a", EntryKind.FOLDER),
        FolderEntry(b"../", EntryKind.FOLDER),
        FolderEntry(b"a/", EntryKind.FOLDER, mtime=1),
        FolderEntry(b"a", EntryKind.FILE, 1, 0o4755),
        FolderEntry(b"a", EntryKind.FILE, -1),
        FolderEntry(b"a", EntryKind.SYMLINK, link=b"/etc"),
        FolderEntry(b"a", EntryKind.SYMLINK, link=b".."),
        FolderEntry(b"a", EntryKind.SYMLINK, link=b"b/../c"),
        FolderEntry(b"a/b", EntryKind.SYMLINK, link=b"../../c"),
        FolderEntry(b"a", EntryKind.SYMLINK),
        FolderEntry(b"a", EntryKind.HARD_LINK, link=b"../x"),
        FolderEntry(b"a", EntryKind.FILE, link=b"b"),
    ],
    ids=lambda entry: f"{entry.kind.name} {entry.path[:20]!r} {entry.link!r}",
)
def test_unsafe_entry_is_refused(entry: FolderEntry) -> None:
    with pytest.raises(UnsafeEntry):
        check_entry(entry)


@pytest.mark.parametrize(
    "entries",
    [
        [file("b"), file("a")],
        [file("a"), file("a")],
        [file("a/b")],
        [folder("a/"), file("a/b/c")],
        [folder("a/"), file("b/c")],
        [file("a"), file("a-"), folder("a/")],
        [FolderEntry(b"a", EntryKind.HARD_LINK, link=b"b"), file("b")],
        [folder("a/"), FolderEntry(b"b", EntryKind.HARD_LINK, link=b"a")],
    ],
)
def test_entries_that_no_folder_can_have_together_are_refused(entries: list[FolderEntry]) -> None:
    with pytest.raises(UnsafeEntry):
        table_of(*entries)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=20,
)


@patient
@given(st.lists(json_values, max_size=6), json_values)
@example([["a", 1, 2, 3, "symlink", {"base64": 7}]], None)
def test_any_line_is_read_or_a_manifest_error(entries: list[object], other: object) -> None:
    reader = ListingReader(3)
    for line in ({"entries": entries}, {"entries": other}, {"file_digests": 0, "sha256": other}):
        try:
            reader.read(line)
        except ManifestError:
            pass
