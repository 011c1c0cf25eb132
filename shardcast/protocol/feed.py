"""The feed: what happens to a node's versions, line by line, as it goes over the wire.

A hello comes first, then the versions that are there (``now``) or the events since the one that was asked
for, then a line with nothing but a sequence number: everything before it counts from then on. Such a line
comes every few seconds too, which tells silence from death::

    {"feed": "5f0c…", "node": "81ab…", "origin": "e1d4…", "distance": 0, "now": true,
     "chain": [], "silent": false, "highest": 2}                                          (one line)
    {"seq": 3, "event": "complete", "version": "v1", "digest": "9f86…", "shards": 21, "manifest": "77aa…"}
    {"seq": 4, "event": "known", "version": "v2", "digest": "6030…", "shards": 21, "manifest": "09c1…"}
    {"seq": 4}
    {"seq": 5, "event": "retired", "version": "v1"}
    {"seq": 6, "event": "withdrawn", "version": "v2", "digest": "6030…", "reason": "loss was NaN"}

Unknown keys and events are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardcast.digest import is_digest
from shardcast.errors import UsageError
from shardcast.plain_text import one_line
from shardcast.protocol.distribution import Listing
from shardcast.protocol.lines import LineReader, LineTooLong
from shardcast.protocol.wire import MAX_SHARDS, MAX_VERSION, version_number

OPEN, COMPLETE, ABORTED, RETIRED = "open", "complete", "aborted", "retired"
KNOWN = "known"
"""A version that the node's authority lists and the node does not have yet."""
WITHDRAWN = "withdrawn"
"""A version that its publisher took back. Comes after ``retired``, which readers of 0.4.0 understand."""

MAX_CHAIN = 16
"""Authorities between a node and its origin, at most."""
MAX_REASON = 500
"""Characters of the reason of a withdrawal."""

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
        chain: node ids of the authorities above the node, nearest first, up to the origin; empty at an
            origin and below a server without an id; None where the node tells none (0.4.0).
        silent: whether the node has no news of its own authority.
        highest: the highest version number that the line ever had, as the authority tells; None where
            the node tells none (0.4.0).
    """

    feed: str
    node: str
    origin: str | None
    distance: int | None
    now: bool
    chain: tuple[str, ...] | None = None
    silent: bool = False
    highest: int | None = None

    def line(self) -> bytes:
        keys = ("feed", "node", "origin", "distance", "now", "chain", "silent", "highest")
        return _line({key: getattr(self, key) for key in keys})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands in its network; the attributes are those of ``Hello``."""

    origin: str | None = None
    distance: int | None = None
    chain: tuple[str, ...] = ()
    silent: bool = False
    highest: int | None = None

    def hello(self, feed: str, node: str, now: bool) -> Hello:
        """Return the hello of a node that stands there."""
        return Hello(feed, node, self.origin, self.distance, now, self.chain, self.silent, self.highest)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a version.

    Attributes:
        seq: counts the events of a feed.
        kind: ``OPEN``, ``COMPLETE``, ``KNOWN``, ``ABORTED``, ``RETIRED`` or ``WITHDRAWN``.
        version: its name.
        listing: its line in the distribution list; of a withdrawn version only the digest counts. None
            where the event has none.
        reason: why a version was withdrawn, in its publisher's words.
    """

    seq: int
    kind: str
    version: str
    listing: Listing | None = None
    reason: str = ""

    def line(self) -> bytes:
        said: dict[str, Any] = {"seq": self.seq, "event": self.kind, "version": self.version}
        if self.listing:
            said |= {"digest": self.listing.digest, "shards": self.listing.shards}
            if self.listing.manifest:
                said["manifest"] = self.listing.manifest
        if self.reason:
            said["reason"] = self.reason
        return _line(said)


@dataclass(frozen=True, slots=True)
class UpTo:
    """The line after a batch: everything up to ``seq`` was told, and counts from now on."""

    seq: int

    def line(self) -> bytes:
        return _line({"seq": self.seq})


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


class FeedReader:
    """Bytes, in chunks of any length ─▶ what a feed says."""

    def __init__(self) -> None:
        self._lines = LineReader()
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[Hello | Event | UpTo]:
        """
        Raises:
            FeedError: this is no feed.
        """
        try:
            for line in self._lines.feed(chunk):
                message = _parse(line)
                if not self._started and not isinstance(message, Hello):
                    raise FeedError("it doesn't begin with a hello")
                self._started = True
                if message:
                    yield message
        except LineTooLong as error:
            raise FeedError(str(error)) from None


def _parse(line: bytes) -> Hello | Event | UpTo | None:
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
        return UpTo(seq)
    version, kind = said.get("version"), said["event"]
    if kind not in (OPEN, COMPLETE, KNOWN, ABORTED, RETIRED, WITHDRAWN):
        return None
    if not isinstance(version, str) or version_number(version) is None:
        raise FeedError("an event without a version")
    listing = _listing(version, said) if kind in (COMPLETE, KNOWN, WITHDRAWN) else None
    return Event(seq, kind, version, listing, _reason(said) if kind == WITHDRAWN else "")


def _hello(said: dict[str, Any]) -> Hello:
    origin, distance, highest = said.get("origin"), said.get("distance"), said.get("highest")
    if distance is not None and (type(distance) is not int or not 0 <= distance <= 1000):
        raise FeedError("a hello with a distance that is no number of hops")
    if highest is not None and (type(highest) is not int or not 0 <= highest <= MAX_VERSION):
        raise FeedError("a hello with a highest version that is no number")
    return Hello(
        feed=_id(said.get("feed")),
        node=_id(said.get("node")),
        origin=None if origin is None else _id(origin),
        distance=distance,
        now=said.get("now") is True,
        chain=_chain(said.get("chain")),
        silent=said.get("silent") is True,
        highest=highest,
    )


def _chain(said: object) -> tuple[str, ...] | None:
    if said is None:
        return None
    if not isinstance(said, list) or len(said) > MAX_CHAIN:
        raise FeedError(f"a hello with a chain that is no list of at most {MAX_CHAIN} ids")
    return tuple(map(_id, said))


def _reason(said: dict[str, Any]) -> str:
    reason = said.get("reason", "")
    if not isinstance(reason, str):
        raise FeedError("a withdrawal with a reason that is no text")
    return printable(reason)


def check_origin_id(text: str) -> str:
    """Return an origin id that people gave.

    Raises:
        UsageError: it can be none.
    """
    try:
        return _id(text)
    except FeedError:
        raise UsageError(f"{text!r} is no origin id: 1 to 64 ASCII letters and digits") from None


def printable(reason: str) -> str:
    """Return a reason as a feed carries it: one line, at most ``MAX_REASON`` characters."""
    return one_line(reason, MAX_REASON).strip()


def check_reason(reason: str) -> str:
    """Return a reason that fits a feed as it is, without blanks around it.

    Raises:
        UsageError: the reason is longer, has several lines or characters that can't be printed.
    """
    reason = reason.strip()
    if printable(reason) != reason:
        raise UsageError(
            f"a reason is one line of at most {MAX_REASON} printable characters, not {reason[:80]!r}"
        )
    return reason


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
    manifest = said.get("manifest")
    if manifest is not None and (not isinstance(manifest, str) or not is_digest(manifest)):
        raise FeedError(f"{version} with a manifest's digest that is none")
    return Listing(version, digest, shards, manifest)
