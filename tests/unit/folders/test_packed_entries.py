"""Packed entries: as many in a line as fit, read back as they were, and no more than was allowed."""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.folders import listing
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.listing import ListingReader, ListTooLong, packed_entry_lines
from shardcast.folders.packed_entries import MAX_UNPACKED, pack, unpack
from shardcast.folders.table import FolderTable
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.manifest_reader import ManifestError
from tests.support.folder_tables import folder_tables, table_of_files


def read_back(lines: list[bytes], expected: int) -> FolderTable:
    reader = ListingReader(expected)
    for line in lines:
        assert len(line) <= MAX_LINE and line.endswith(b"\n")
        reader.read(json.loads(line))
    assert reader.whole
    return reader.table


@settings(deadline=None, max_examples=50)
@given(folder_tables(huge=True))
def test_packed_list_is_read_as_it_was_written(table: FolderTable) -> None:
    assert list(read_back(list(packed_entry_lines(table)), len(table))) == list(table)


def test_long_names_that_have_much_in_common_take_few_lines() -> None:
    table = table_of_files([f"{'deep-' * 38}{number:010}" for number in range(20_000)])
    lines = list(packed_entry_lines(table))
    assert len(lines) <= 8
    assert list(read_back(lines, len(table))) == list(table)


def test_names_at_random_fill_their_lines() -> None:
    source = random.Random(3)
    table = table_of_files([source.randbytes(100).hex() for _ in range(5000)])
    lines = list(packed_entry_lines(table))
    assert min(map(len, lines[:-1])) > MAX_LINE // 2
    assert list(read_back(lines, len(table))) == list(table)


def test_longest_entries_fit_a_line() -> None:
    deep = b"/".join([b"\x01" * 255] * 15)
    table = FolderTable()
    for end in [number for number, byte in enumerate(deep) if byte == ord("/")]:
        table.append(FolderEntry(deep[: end + 1], EntryKind.FOLDER))
    table.append(FolderEntry(deep, EntryKind.SYMLINK, 0, 0o777, 0, b"\xfe" * 4096))
    assert list(read_back(list(packed_entry_lines(table)), len(table))) == list(table)


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    for text in (data.decode("latin1"), base64.b64encode(data).decode()):
        with pytest.raises(ValueError):
            unpack(text)


@pytest.mark.parametrize("size", [MAX_UNPACKED + 1, 400 << 20])
def test_bomb_is_refused_before_it_is_unpacked(size: int) -> None:
    stream = zlib.compressobj()
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(size >> 20))
    bomb += stream.compress(bytes(size % (1 << 20))) + stream.flush()
    text = base64.b64encode(bomb).decode()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="does not end within"):
            unpack(text)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_UNPACKED
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [pack(b"[]") + "AAAA", pack(b"{}"), pack(b"["), pack(b"7"), "", "ü"])
def test_line_that_is_no_packed_list_is_refused(packed: str) -> None:
    with pytest.raises(ManifestError):
        ListingReader(0).read({"entries": packed})


def test_entries_beyond_the_bound_are_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of_files([f"{number:010}" for number in range(1000)])
    lines = list(packed_entry_lines(table))
    monkeypatch.setattr(listing, "MAX_LIST", 10_000)
    with pytest.raises(ManifestError, match="more than 10000 bytes"):
        ListingReader(1000).read(json.loads(lines[0]))
    with pytest.raises(ListTooLong, match="more than 10000 bytes"):
        list(packed_entry_lines(table))
