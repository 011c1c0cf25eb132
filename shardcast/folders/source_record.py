"""The record of a folder that was published: what its files looked like, kept in the data directory.

One file for each folder, of the last version that was published from it::

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
from dataclasses import dataclass
from pathlib import Path

from shardcast.directories import new_folder
from shardcast.filesystem import replace
from shardcast.folders.identities import EntryIdentities
from shardcast.json_text import parse_json
from shardcast.protocol.manifest import MAX_ENTRIES, Manifest
from shardcast.protocol.wire import version_number

MAX_RECORDS = 16
"""Folders whose records are kept; those that were published last."""
_FORMAT = 1
_MAX_HEADER = 1 << 16
"""Bytes of the first line: a path has at most 4096, some of them six characters of JSON."""
_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What is known of a folder since its last version.

    Attributes:
        version: the version's name.
        manifest: SHA-256 of the version's manifest, in hex.
        identities: of the entries in the manifest, in their order.
        settled: nanoseconds since 1970; what was changed later may have changed again with the same times.
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
    """Write the record of a folder that was published; blocks on the disk.

    Raises:
        OSError: the record can't be written.
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
    columns = b"".join(map(_little, identities.columns))
    replace(record_file(folder, source), json.dumps(header).encode() + b"\n" + columns)
    records = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for old in records[:-MAX_RECORDS]:
        old.unlink(missing_ok=True)


def read_record(folder: Path, source: Path) -> SourceRecord | None:
    """Return the record of a folder; None where there is none, or one that can't be used. Blocks."""
    try:
        data = record_file(folder, source).read_bytes()
    except OSError:
        return None
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
        for number, kind in enumerate("Qqq")
    ]
    return SourceRecord(version, manifest, EntryIdentities(*columns), settled)


def _little(column: array[int]) -> bytes:
    """Return a column's bytes, little-endian."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def _column(kind: str, data: bytes) -> array[int]:
    """Return the column that little-endian bytes are."""
    column = array(kind, data)
    if sys.byteorder == "big":
        column.byteswap()
    return column
