"""The JSON of ``/status`` as other programs read it: the part that people are shown, every bound checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardcast.json_text import parse_json
from shardcast.plain_text import short_name
from shardcast.protocol.report import MAX_NAME, MAX_NODES, Node, ReportError, parse_node
from shardcast.protocol.wire import is_id, version_number

MAX_STATUS = 16 << 20
"""Bytes of a status; one of 5000 nodes below has some 5 MB."""
_MAX_VERSIONS = 1_000_000
_MAX_BYTES = 1 << 62


class StatusError(ValueError):
    """The bytes are no status of a node, or one that breaks a bound."""


@dataclass(frozen=True, slots=True)
class StatusVersion:
    """A version at a node.

    Attributes:
        version: its name.
        is_complete: whether the node lists it; else it is being made, or on its way.
        digest: the listed digest; None while it is not complete.
        name: of the payload; None while unknown.
        size: bytes of the payload; None while unknown.
        bytes_here: verified bytes at the node.
        sending: bytes a second that the node sends of it now.
    """

    version: str
    is_complete: bool
    digest: str | None
    name: str | None
    size: int | None
    bytes_here: int
    sending: int


@dataclass(frozen=True, slots=True)
class StatusTransfer:
    """A version on its way to a node: ``done`` of ``size`` bytes (None: unknown) at ``rate`` a second."""

    version: str
    done: int
    size: int | None
    rate: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The state of one node.

    Attributes:
        role: ``origin``, ``middle``, ``client``.
        node: its id.
        origin: the origin id of its line of versions; None while it knows none.
        versions: oldest first.
        transfers: what it fetches now.
        below: the nodes that report to it, with the seconds since their last report as ``age``.
        troubles: in words: its disk, versions without room, upstreams that fail.
        raw: the whole object, as the node sent it.
    """

    role: str
    node: str
    origin: str | None
    versions: tuple[StatusVersion, ...]
    transfers: tuple[StatusTransfer, ...]
    below: tuple[Node, ...]
    troubles: tuple[str, ...]
    raw: dict[str, Any]


def parse_status(raw: bytes) -> NodeStatus:
    """Return the state that a node told.

    Raises:
        StatusError: the bytes are no status.
    """
    try:
        told = parse_json(raw)
    except ValueError as error:
        raise StatusError(f"no JSON: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("role"), str):
        raise StatusError("no status of a shardcast node")
    node, origin = told.get("node"), told.get("origin")
    if not is_id(node) or not (origin is None or is_id(origin)):
        raise StatusError("a node, or an origin, without an id")
    try:
        below = tuple(map(parse_node, _rows(told, "below", MAX_NODES)))
    except ReportError as error:
        raise StatusError(f"below: {error}") from None
    return NodeStatus(
        short_name(told["role"], MAX_NAME),
        node,
        origin,
        tuple(map(_version, _rows(told, "versions", _MAX_VERSIONS))),
        tuple(map(_transfer, _rows(told, "transfers", _MAX_VERSIONS))),
        below,
        tuple(_troubles(told)),
        told,
    )


def _rows(told: dict[str, Any], key: str, max_rows: int) -> list[Any]:
    """Return a list of the status; empty where the node has none of the kind.

    Raises:
        StatusError: the value is no list, or is too long.
    """
    rows = told.get(key, [])
    if not isinstance(rows, list) or len(rows) > max_rows:
        raise StatusError(f"{key} that are no list, or too many")
    return rows


def _version(row: object) -> StatusVersion:
    """Return a version, checked.

    Raises:
        StatusError: the row is no version.
    """
    values = _object(row)
    digest, name = values.get("digest"), values.get("name")
    return StatusVersion(
        _version_name(values),
        values.get("state") == "complete",
        short_name(digest, MAX_NAME) if isinstance(digest, str) else None,
        name if isinstance(name, str) else None,
        _count(values, "size"),
        _count(values, "bytes_here") or 0,
        _count(values, "rate") or 0,
    )


def _transfer(row: object) -> StatusTransfer:
    """Return a transfer, checked.

    Raises:
        StatusError: the row is no transfer.
    """
    values = _object(row)
    done, rate = _count(values, "done"), _count(values, "rate")
    return StatusTransfer(_version_name(values), done or 0, _count(values, "size"), rate or 0)


def _troubles(told: dict[str, Any]) -> Iterator[str]:
    """Yield what hinders the node, in words.

    Raises:
        StatusError: a row is no JSON object, or names no version.
    """
    if isinstance(failure := told.get("disk_failure"), str):
        yield failure
    for row in map(_object, _rows(told, "lacking", _MAX_VERSIONS)):
        if isinstance(why := row.get("why"), str):
            yield f"{_version_name(row)}: {why}"
    for row in map(_object, _rows(told, "upstreams", _MAX_VERSIONS)):
        if isinstance(failure := row.get("failure"), str):
            yield failure


def _object(row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise StatusError("a row that is no JSON object")
    return row


def _version_name(values: dict[str, Any]) -> str:
    name = values.get("version")
    if not isinstance(name, str) or not version_number(name):
        raise StatusError("a malformed version")
    return name


def _count(values: dict[str, Any], key: str) -> int | None:
    """Return a number of bytes; None where the node knows none.

    Raises:
        StatusError: the value is no integer, or out of bounds.
    """
    count = values.get(key)
    if count is not None and (type(count) is not int or not 0 <= count < _MAX_BYTES):
        raise StatusError(f"{key}: a malformed count of bytes")
    return count
