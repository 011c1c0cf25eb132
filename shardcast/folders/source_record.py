"""The record of a published folder: the identities of its files, kept in the data directory.

One file for each folder, about the last version published from the folder::

    {"format": 1, "path": "/data/model", "version": "v7", "manifest": "<SHA-256>", "entries": 3,
     "settled": 1763780000000000000}
    inodes, mtimes and ctimes of the entries in their order, 8 bytes each, little-endian
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

from shardcast.directories import new_folder
from shardcast.filesystem import replace_by_parts
from shardcast.folders.identities import EntryIdentities, column_bytes
from shardcast.folders.reuse import COARSE, is_settled
from shardcast.json_text import parse_json
from shardcast.protocol.manifest import MAX_ENTRIES, Manifest
from shardcast.protocol.wire import version_number
from shardcast.store.link_changes import LinkChange

MAX_RECORDS = 16
"""Maximum folders with records; those published last."""
_FORMAT = 1
_MAX_HEADER = 1 << 16
"""Bytes of the first line: a path has at most 4096, some of them six characters of JSON."""
_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """The known state of a folder at its last version.

    Attributes:
        version: the version's name.
        manifest: SHA-256 of the version's manifest, in hex.
        identities: of the entries in the manifest, in their order.
        settled: nanoseconds since 1970; a file changed later may have changed again with the same times.
    """

    version: str
    manifest: str
    identities: EntryIdentities
    settled: int


def record_file(folder: Path, source: Path) -> Path:
    """Return the file of a folder's record; ``folder`` has all records."""
    return folder / hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:32]


def write_record(
    folder: Path, source: Path, manifest: Manifest, identities: EntryIdentities, settled: int
) -> None:
    """Write the record of a published folder, and remove the oldest beyond ``MAX_RECORDS``; blocks.

    Raises:
        LocalDiskError: the record can't be written.
        OSError: the records can't be listed, or an old one can't be removed.
    """
    new_folder(folder, exist_ok=True)
    header = {
        "format": _FORMAT,
        "path": os.fsencode(source.resolve()).decode("utf-8", "replace"),
        "version": manifest.version,
        "manifest": manifest.identity,
        "entries": len(identities),
        "settled": settled,
    }
    replace_by_parts(record_file(folder, source), _encode(header, identities))
    records = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for old in records[:-MAX_RECORDS]:
        old.unlink(missing_ok=True)


def renew_records(folder: Path, changes: Iterable[LinkChange]) -> None:
    """Renew the records of folders after this node gave or removed a name of their files; blocks.

    A file that matched its record before the change is recorded with its state after the change. A write
    within the same tick of the file system's clock would have changed the mtime, too.

    Raises:
        LocalDiskError: a record can't be written.
        OSError: the folder can't be read.
    """
    by_inode = {change.before.st_ino: change for change in changes if change.same_content}
    if not by_inode or not folder.is_dir():
        return
    for file in folder.iterdir():
        data = _read(file)
        record = _parse(data)
        renewed = _renewed(record, by_inode) if record else None
        if renewed:
            values = {**parse_json(data.partition(b"\n")[0]), "settled": renewed.settled}
            found = file.stat()
            replace_by_parts(file, _encode(values, renewed.identities))
            os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))  # the order in which they go


def _renewed(record: SourceRecord, changes: Mapping[int, LinkChange]) -> SourceRecord | None:
    """Return a record after changes; None if no change is of a file that matched its record.

    Entries that may have changed again with the same times are forgotten. Then a later time of settling holds
    for all others.
    """
    identities, last = record.identities, 0
    settled = [is_settled(identities.ctime(index), record.settled) for index in range(len(identities))]
    for index, inode in enumerate(list(identities.columns[0])):
        change = changes.get(inode)
        if change and settled[index] and identities.agree(index, change.before):
            identities.renew(index, change.after)
            last = max(last, change.after.st_ctime_ns)
    if not last:
        return None
    for index in (index for index, is_sure in enumerate(settled) if not is_sure):
        identities.forget(index)
    return replace_fields(record, settled=max(record.settled, last + COARSE + 1))


def read_record(folder: Path, source: Path) -> SourceRecord | None:
    """Return the record of a folder; None without a usable one. Blocks on the disk."""
    return _parse(_read(record_file(folder, source)))


def _read(file: Path) -> bytes:
    """Return the bytes of a record; none of an unreadable one."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _parse(data: bytes) -> SourceRecord | None:
    """Return the record in a file's bytes; None if unusable."""
    end = data.find(b"\n", 0, _MAX_HEADER)
    try:
        values = parse_json(data[:end]) if end >= 0 else None
    except ValueError:
        return None
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        return None
    version, manifest, entries, settled = (
        values.get(key) for key in ("version", "manifest", "entries", "settled")
    )
    if not isinstance(version, str) or not isinstance(manifest, str) or version_number(version) is None:
        return None
    if not isinstance(entries, int) or not isinstance(settled, int) or not 0 <= entries <= MAX_ENTRIES:
        return None
    if len(data) - end - 1 != entries * 8 * _COLUMNS:
        return None
    columns = [
        _column(kind, data[end + 1 + entries * 8 * number : end + 1 + entries * 8 * (number + 1)])
        for number, kind in enumerate("QQQ")
    ]
    return SourceRecord(version, manifest, EntryIdentities(*columns), settled)


def _encode(header: Mapping[str, Any], identities: EntryIdentities) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a record, part by part."""
    yield json.dumps(header).encode() + b"\n"
    yield from map(_little, identities.columns)


def _little(column: array[int]) -> memoryview:
    """Return a column's bytes, little-endian."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column_bytes(column)


def _column(kind: str, data: bytes) -> array[int]:
    """Return the column in little-endian bytes."""
    column = array(kind, data)
    if sys.byteorder == "big":
        column.byteswap()
    return column
