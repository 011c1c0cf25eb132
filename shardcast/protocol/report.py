"""What a node tells its upstreams: what it has, and who is below it; as it goes over the wire.

::

    {"node": "81ab…", "role": "middle", "name": "rack7", "origin": "ce0d…", "has": ["v1", "v2"],
     "coming": {"v3": 1048576}, "below": [{"node": "c2d0…", "via": "81ab…", "hops": 1, "age": 2.5, …}]}

Reports are shown in ``/status``, delay the end of a publisher, and count copies for a caller that asked for
them. They are unsigned, so no byte is accepted, listed or retired because of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from shardcast.plain_text import short_name
from shardcast.protocol.wire import version_number

MAX_REPORT = 1 << 20
"""Bytes of a report."""
MOST_NODES = 5000
"""Nodes that one report tells of."""
FARTHEST = 16
"""Hops that a node is below at the most; also what keeps reports from going round in circles."""
SLICE = 100
"""Nodes that are read or written at once; between two slices others have their turn."""
_MOST_BRACKETS = 10 * MOST_NODES
_MOST_VERSIONS = 100
_LONGEST_NAME = 100
_ROLES = ("middle", "client")


class ReportError(ValueError):
    """This is no report."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node, as it was told of.

    Attributes:
        node: its id.
        role: ``middle`` or ``client``.
        name: what its people call it, its host for instance.
        has: the versions that it has whole, the newest last.
        coming: bytes that it has of those under way.
        hops: how far below it is: 0 for who tells of itself.
        via: the node above it; None where it told of itself.
        age: seconds since it told.
        origin: the origin id of the versions in ``has``; None while unknown, and in reports of 0.4.0.
    """

    node: str
    role: str
    name: str = ""
    has: Sequence[str] = ()
    coming: Mapping[str, int] = field(default_factory=dict)
    hops: int = 0
    via: str | None = None
    age: float = 0.0
    origin: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "role": self.role,
            "name": self.name,
            "origin": self.origin,
            "has": list(self.has),
            "coming": dict(self.coming),
            "hops": self.hops,
            "via": self.via,
            "age": round(self.age, 1),
        }


def write(me: Node, below: Sequence[Node]) -> bytes:
    """The report of a node; of those below it as many as there is room for."""
    return b"".join(written(me, below))


def written(me: Node, below: Iterable[Node]) -> Iterator[bytes]:
    """Yield the report of a node in slices of few milliseconds' work."""
    begin = json.dumps(me.as_dict())[:-1] + ', "below": ['
    room, between, left = MAX_REPORT - len(begin) - len("]}"), "", MOST_NODES
    yield begin.encode()
    nodes = iter(below)
    while left and room > 0 and (some := list(islice(nodes, min(SLICE, left)))):
        text = ""
        for one in some:
            if one.hops < FARTHEST:
                there = between + json.dumps(one.as_dict())
                room -= len(there)
                if room < 0:
                    break
                text, between = text + there, ", "
        left -= len(some)
        yield text.encode()
    yield b"]}"


def parse(raw: bytes) -> list[Node]:
    """Who reports, and then who is below it; each one hop farther than was said.

    Raises:
        ReportError: it is none.
    """
    return [node for some in parsed(raw) for node in some]


def parsed(raw: bytes) -> Iterator[list[Node]]:
    """Yield the nodes of a report in slices of few milliseconds' work.

    Raises:
        ReportError: it is none.
    """
    if raw.count(b"[") + raw.count(b"{") > _MOST_BRACKETS:
        raise ReportError("too many lists and objects")  # a megabyte of them takes long to read
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        raise ReportError("no JSON") from None
    me = replace(_node(said), hops=1, via=None, age=0.0)
    below = said.get("below", [])
    if not isinstance(below, list) or len(below) > MOST_NODES:
        raise ReportError("below is no list, or too long")
    yield [me]
    for start in range(0, len(below), SLICE):
        others = (_node(one) for one in below[start : start + SLICE])
        yield [replace(one, hops=one.hops + 1, via=one.via or me.node) for one in others]


def _node(said: object) -> Node:
    if not isinstance(said, dict):
        raise ReportError("a node that is no JSON object")
    role, name, via = said.get("role"), said.get("name", ""), said.get("via")
    hops, age, origin = said.get("hops", 0), said.get("age", 0), said.get("origin")
    if role not in _ROLES:
        raise ReportError(f"a node that is none of {', '.join(_ROLES)}")
    if not isinstance(name, str):
        raise ReportError("a name that is no text")
    if type(hops) is not int or not 0 <= hops <= FARTHEST:
        raise ReportError("hops that are none")
    if type(age) not in (int, float) or not 0 <= age <= 86_400:
        raise ReportError("an age that is none")
    return Node(
        _id(said.get("node")),
        role,
        short_name(name, _LONGEST_NAME),
        _versions(said.get("has", [])),
        _coming(said.get("coming", {})),
        hops,
        None if via is None else _id(via),
        float(age),
        None if origin is None else _id(origin),
    )


def _id(text: object) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= 64 or not (text.isascii() and text.isalnum()):
        raise ReportError("a node, or an origin, without an id")
    return text


def _versions(names: object) -> list[str]:
    if not isinstance(names, list) or len(names) > _MOST_VERSIONS:
        raise ReportError("versions that are no list, or too many")
    if not all(isinstance(one, str) and version_number(one) for one in names):
        raise ReportError("a version that is none")
    return names


def _coming(said: object) -> dict[str, int]:
    if not isinstance(said, dict):
        raise ReportError("versions under way that are no JSON object")
    _versions(list(said))
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in said.values()):
        raise ReportError("a count of bytes that is none")
    return said


def newest(names: Sequence[str]) -> Sequence[str]:
    """As many versions as a report may carry."""
    return names[-_MOST_VERSIONS:]
