"""The feed: the events of a node's versions on the wire, a line of JSON each.

A hello comes first, then the present versions (``now``) or the events since the one named by the reader, then
a line with nothing but a sequence number: everything before this line counts from then on. The node repeats
such a line every few seconds, to tell silence from death::

    {"feed": "5f0c…", "node": "81ab…", "origin": "e1d4…", "distance": 0, "now": true,
     "chain": [], "silent": false, "highest": 2}                                          (one line)
    {"seq": 3, "event": "complete", "version": "v1", "digest": "9f86…", "shards": 21, "manifest": "77aa…"}
    {"seq": 4, "event": "known", "version": "v2", "digest": "6030…", "shards": 21, "manifest": "09c1…"}
    {"seq": 4}
    {"seq": 5, "event": "retired", "version": "v1"}
    {"seq": 6, "event": "withdrawn", "version": "v2", "digest": "6030…", "reason": "loss was NaN"}

Readers ignore unknown keys and events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardcast.digest import is_digest
from shardcast.errors import UsageError
from shardcast.json_text import parse_json
from shardcast.plain_text import one_line
from shardcast.protocol.distribution import Listing
from shardcast.protocol.lines import LineReader, LineTooLong
from shardcast.protocol.wire import MAX_SHARDS, MAX_VERSION, is_id, version_number

OPEN, COMPLETE, ABORTED, RETIRED = "open", "complete", "aborted", "retired"
KNOWN = "known"
"""Event: the node's authority lists a version not yet on this node."""
WITHDRAWN = "withdrawn"
"""Event: the publisher withdrew a version. Follows ``retired``, which readers of 0.4.0 understand."""

MAX_CHAIN = 16
"""Maximum authorities between a node and its origin."""
MAX_REASON = 500
"""Characters of the reason of a withdrawal."""

_MAX_SEQ = 10**15


class FeedError(ValueError):
    """Bytes that are no feed, or a feed beyond its bounds."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first line of a feed: the sending node.

    Attributes:
        feed: name of this run of the feed: sequence numbers are valid only within one run.
        node: the node's id.
        origin: the origin id of the versions; None for unknown.
        distance: hops to the origin; None for unknown.
        now: whether all present versions follow, rather than the events since the one named by the reader.
        chain: node ids of the authorities above the node, nearest first, up to the origin; empty at an origin
            and below a server without an id; None where the node tells none (0.4.0).
        silent: whether the node has no news of its own authority.
        highest: the highest version number ever on the line, as told by the authority; None where the node
            tells none (0.4.0).
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
        """Return the line on the wire."""
        keys = ("feed", "node", "origin", "distance", "now", "chain", "silent", "highest")
        return _line({key: getattr(self, key) for key in keys})


@dataclass(frozen=True, slots=True)
class Position:
    """Position of a node in its network; the attributes are those of ``Hello``."""

    origin: str | None = None
    distance: int | None = None
    chain: tuple[str, ...] = ()
    silent: bool = False
    highest: int | None = None

    def hello(self, feed: str, node: str, now: bool) -> Hello:
        """Return the hello of a node at this position."""
        return Hello(feed, node, self.origin, self.distance, now, self.chain, self.silent, self.highest)


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a version.

    Attributes:
        seq: sequence number of the event in its feed.
        kind: ``OPEN``, ``COMPLETE``, ``KNOWN``, ``ABORTED``, ``RETIRED`` or ``WITHDRAWN``.
        version: name of the version.
        listing: the version's line in the distribution list; of a withdrawn version only the digest counts.
            None for an event without one.
        reason: the reason of a withdrawal, in the publisher's words.
    """

    seq: int
    kind: str
    version: str
    listing: Listing | None = None
    reason: str = ""

    def line(self) -> bytes:
        """Return the line on the wire."""
        values: dict[str, Any] = {"seq": self.seq, "event": self.kind, "version": self.version}
        if self.listing:
            values |= {"digest": self.listing.digest, "shards": self.listing.shards}
            if self.listing.manifest:
                values["manifest"] = self.listing.manifest
        if self.reason:
            values["reason"] = self.reason
        return _line(values)


@dataclass(frozen=True, slots=True)
class UpTo:
    """The line after a batch: all events up to ``seq`` were sent, and count from now on."""

    seq: int

    def line(self) -> bytes:
        """Return the line on the wire."""
        return _line({"seq": self.seq})


def _line(values: dict[str, Any]) -> bytes:
    """Return an object as a line of compact JSON."""
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


class FeedReader:
    """A parser of a feed in chunks of any length."""

    def __init__(self) -> None:
        self._lines = LineReader()
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[Hello | Event | UpTo]:
        """Yield the messages completed by ``chunk``.

        Raises:
            FeedError: the bytes are no feed.
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
    """Return the message of a line; None for an unknown event.

    Raises:
        FeedError: the line is none of a feed, or breaks a bound.
    """
    try:
        values = parse_json(line)
    except ValueError:
        raise FeedError("a line that is no JSON") from None
    if not isinstance(values, dict):
        raise FeedError("a line that is no JSON object")
    if "feed" in values:
        return _hello(values)
    seq = values.get("seq")
    if type(seq) is not int or not 0 <= seq <= _MAX_SEQ:
        raise FeedError("a line without a sequence number")
    if "event" not in values:
        return UpTo(seq)
    version, kind = values.get("version"), values["event"]
    if kind not in (OPEN, COMPLETE, KNOWN, ABORTED, RETIRED, WITHDRAWN):
        return None
    if not isinstance(version, str) or version_number(version) is None:
        raise FeedError("an event without a version")
    listing = _listing(version, values) if kind in (COMPLETE, KNOWN, WITHDRAWN) else None
    return Event(seq, kind, version, listing, _reason(values) if kind == WITHDRAWN else "")


def _hello(values: dict[str, Any]) -> Hello:
    """Return the hello in a line, every bound checked.

    Raises:
        FeedError: an id is missing, or a bound is broken.
    """
    origin, distance, highest = values.get("origin"), values.get("distance"), values.get("highest")
    if distance is not None and (type(distance) is not int or not 0 <= distance <= 1000):
        raise FeedError("a hello with a distance that is no number of hops")
    if highest is not None and (type(highest) is not int or not 0 <= highest <= MAX_VERSION):
        raise FeedError("a hello with a highest version that is no number")
    return Hello(
        feed=_id(values.get("feed")),
        node=_id(values.get("node")),
        origin=None if origin is None else _id(origin),
        distance=distance,
        now=values.get("now") is True,
        chain=_chain(values.get("chain")),
        silent=values.get("silent") is True,
        highest=highest,
    )


def _chain(ids: object) -> tuple[str, ...] | None:
    """Return the chain of a hello; None where the node tells none.

    Raises:
        FeedError: the value is no list of ids, or is too long.
    """
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) > MAX_CHAIN:
        raise FeedError(f"a hello with a chain that is no list of at most {MAX_CHAIN} ids")
    return tuple(map(_id, ids))


def _reason(values: dict[str, Any]) -> str:
    """Return a withdrawal's reason as printable text.

    Raises:
        FeedError: the reason is no text.
    """
    reason = values.get("reason", "")
    if not isinstance(reason, str):
        raise FeedError("a withdrawal with a reason that is no text")
    return printable_reason(reason)


def check_origin_id(text: str) -> str:
    """Return an origin id given by a person.

    Raises:
        UsageError: the text is no possible origin id.
    """
    try:
        return _id(text)
    except FeedError:
        raise UsageError(f"{text!r} is no origin id: 1 to 64 ASCII letters and digits") from None


def printable_reason(reason: str) -> str:
    """Return a reason in its form on a feed: one printable line, cut to ``MAX_REASON`` characters."""
    return one_line(reason, MAX_REASON).strip()


def check_reason(reason: str) -> str:
    """Return a reason without surrounding blanks, to be sent unchanged.

    Raises:
        UsageError: the reason is too long, has several lines, or characters without a printed form.
    """
    reason = reason.strip()
    if printable_reason(reason) != reason:
        raise UsageError(
            f"a reason is one line of at most {MAX_REASON} printable characters, not {reason[:80]!r}"
        )
    return reason


def _id(text: object) -> str:
    """Return the id of a node, a feed or an origin.

    Raises:
        FeedError: the value is no id.
    """
    if not is_id(text):
        raise FeedError("a hello without ids")
    return text


def _listing(version: str, values: dict[str, Any]) -> Listing:
    """Return the listing of an event, every bound checked.

    Raises:
        FeedError: there is no digest, or a bound is broken.
    """
    digest, shards = values.get("digest"), values.get("shards")
    if not isinstance(digest, str) or not is_digest(digest):
        raise FeedError(f"{version} without a digest")
    if shards is not None and (type(shards) is not int or not 0 <= shards <= MAX_SHARDS):
        raise FeedError(f"{version} with {shards!r} shards")
    manifest = values.get("manifest")
    if manifest is not None and (not isinstance(manifest, str) or not is_digest(manifest)):
        raise FeedError(f"{version} with a malformed digest of its manifest")
    return Listing(version, digest, shards, manifest)
