"""The list of a folder's entries as lines of the manifest, and back.

::

    {"format": 1, …, "name": "model.tar", "kind": "file", "folder": {"name": "model", "entries": 3}}
    {"entries": [["config.json", 640, 420, 1763780000], ["weights/", 0, 493, 0],
                 ["weights/newest", 0, 511, 1763780000, "symlink", "a"]]}
    {"entries": "<base64 of a zlib stream of such a list>"}
    {"shard": 1, …}
    {"file_digests": 0, "sha256": "<base64 of 32 bytes for each small file, in order>"}

Path, size, mode, mtime; for links also the kind and the target. A path in another encoding than UTF-8 is
``{"base64": "…"}``. Large files have no digest here: their shards have. Lists are packed when they would take
too many lines otherwise.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from shardcast.folders.entries import EntryKind, FolderEntry, UnsafeEntry
from shardcast.folders.layout import FolderLayout
from shardcast.folders.packed_entries import packed_lines, unpack
from shardcast.folders.table import FolderTable
from shardcast.json_text import parse_json
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.manifest import DIGESTS_KEY, ENTRIES_KEY, MAX_ENTRIES
from shardcast.protocol.manifest_reader import ManifestError

DIGESTS_A_LINE = ((MAX_LINE - 100) * 3 // 4) // 32
"""Maximum digests in a line."""
MAX_LIST = 256 << 20
"""Bytes of JSON of all packed entries: a reader's memory is bounded, however well they compress."""
_FILLED = MAX_LINE - 4096
"""Bytes of a line filled with entries of equal length within each folder."""
_ENTRY = 28
"""Usual bytes of an entry without the path."""
_encode = json.JSONEncoder(separators=(",", ":")).encode
_KINDS = {"symlink": EntryKind.SYMLINK, "link": EntryKind.HARD_LINK}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def entry_lines(table: FolderTable) -> Iterator[bytes]:
    """Yield the lines with the entries, each within the bound of a manifest's line."""
    if not len(table):
        return
    batch = max(1, _FILLED // (table.path_bytes // len(table) + _ENTRY))
    for start in range(0, len(table), batch):
        yield from _entry_lines(_values(table, start, min(start + batch, len(table))))


def _entry_lines(batch: list[tuple[Any, ...]]) -> Iterator[bytes]:
    """Yield one line with a batch of entries; if the line is too long, lines with halves of the batch."""
    line = _encode({ENTRIES_KEY: batch}).encode() + b"\n"
    if len(line) <= MAX_LINE or len(batch) == 1:
        yield line
    else:
        middle = len(batch) // 2
        yield from _entry_lines(batch[:middle])
        yield from _entry_lines(batch[middle:])


def count_entry_lines(table: FolderTable, enough: int) -> int:
    """Return the number of lines with the entries, or an upper bound not above ``enough``."""
    # A byte of a path is at most six characters of JSON; numbers and punctuation add some 80.
    bound = 2 + 4 * (6 * table.path_bytes + 80 * len(table)) // _FILLED
    return bound if bound <= enough else sum(1 for _ in entry_lines(table))


class ListTooLong(ValueError):
    """Entries of more JSON than a reader takes."""


def packed_entry_lines(table: FolderTable) -> Iterator[bytes]:
    """Yield the lines with the entries, packed.

    Raises:
        ListTooLong: readers would refuse so many bytes.
    """
    total = 0
    for line, size in packed_lines(
        len(table),
        table.path_bytes // max(1, len(table)) + _ENTRY,
        lambda start, end: _encode(_values(table, start, end)).encode(),
        lambda packed: _encode({ENTRIES_KEY: packed}).encode() + b"\n",
    ):
        total += size
        if total > MAX_LIST:
            raise ListTooLong(f"more than {MAX_LIST} bytes of names, sizes, modes and times")
        yield line


def entry_values(table: FolderTable, index: int) -> tuple[Any, ...]:
    """Return an entry as JSON values."""
    return _values(table, index, index + 1)[0]


def entry_line(table: FolderTable, index: int) -> bytes:
    """Return a line with one entry."""
    return _encode({ENTRIES_KEY: [entry_values(table, index)]}).encode() + b"\n"


def digest_lines(first: int, digests: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with the digests of small files.

    Args:
        first: how many small files came before.
        digests: 32 bytes each.
    """
    found = list(digests)
    for start in range(0, len(found), DIGESTS_A_LINE):
        data = base64.b64encode(b"".join(found[start : start + DIGESTS_A_LINE])).decode()
        yield _encode({DIGESTS_KEY: first + start, "sha256": data}).encode() + b"\n"


class ListingReader:
    """A reader of the lines of a list, as they arrive.

    Attributes:
        table: the entries so far.
    """

    def __init__(self, expected: int, table: FolderTable | None = None) -> None:
        """Expect so many entries at most.

        Args:
            expected: the number.
            table: takes them; None for a new one.

        Raises:
            ManifestError: they are too many.
        """
        if not 0 <= expected <= MAX_ENTRIES:
            raise ManifestError(f"a folder of {expected} entries; at most {MAX_ENTRIES} can be received")
        self.table = FolderTable() if table is None else table
        self._expected = expected
        self._unpacked = 0
        self._digests = bytearray()

    @property
    def whole(self) -> bool:
        """Whether all entries are here."""
        return len(self.table) == self._expected

    def read(self, values: Mapping[str, Any]) -> None:
        """Take the values of a line; lines of other kinds are passed over.

        Raises:
            ManifestError: an entry is unsafe, malformed or one too many.
        """
        if ENTRIES_KEY in values:
            self._read_entries(values[ENTRIES_KEY])
        elif DIGESTS_KEY in values:
            self._read_digests(values)

    def note_digests(self, layout: FolderLayout) -> None:
        """Enter the digests received so far for the small files of a layout."""
        for number, index in enumerate(layout.small_files()):
            digest = bytes(self._digests[number * 32 : (number + 1) * 32])
            if not digest:
                return
            layout.table.set_digest(index, digest)

    def _read_entries(self, entries: Any) -> None:
        """Take a list of entries, packed or plain."""
        if isinstance(entries, str):
            entries = self._unpack(entries)
        if not isinstance(entries, list):
            raise ManifestError("the entries of a folder are no list")
        if len(self.table) + len(entries) > self._expected:
            raise ManifestError(f"more than the {self._expected} entries announced or allowed")
        run = _FileRun(self.table)
        try:
            for values in entries:
                if not run.take(values):
                    run.end()
                    self.table.append(parse_entry(values))
            run.end()
        except UnsafeEntry as error:
            raise ManifestError(f"an entry of the folder can't be taken: {error}") from None

    def _unpack(self, packed: str) -> Any:
        """Return the packed JSON value.

        Raises:
            ManifestError: the text is malformed, or all together exceed ``MAX_LIST`` bytes.
        """
        try:
            text = unpack(packed)
            self._unpacked += len(text)
            if self._unpacked > MAX_LIST:
                raise ManifestError(f"entries of a folder with more than {MAX_LIST} bytes")
            return parse_json(text)
        except ManifestError:
            raise
        except ValueError as error:
            raise ManifestError(f"malformed packed entries of a folder: {error}") from None

    def _read_digests(self, values: Mapping[str, Any]) -> None:
        """Take digests of small files."""
        try:
            digests = base64.b64decode(values.get("sha256") or "", validate=True)
        except (ValueError, TypeError):
            digests = b"?"
        if values[DIGESTS_KEY] != len(self._digests) // 32 or len(digests) % 32:
            raise ManifestError("malformed or misplaced digests of files")
        self._digests += digests
        if len(self._digests) > 32 * self._expected:
            raise ManifestError("more digests of files than entries")


class _FileRun:
    """Consecutive files of one folder in a list, to be added to a table together."""

    def __init__(self, table: FolderTable) -> None:
        self._table = table
        self._above = b""
        self._names: list[bytes] = []
        self._numbers: list[tuple[int, int, int]] = []

    def take(self, values: Any) -> bool:
        """Take the JSON values of an entry; a run of another folder is ended first.

        Returns:
            Whether the values were taken: they describe a file with a path in UTF-8.

        Raises:
            UnsafeEntry: an earlier file of the run is unsafe.
        """
        if type(values) is not list or len(values) != 4:
            return False
        text, size, mode, mtime = values
        if not (type(text) is str and type(size) is type(mode) is type(mtime) is int):
            return False
        path = _bytes(text)
        at = path.rfind(b"/") + 1
        if at == len(path):
            return False
        if path[:at] != self._above:
            self.end()
            self._above = path[:at]
        self._names.append(path[at:])
        self._numbers.append((size, mode, mtime))
        return True

    def end(self) -> None:
        """Append the files to the table.

        Raises:
            UnsafeEntry: one of them is unsafe, or out of order.
        """
        if self._names:
            names, numbers = self._names, self._numbers
            self._names, self._numbers = [], []
            self._table.append_files(self._above, names, *zip(*numbers, strict=True))


def _values(table: FolderTable, start: int, end: int) -> list[tuple[Any, ...]]:
    """Return entries as JSON values."""
    values: list[tuple[Any, ...]] = [(_text(path), *numbers) for path, *numbers in table.rows(start, end)]
    if table.links:
        for index in range(start, end):
            if link := table.links.get(index):
                values[index - start] += (_NAMES[table.kind(index)], _text(link))
    return values


def parse_entry(values: Any) -> FolderEntry:
    """Return the entry described by JSON values.

    Raises:
        ManifestError: the values are malformed.
    """
    if not isinstance(values, list) or len(values) not in (4, 6):
        raise ManifestError("a malformed entry of a folder")
    size, mode, mtime = values[1:4]
    if any(type(number) is not int for number in (size, mode, mtime)):
        raise ManifestError("an entry of a folder whose size, mode or time is no whole number")
    path = _bytes(values[0])
    if len(values) == 4:
        kind = EntryKind.FOLDER if path.endswith(b"/") else EntryKind.FILE
        return FolderEntry(path, kind, size, mode, mtime)
    if not isinstance(values[4], str) or values[4] not in _KINDS:
        raise ManifestError(f"an entry of a folder of the kind {str(values[4])[:40]!r}")
    return FolderEntry(path, _KINDS[values[4]], size, mode, mtime, _bytes(values[5]))


def _text(path: bytes) -> str | dict[str, str]:
    """Return a path as JSON."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(path).decode()}


def _bytes(value: Any) -> bytes:
    """Return the path in a JSON value.

    Raises:
        ManifestError: the value is malformed.
    """
    try:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            return base64.b64decode(value["base64"], validate=True)
    except (ValueError, KeyError, TypeError):
        pass
    raise ManifestError("a malformed path in a folder")
