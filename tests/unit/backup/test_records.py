"""Entries, listings and snapshots: written and read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardcast.backup.entries import (
    MAX_LINE,
    SavedEntry,
    SavedKind,
    encode_json,
    entry_line,
    json_fields,
    parse_entry,
)
from shardcast.backup.listings import (
    MAX_ENTRIES,
    MAX_SEGMENT,
    cut_chunk_list,
    cut_lines,
    read_chunk_list,
    read_segment,
)
from shardcast.backup.snapshots import Snapshot, parse_snapshot, snapshot_record
from shardcast.errors import IntegrityError

IDS = st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple)
NAMES = (
    st.binary(min_size=1, max_size=40)
    .map(lambda name: name.translate(None, b"/\0") or b"n")
    .filter(lambda name: name not in (b".", b".."))
)
TEXTS = st.text('aZ9 é€😀\n"\\/\u2028\udc80', min_size=1, max_size=6)
NUMBERS = st.integers(0, (1 << 32) - 1)


@st.composite
def entries(draw: st.DrawFn, *kinds: SavedKind) -> SavedEntry:
    kind = draw(st.sampled_from(kinds or tuple(SavedKind)))
    entry = SavedEntry(
        name=draw(NAMES),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(NUMBERS),
        gid=draw(NUMBERS),
        user=draw(st.none() | TEXTS),
        group=draw(st.none() | TEXTS),
        mtime=draw(st.integers(1 - (1 << 63) * 10**9, (1 << 63) * 10**9 - 1)),
        hard=draw(st.none() | TEXTS),
        xattrs=draw(st.dictionaries(TEXTS, st.binary(max_size=20), max_size=3)),
        problems=tuple(draw(st.lists(TEXTS, max_size=2))),
    )
    if kind is SavedKind.FILE:
        sizes = draw(st.lists(st.integers(1, 1 << 23), max_size=3))
        chunks = draw(st.lists(st.binary(min_size=32, max_size=32), min_size=len(sizes), max_size=len(sizes)))
        return replace(
            entry,
            size=sum(sizes),
            chunks=tuple(chunks),
            sizes=tuple(sizes) if len(sizes) > 1 else (),
            chunk_lists=draw(IDS),
            listed=draw(NUMBERS),
            sparse=draw(st.booleans()),
        )
    if kind is SavedKind.FOLDER:
        return replace(entry, segments=draw(IDS))
    if kind is SavedKind.LINK:
        return replace(entry, target=draw(NAMES))
    return replace(entry, device=draw(st.tuples(NUMBERS, NUMBERS))) if kind is not SavedKind.FIFO else entry


@given(entries())
def test_line_gives_back_its_entry(entry: SavedEntry) -> None:
    line = entry_line(entry)
    assert parse_entry(line) == entry
    assert line.endswith(b"\n") and line.count(b"\n") == 1


def test_line_is_canonical_and_leaves_out_what_is_empty() -> None:
    fields = {
        "name": b"caf\xc3\xa9",
        "kind": "file",
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "mtime": 1,
        "size": 0,
    }
    line = '{"gid":0,"kind":"file","mode":420,"mtime":1,"name":"café","size":0,"uid":0}\n'.encode()
    assert encode_json(json_fields(fields)) + b"\n" == line
    assert entry_line(SavedEntry(b"caf\xc3\xa9", SavedKind.FILE, mode=0o644, mtime=1)) == line


def test_name_that_is_not_utf8_is_base64() -> None:
    assert b'"name64":"/2E="' in entry_line(SavedEntry(b"\xffa", SavedKind.FIFO))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "../x", "a\0", "x" * 1025])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        parse_entry(json.dumps({"name": name, "kind": "file"}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "socket"},
        {"mode": 0o10000},
        {"mode": -1},
        {"mode": True},
        {"mode": 1.5},
        {"uid": 1 << 32},
        {"size": -1},
        {"size": 1 << 64},
        {"mtime": "now"},
        {"mtime": (1 << 63) * 10**9},
        {"chunks": ["ab"]},
        {"chunks": "00" * 32},
        {"chunks": ["00" * 32], "size": 1 << 24},
        {"chunks": ["00" * 32] * 2, "size": 3},
        {"chunks": ["00" * 32] * 2, "size": 3, "sizes": [1, 1]},
        {"chunks": ["00" * 32] * 2, "size": 1, "sizes": [1, 0]},
        {"chunks": ["00" * 32] * 2, "size": 2, "sizes": [True, 1]},
        {"chunks": ["0" * 63 + "A"]},
        {"kind": "link"},
        {"kind": "link", "target": ""},
        {"kind": "link", "target64": "!"},
        {"kind": "char", "device": [1]},
        {"kind": "char", "device": [1, -1]},
        {"kind": "block"},
        {"xattrs": []},
        {"xattrs": {"user.a": "%"}},
        {"xattrs": {"user.a": 1}},
        {"problems": "unreadable"},
        {"user": 1},
        {"name64": 5},
    ],
)
def test_fields_out_of_bounds_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        parse_entry(json.dumps({"name": "a", "kind": "file"} | fields).encode())


def test_unknown_fields_are_ignored() -> None:
    assert parse_entry(b'{"name":"a","kind":"fifo","later":{"x":1}}') == SavedEntry(b"a", SavedKind.FIFO)


@given(st.binary(max_size=100))
def test_parsers_raise_only_integrity_errors(data: bytes) -> None:
    for parse in (parse_entry, read_segment, parse_snapshot, read_chunk_list):
        for candidate in (data, b"{" + data + b"}\n", b"[" * 5000):
            try:
                parse(candidate)
            except IntegrityError:
                pass


def test_too_long_a_line_is_refused() -> None:
    with pytest.raises(IntegrityError, match="at most"):
        parse_entry(b'{"name":"a","kind":"file","x":"' + b"y" * MAX_LINE + b'"}')


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, entries(), max_size=5))
def test_listing_gives_back_its_entries(found: dict[bytes, SavedEntry]) -> None:
    listed = [replace(found[name], name=name) for name in sorted(found)]
    segments = cut_lines((entry.name, entry_line(entry)) for entry in listed)
    assert [entry for segment in segments for entry in read_segment(segment)] == listed


def test_insertion_changes_one_segment_and_segments_are_bounded() -> None:
    names = [b"%08d" % number for number in range(0, 40_000, 2)]
    before = list(cut_lines((name, name + b"\n") for name in names))
    assert len(before) > len(names) / MAX_ENTRIES
    after = list(cut_lines((name, name + b"\n") for name in sorted([*names, b"00019999"])))
    assert len(set(after) - set(before)) <= 2
    long = [(b"%d" % number, bytes(MAX_SEGMENT)) for number in range(3)]
    assert len(list(cut_lines(long))) == 3


def test_names_out_of_order_are_refused() -> None:
    first, second = (entry_line(SavedEntry(name, SavedKind.FIFO)) for name in (b"a", b"b"))
    assert len(read_segment(first + second)) == 2
    for wrong in (second + first, first + first, first[:-1], b""):
        with pytest.raises(IntegrityError):
            read_segment(wrong)


def test_chunk_list_gives_back_its_ids_and_changes_in_one_piece() -> None:
    ids = [(bytes([number % 251, number // 251 % 251]) * 16, number + 1) for number in range(20_000)]
    pieces = list(cut_chunk_list(ids))
    assert [chunk for piece in pieces for chunk in read_chunk_list(piece)] == ids
    assert len(pieces) > 3
    assert len(set(cut_chunk_list([(bytes(31) + b"\1", 5), *ids])) - set(pieces)) <= 2
    for wrong in (b"", bytes(33), bytes(36)):
        with pytest.raises(IntegrityError):
            read_chunk_list(wrong)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(entries(SavedKind.FOLDER), NAMES, TEXTS, st.lists(TEXTS, max_size=3))
def test_record_gives_back_its_snapshot(root: SavedEntry, path: bytes, host: str, tags: list[str]) -> None:
    snapshot = Snapshot(
        root,
        b"/" + path,
        host,
        "me",
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        tuple(tags),
        {"exclude": ["*.o"]},
        "0123456789abcdef",
    )
    assert parse_snapshot(snapshot_record(snapshot)) == snapshot


def test_record_of_a_later_format_says_so() -> None:
    record = json.loads(snapshot_record(Snapshot(SavedEntry(b"top", SavedKind.FOLDER), b"/", "host")))
    with pytest.raises(IntegrityError, match="format 2"):
        parse_snapshot(json.dumps(record | {"format": 2}).encode())
    with pytest.raises(IntegrityError, match="no folder"):
        parse_snapshot(json.dumps(record | {"root": {"name": "top", "kind": "fifo"}}).encode())
    with pytest.raises(IntegrityError, match="files"):
        parse_snapshot(json.dumps(record | {"files": 1.5}).encode())
