"""Entries of a folder in a backup: each a line of JSON in its folder's listing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shardcast.backup.ids import ID_SIZE, MAX_CHUNK
from shardcast.digest import is_digest
from shardcast.errors import IntegrityError
from shardcast.json_text import parse_json

MAX_LINE = 1 << 20
"""Bytes of an entry's line."""
MAX_NAME, MAX_TARGET = 1024, 1 << 16
"""Bytes of a name and of a link's target: more than any file system has."""
MODE_BITS = 0o7777
_MAX_NUMBER, _MAX_ID = (1 << 63) - 1, (1 << 32) - 1
_MAX_TIME = (1 << 63) * 10**9 - 1
"""Nanoseconds of the latest time that a kernel gives a file: its seconds have 64 bits with a sign."""
_MAX_HARD = 100
"""Characters of the text shared by all names of one file."""
_NO_NAMES = (b"", b".", b"..")
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class SavedKind(StrEnum):
    """Kinds of entries."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    FIFO = "fifo"
    CHAR = "char"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class SavedEntry:
    """One entry of a folder.

    Attributes:
        name: name in the folder.
        kind: file, folder, link or another kind.
        mode: permission bits, at most 07777.
        uid: number of the owner.
        gid: number of the group.
        user: name of the owner; None where the system knew none.
        group: name of the group; likewise.
        mtime: time of the last write, in nanoseconds since 1970.
        size: bytes of a file.
        chunks: ids of a file's chunks, in order.
        sizes: bytes of each chunk, if there are several.
        chunk_lists: ids of ``listing`` chunks with a file's ids, if these are too many for a line.
        listed: chunks in these lists.
        sparse: whether the file had holes.
        segments: ids of a folder's listing, in order.
        target: path in a symbolic link.
        device: major and minor number of a device.
        hard: device and inode of a file with several names, the same for all of them; None for one name.
        xattrs: extended attributes, ACLs among them.
        problems: parts that could not be saved, in words.
    """

    name: bytes
    kind: SavedKind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user: str | None = None
    group: str | None = None
    mtime: int = 0
    size: int = 0
    chunks: tuple[bytes, ...] = ()
    sizes: tuple[int, ...] = ()
    chunk_lists: tuple[bytes, ...] = ()
    listed: int = 0
    sparse: bool = False
    segments: tuple[bytes, ...] = ()
    target: bytes = b""
    device: tuple[int, int] | None = None
    hard: str | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def text_or_base64(key: str, value: bytes) -> tuple[str, str]:
    """Return the key and the text for bytes in JSON: ``key64`` and base64 for bytes other than UTF-8."""
    try:
        return key, value.decode()
    except UnicodeDecodeError:
        return key + "64", base64.b64encode(value).decode()


def bytes_of_text(fields: Mapping[str, Any], key: str) -> bytes:
    """Return the bytes written by ``text_or_base64``.

    Raises:
        ValueError: neither key is there, or the value is malformed.
    """
    if (encoded := fields.get(key + "64")) is not None:
        return _base64(encoded)
    text = fields.get(key)
    if not isinstance(text, str):
        raise ValueError(f"no text {key}")
    return text.encode()


def entry_line(entry: SavedEntry) -> bytes:
    """Return the line of an entry, with the newline."""
    return encode_json(entry_fields(entry)) + b"\n"


def fields_line(fields: Mapping[str, Any]) -> bytes:
    """Return the line of an entry, with its newline, from fields as ``json_fields`` takes them."""
    return encode_json(json_fields(fields)) + b"\n"


def entry_fields(entry: SavedEntry) -> dict[str, Any]:
    """Return an entry as fields for JSON."""
    fields: dict[str, Any] = {
        "name": entry.name, "kind": entry.kind.value, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid,
        "user": entry.user, "group": entry.group, "mtime": entry.mtime, "chunks": entry.chunks,
        "sizes": entry.sizes, "chunk_lists": entry.chunk_lists, "listed": entry.listed or None,
        "sparse": entry.sparse, "segments": entry.segments, "target": entry.target,
        "device": entry.device, "hard": entry.hard, "xattrs": entry.xattrs, "problems": entry.problems,
    }  # fmt: skip
    if entry.kind is SavedKind.FILE:
        fields["size"] = entry.size
    return json_fields(fields)


def json_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of an entry as they stand in JSON; empty ones are left out."""
    written = {key: value for key, value in fields.items() if value or (value == 0 and value is not False)}
    key, written[key] = text_or_base64("name", written.pop("name"))
    if "target" in written:
        key, written[key] = text_or_base64("target", written.pop("target"))
    for key in ("chunks", "chunk_lists", "segments"):
        if key in written:
            written[key] = [chunk.hex() for chunk in written[key]]
    if "xattrs" in written:
        written["xattrs"] = {
            key: base64.b64encode(value).decode() for key, value in written["xattrs"].items()
        }
    return written


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object with sorted keys and no spaces.

    Names of users and attributes in other encodings than UTF-8 have lone surrogates, written as JSON escapes.
    """
    return _encode(value).encode("utf-8", "backslashreplace")


def parse_entry(line: bytes) -> SavedEntry:
    """Return the entry of a line, perhaps from a hostile server; unknown fields are ignored.

    Raises:
        IntegrityError: the line is no entry, or its name could lead out of the folder.
    """
    try:
        if len(line) > MAX_LINE:
            raise ValueError(f"{len(line)} bytes; at most {MAX_LINE} are allowed")
        fields = parse_json(line)
        if not isinstance(fields, dict):
            raise ValueError("no JSON object")
        return entry_of_fields(fields)
    except ValueError as error:
        raise IntegrityError(f"a line of a folder's listing is no entry: {error}") from None


def entry_of_fields(fields: Mapping[str, Any]) -> SavedEntry:
    """Return the entry of fields from JSON.

    Raises:
        ValueError: a field has a wrong type or value.
    """
    kind = SavedKind(_text("kind", fields.get("kind")))
    readers = _READERS[kind]
    values = {key: readers[key](key, value) for key, value in fields.items() if key in readers}
    if kind is SavedKind.FILE:
        _check_content(values.get("size", 0), values.get("chunks", ()), values.get("sizes", ()))
    elif kind is SavedKind.LINK:
        values["target"] = _target(fields)
    elif kind in (SavedKind.CHAR, SavedKind.BLOCK):
        values["device"] = _device(fields)
    return SavedEntry(name=check_name(bytes_of_text(fields, "name")), kind=kind, **values)


def check_name(name: bytes) -> bytes:
    """Return a name after checking that a file of this name stays in its folder.

    Raises:
        ValueError: the name is empty, ``.`` or ``..``, too long, or has a ``/`` or a NUL.
    """
    if name in _NO_NAMES or len(name) > MAX_NAME or b"/" in name or b"\0" in name:
        raise ValueError(f"{name[:100]!r} is no name of a file")
    return name


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"no text {key}")
    return value


def _number(least: int, most: int) -> Callable[[str, object], int]:
    """Return a reader of numbers within bounds."""

    def read(key: str, value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{key} is no number from {least} to {most}")
        return value

    return read


def _ids(key: str, values: object) -> tuple[bytes, ...]:
    found = [bytes.fromhex(value) for value in values if is_digest(value)] if isinstance(values, list) else []
    if not isinstance(values, list) or len(found) != len(values):
        raise ValueError(f"{key} is no list of ids of {ID_SIZE} bytes in hex")
    return tuple(found)


def _sizes(key: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(one) is int and 1 <= one <= MAX_CHUNK for one in values):
        raise ValueError(f"{key} are no list of sizes of chunks")
    return tuple(values)


def _check_content(size: int, chunks: tuple[bytes, ...], sizes: tuple[int, ...]) -> None:
    """Check that a file's chunks have the sizes of a file of this size.

    Raises:
        ValueError: they have others.
    """
    if len(chunks) == 1 and (sizes or size > MAX_CHUNK):
        raise ValueError(f"one chunk is no file of {size} bytes")
    if len(chunks) > 1 and (len(sizes) != len(chunks) or sum(sizes) != size):
        raise ValueError(f"{len(chunks)} chunks have {len(sizes)} sizes, which are not {size} bytes")


def _target(fields: Mapping[str, Any]) -> bytes:
    target = bytes_of_text(fields, "target")
    if not target or len(target) > MAX_TARGET or b"\0" in target:
        raise ValueError(f"a link to {target[:100]!r}")
    return target


def _device(fields: Mapping[str, Any]) -> tuple[int, int]:
    match fields.get("device"):
        case [int(major), int(minor)] if 0 <= major <= _MAX_ID and 0 <= minor <= _MAX_ID:
            return major, minor
    raise ValueError("device is no pair of numbers")


def _hard(key: str, value: object) -> str:
    hard = _text(key, value)
    if not 1 <= len(hard) <= _MAX_HARD:
        raise ValueError(f"{key} is no text of 1 to {_MAX_HARD} characters")
    return hard


def _xattrs(key: str, values: object) -> dict[str, bytes]:
    if not isinstance(values, dict) or not all(name and "\0" not in name for name in values):
        raise ValueError(f"{key} are no object of names")
    return {name: _base64(value) for name, value in values.items()}


def _problems(key: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} are no list of texts")
    return tuple(values)


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("no base64")
    return base64.b64decode(value, validate=True)


_COMMON: Mapping[str, Callable[[str, object], Any]] = {
    "mode": _number(0, MODE_BITS),
    "uid": _number(0, _MAX_ID),
    "gid": _number(0, _MAX_ID),
    "user": _text,
    "group": _text,
    "mtime": _number(-_MAX_TIME, _MAX_TIME),
    "hard": _hard,
    "xattrs": _xattrs,
    "problems": _problems,
}
_OF_FILES: Mapping[str, Callable[[str, object], Any]] = {
    "size": _number(0, _MAX_NUMBER),
    "chunks": _ids,
    "sizes": _sizes,
    "chunk_lists": _ids,
    "listed": _number(0, _MAX_NUMBER),
    "sparse": lambda key, value: value is True,
}
_READERS = dict.fromkeys(SavedKind, _COMMON) | {
    SavedKind.FILE: {**_COMMON, **_OF_FILES},
    SavedKind.FOLDER: {**_COMMON, "segments": _ids},
}
"""Readers of the fields of each kind, for those of one value; other fields are ignored."""
