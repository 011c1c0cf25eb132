"""The feed: what happens to a node's versions, line by line, as it goes over the wire.

A hello comes first, then the versions that are there (``now``) or the events since the one that was asked
for, then a line with nothing but a sequence number: so far it is known. Such a line comes every few seconds
too, so that silence is told from death::

    {"feed": "5f0c…", "node": "81ab…", "origin": "e1d4…", "distance": 0, "now": true}
    {"seq": 3, "event": "complete", "version": "v1", "digest": "9f86…", "shards": 21}
    {"seq": 4, "event": "complete", "version": "v2", "digest": "60303…", "shards": 21}
    {"seq": 4}
    {"seq": 5, "event": "retired", "version": "v1"}

Keys and events that are unknown are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardcast.digest import is_digest
from shardcast.distribution import Listing
from shardcast.wire import MAX_SHARDS, version_number

OPEN, COMPLETE, ABORTED, RETIRED = "open", "complete", "aborted", "retired"

MAX_LINE = 64 * 1024
"""Bytes of a line that a reader takes."""
_MAX_SEQ = 10**15


class FeedError(ValueError):
    """This is no feed."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks.

    Attributes:
        feed: names this run of the feed: sequence numbers mean something only within it.
        node: the node's id.
        origin: the origin id of the versions; None where it isn't known.
        distance: hops to the origin; None where it isn't known.
        now: whether all versions that are there follow, rather than what happened since.
    """

    feed: str
    node: str
    origin: str | None
    distance: int | None
    now: bool

    def line(self) -> bytes:
        keys = ("feed", "node", "origin", "distance", "now")
        return _line({key: getattr(self, key) for key in keys})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a version.

    Attributes:
        seq: counts the events of a feed.
        kind: ``OPEN``, ``COMPLETE``, ``ABORTED`` or ``RETIRED``.
        version: its name.
        listing: its line in the distribution list, once it is complete.
    """

    seq: int
    kind: str
    version: str
    listing: Listing | None = None

    def line(self) -> bytes:
        said: dict[str, Any] = {"seq": self.seq, "event": self.kind, "version": self.version}
        if self.listing:
            said |= {"digest": self.listing.digest, "shards": self.listing.shards}
        return _line(said)


@dataclass(frozen=True, slots=True)
class Known:
    """Everything up to ``seq`` has been told."""

    seq: int

    def line(self) -> bytes:
        return _line({"seq": self.seq})


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


class FeedReader:
    """Bytes, in chunks of any length ─▶ what a feed says."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[Hello | Event | Known]:
        """
        Raises:
            FeedError: this is no feed.
        """
        self._rest += chunk
        *lines, rest = bytes(self._rest).split(b"\n") if b"\n" in chunk else (bytes(self._rest),)
        self._rest = bytearray(rest)
        if any(len(line) > MAX_LINE for line in (*lines, rest)):
            raise FeedError(f"a line of more than {MAX_LINE} bytes")
        for line in lines:
            said = _parse(line)
            if not self._begun and not isinstance(said, Hello):
                raise FeedError("it doesn't begin with a hello")
            self._begun = True
            if said:
                yield said


def _parse(line: bytes) -> Hello | Event | Known | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        raise FeedError("a line that is no JSON") from None
    if not isinstance(said, dict):
        raise FeedError("a line that is no JSON object")
    if "feed" in said:
        return _hello(said)
    seq = said.get("seq")
    if type(seq) is not int or not 0 <= seq <= _MAX_SEQ:
        raise FeedError("a line without a sequence number")
    if "event" not in said:
        return Known(seq)
    version, kind = said.get("version"), said["event"]
    if kind not in (OPEN, COMPLETE, ABORTED, RETIRED):
        return None
    if not isinstance(version, str) or version_number(version) is None:
        raise FeedError("an event without a version")
    return Event(seq, kind, version, _listing(version, said) if kind == COMPLETE else None)


def _hello(said: dict[str, Any]) -> Hello:
    origin, distance = said.get("origin"), said.get("distance")
    if distance is not None and (type(distance) is not int or not 0 <= distance <= 1000):
        raise FeedError("a distance that is none")
    origin = None if origin is None else _id(origin)
    return Hello(_id(said.get("feed")), _id(said.get("node")), origin, distance, said.get("now") is True)


def _id(text: object) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= 64 or not (text.isascii() and text.isalnum()):
        raise FeedError("a hello without ids")
    return text


def _listing(version: str, said: dict[str, Any]) -> Listing:
    digest, shards = said.get("digest"), said.get("shards")
    if not isinstance(digest, str) or not is_digest(digest):
        raise FeedError(f"{version} without a digest")
    if shards is not None and (type(shards) is not int or not 0 <= shards <= MAX_SHARDS):
        raise FeedError(f"{version} with {shards!r} shards")
    return Listing(version, digest, shards)
