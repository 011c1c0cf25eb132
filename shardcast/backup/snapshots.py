"""Snapshots: the record of one backup of one folder. The server stores the record as received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shardcast.backup.entries import (
    SavedEntry,
    SavedKind,
    bytes_of_text,
    encode_json,
    entry_fields,
    entry_of_fields,
    text_or_base64,
)
from shardcast.errors import IntegrityError
from shardcast.json_text import parse_json

FORMAT = 1
MAX_RECORD = 1 << 20
"""Bytes of a record."""
TOP_NAME = b"top"
"""The name of the top folder's entry, whose real name is in the path."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One backup of one folder.

    Attributes:
        root: the entry of the folder.
        path: absolute path of the folder.
        host: the machine's name.
        user: the user who ran the backup.
        started: time of the start, in nanoseconds since 1970, by the client's clock.
        ended: time after the last chunk was sent.
        files: files in the folder and below.
        folders: folders, the top folder among them.
        bytes: bytes of the files.
        new_bytes: bytes sent for this snapshot.
        problems: entries that could not be saved whole.
        tags: words of the user.
        command: options of the backup, such as its excludes.
        parent: the snapshot this one was compared with; None for none.
    """

    root: SavedEntry
    path: bytes
    host: str
    user: str = ""
    started: int = 0
    ended: int = 0
    files: int = 0
    folders: int = 0
    bytes: int = 0
    new_bytes: int = 0
    problems: int = 0
    tags: tuple[str, ...] = ()
    command: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None


_NUMBERS = ("started", "ended", "files", "folders", "bytes", "new_bytes", "problems")
_MAX_NUMBER = (1 << 63) - 1


def snapshot_record(snapshot: Snapshot) -> bytes:
    """Return the record of a snapshot."""
    fields: dict[str, Any] = {"format": FORMAT, "root": entry_fields(snapshot.root), "host": snapshot.host}
    fields |= dict([text_or_base64("path", snapshot.path)])
    fields |= {key: getattr(snapshot, key) for key in ("user", *_NUMBERS)}
    fields |= {"tags": list(snapshot.tags), "command": dict(snapshot.command), "parent": snapshot.parent}
    return encode_json(fields)


def parse_snapshot(record: bytes) -> Snapshot:
    """Return the snapshot of a record, perhaps from a hostile server; unknown fields are ignored.

    Raises:
        IntegrityError: the record is malformed, or has the format of a later release.
    """
    try:
        if len(record) > MAX_RECORD:
            raise ValueError(f"{len(record)} bytes; at most {MAX_RECORD} are allowed")
        fields = parse_json(record)
        if not isinstance(fields, dict) or type(fields.get("format")) is not int:
            raise ValueError("no JSON object with a format")
        if fields["format"] > FORMAT:
            raise ValueError(f"format {fields['format']}; install a newer release here")
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}; this release reads format {FORMAT}")
        return _snapshot(fields)
    except ValueError as error:
        raise IntegrityError(f"a snapshot's record can't be read: {error}") from None


def _snapshot(fields: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot of a record's fields.

    Raises:
        ValueError: a field has a wrong type or value.
    """
    root, tags, command = fields.get("root"), fields.get("tags", []), fields.get("command", {})
    if not isinstance(root, dict) or not isinstance(command, dict):
        raise ValueError("root or command is no object")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("tags are no list of texts")
    top = entry_of_fields(root)
    if top.kind is not SavedKind.FOLDER:
        raise ValueError("the top is no folder")
    numbers = {key: _number(fields, key) for key in _NUMBERS}
    texts = {key: _text(fields, key) for key in ("host", "user")}
    parent = _text(fields, "parent") if fields.get("parent") is not None else None
    path = bytes_of_text(fields, "path")
    return Snapshot(root=top, path=path, tags=tuple(tags), command=command, parent=parent, **numbers, **texts)  # type: ignore[arg-type]


def _number(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key, 0)
    if type(value) is not int or not -_MAX_NUMBER <= value <= _MAX_NUMBER:
        raise ValueError(f"{key} is no number")
    return value


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    return value
