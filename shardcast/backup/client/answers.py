"""Answers of a backup server, parsed with every bound checked: the server may be hostile."""

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
    """A server's answer to a registration.

    Attributes:
        client: the client's name.
        key: the secret that identifies this machine; sent once.
        id_key: the key for ids of chunks.
        read_only: whether the key may only restore.
        shares: whether the server shares chunks between this client and others.
    """

    client: str
    key: Secret
    id_key: bytes
    read_only: bool
    shares: bool = False


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """A server's facts about a client.

    Attributes:
        client: the client's name.
        id_key: the key for ids of chunks.
        read_only: whether the key may only restore.
        append_only: whether forgetting snapshots needs the server's admin key.
        min_age: seconds after arrival during which no snapshot can be forgotten.
        unusual: a sentence about more snapshots than usual; None for a usual number.
        quota: maximum bytes of the client; None for no bound.
        used: bytes stored for the client.
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
        id: the id, used in requests.
        arrived: time of acceptance, in seconds since 1970, by the server's clock.
        host: the machine's name.
        path: path of the folder.
        tags: words of the user.
        files: number of files.
        bytes: bytes of all files.
        new_bytes: bytes sent for this snapshot.
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
        ValueError: the body is no JSON object.
    """
    fields = parse_json(body)
    if not isinstance(fields, dict):
        raise ValueError("the answer is no JSON object")
    return fields


def parse_registered(body: bytes) -> RegisteredClient:
    """Return a server's answer to a registration.

    Raises:
        ValueError: a field is missing or malformed.
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
        shares=fields.get("shares") is True,
    )


def parse_facts(body: bytes) -> ClientFacts:
    """Return a server's facts about a client.

    Raises:
        ValueError: a field is missing or malformed.
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
        ValueError: a field is missing or malformed.
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
    """Return the id of a snapshot, or of a run, after checking its form.

    Raises:
        ValueError: the value is no id.
    """
    if not isinstance(value, str) or not 4 <= len(value) <= 128 or not _HEX.issuperset(value):
        raise ValueError("the answer has no id")
    return value


def text_of(fields: Mapping[str, Any], key: str, max_length: int = MAX_TEXT) -> str:
    """Return the text of a field.

    Raises:
        ValueError: the field is missing, no text, or too long.
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
