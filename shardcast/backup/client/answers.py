"""What a backup server answers, read with every bound checked: it may be hostile."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardcast.access.secret import Secret
from shardcast.backup.entries import bytes_of_text
from shardcast.backup.ids import KEY_SIZE
from shardcast.json_text import parse_json

MAX_TEXT = 4096
"""Characters of a text in an answer."""
MAX_KEY = 512
"""Characters of a client's key."""
_MAX_NUMBER = (1 << 63) - 1
_MAX_TIME = 253_402_300_799
"""The end of the year 9999, in seconds since 1970."""
_WORD = re.compile(r"[!-~]+", re.ASCII)
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """What a server gives a machine that registers.

    Attributes:
        client: the client's name.
        key: what the machine proves itself with; shown once.
        id_key: the key that ids are made with.
        read_only: whether it may only restore.
    """

    client: str
    key: Secret
    id_key: bytes
    read_only: bool


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What a server knows of a client.

    Attributes:
        client: its name.
        id_key: the key that ids are made with.
        read_only: whether it may only restore.
        append_only: whether it needs the server's admin key to forget snapshots.
        min_age: seconds for which no snapshot can be forgotten.
        unusual: that there are more snapshots than usual, in words; None where there are not.
        quota: bytes that it may use; None for no bound.
        used: bytes that it uses.
    """

    client: str
    id_key: bytes
    read_only: bool
    append_only: bool
    min_age: float
    unusual: str | None
    quota: int | None
    used: int


@dataclass(frozen=True, slots=True)
class ListedSnapshot:
    """A snapshot in the list of a client's snapshots.

    Attributes:
        id: by which it is asked for.
        arrived: when the server accepted it, in seconds since 1970, by the server's clock.
        host: the machine's name.
        path: of the folder.
        tags: words of its user.
        files: files in it.
        bytes: bytes of the files.
        new_bytes: bytes that were sent for it.
    """

    id: str
    arrived: float
    host: str
    path: bytes
    tags: tuple[str, ...]
    files: int
    bytes: int
    new_bytes: int


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        ValueError: it is none.
    """
    fields = parse_json(body)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields


def parse_registered(body: bytes) -> RegisteredClient:
    """Return what a server gives a machine that registers.

    Raises:
        ValueError: it is not that.
    """
    fields = parse_object(body)
    key = text_of(fields, "key", MAX_KEY)
    if not _WORD.fullmatch(key):
        raise ValueError("key is no word of ASCII")
    return RegisteredClient(
        client=text_of(fields, "client"),
        key=Secret(key),
        id_key=_id_key(fields),
        read_only=fields.get("read_only") is True,
    )


def parse_facts(body: bytes) -> ClientFacts:
    """Return what a server knows of a client.

    Raises:
        ValueError: it is not that.
    """
    fields = parse_object(body)
    return ClientFacts(
        client=text_of(fields, "client"),
        id_key=_id_key(fields),
        read_only=fields.get("read_only") is True,
        append_only=fields.get("append_only") is True,
        min_age=_time(fields, "min_age"),
        unusual=text_of(fields, "unusual") if fields.get("unusual") is not None else None,
        quota=_number(fields, "quota") if fields.get("quota") is not None else None,
        used=_number(fields, "used"),
    )


def parse_listed(line: bytes) -> ListedSnapshot:
    """Return the snapshot of a line of the list.

    Raises:
        ValueError: it is none.
    """
    fields = parse_object(line)
    tags = fields.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and len(tag) <= MAX_TEXT for tag in tags):
        raise ValueError("tags are no list of texts")
    return ListedSnapshot(
        id=snapshot_id(fields.get("id")),
        arrived=_time(fields, "arrived"),
        host=text_of(fields, "host"),
        path=bytes_of_text(fields, "path"),
        tags=tuple(tags),
        files=_number(fields, "files"),
        bytes=_number(fields, "bytes"),
        new_bytes=_number(fields, "new_bytes"),
    )


def snapshot_id(value: object) -> str:
    """Return an id of a snapshot, or of a run.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not 4 <= len(value) <= 128 or not _HEX.issuperset(value):
        raise ValueError("it names no id")
    return value


def text_of(fields: Mapping[str, Any], key: str, max_length: int = MAX_TEXT) -> str:
    """Return the text of a field.

    Raises:
        ValueError: it is none, or too long.
    """
    value = fields.get(key)
    if not isinstance(value, str) or len(value) > max_length:
        raise ValueError(f"{key} is no text of at most {max_length} characters")
    return value


def _number(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key, 0)
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"{key} is no number")
    return value


def _time(fields: Mapping[str, Any], key: str) -> float:
    value = fields.get(key, 0)
    if type(value) not in (int, float) or not 0 <= value <= _MAX_TIME:
        raise ValueError(f"{key} is no time in seconds")
    return float(value)


def _id_key(fields: Mapping[str, Any]) -> bytes:
    key = base64.b64decode(text_of(fields, "id_key", 100), validate=True)
    if len(key) != KEY_SIZE:
        raise ValueError(f"id_key has {len(key)} bytes instead of {KEY_SIZE}")
    return key
