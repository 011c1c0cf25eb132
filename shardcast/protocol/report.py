"""Reports: a node tells its upstreams of its versions, and of the nodes below.

::

    {"node": "81ab…", "role": "middle", "name": "rack7", "origin": "ce0d…", "has": ["v1", "v2"],
     "coming": {"v3": 1048576}, "below": [{"node": "c2d0…", "via": "81ab…", "hops": 1, "age": 2.5, …}]}

Reports are shown in ``/status``, delay the end of a publisher, and count copies for a caller's request. They
are unsigned, so no byte is accepted, listed or retired because of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from shardcast.json_text import parse_json
from shardcast.plain_text import short_name
from shardcast.protocol.wire import is_id, version_number

MAX_REPORT = 1 << 20
"""Bytes of a report."""
MAX_NODES = 5000
"""Nodes in a report."""
MAX_HOPS = 16
"""Maximum hops to a node below; also keeps reports from going round in circles."""
SLICE_NODES = 100
"""Nodes read or written at a time; between two slices the event loop serves other requests."""
_MAX_BRACKETS = 10 * MAX_NODES
"""Lists and objects in a report."""
_MAX_VERSIONS = 100
"""Versions of a node in a report."""
MAX_NAME = 100
"""Characters of a node's name."""
_ROLES = ("middle", "client")


class ReportError(ValueError):
    """Bytes that are no report, or a report beyond its bounds."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node in a report.

    Attributes:
        node: id.
        role: ``middle`` or ``client``.
        name: name for people, a host for instance.
        has: complete versions, the newest last.
        coming: bytes of incomplete versions, by version.
        hops: hops below the reader of the report; 0 in a node's own report.
        via: the node above; None for a node's own report.
        age: seconds since its report.
        origin: the origin id of the versions in ``has``; None for unknown, and in reports of 0.4.0.
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
        """Return the JSON object on the wire."""
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


def encode(me: Node, below: Sequence[Node]) -> bytes:
    """Return the report of a node, with as many nodes below as there is room for.

    Nodes too far away for their reader (``MAX_HOPS``) are left out.
    """
    return b"".join(encode_in_slices(me, below))


def encode_in_slices(me: Node, below: Iterable[Node]) -> Iterator[bytes]:
    """Yield the bytes of ``encode`` in slices of few milliseconds' work."""
    begin = json.dumps(me.as_dict())[:-1] + ', "below": ['
    room, separator, left = MAX_REPORT - len(begin) - len("]}"), "", MAX_NODES
    yield begin.encode()
    nodes = iter(below)
    while left and room > 0 and (batch := list(islice(nodes, min(SLICE_NODES, left)))):
        text = ""
        for node in batch:
            if node.hops < MAX_HOPS:
                item = separator + json.dumps(node.as_dict())
                room -= len(item)
                if room < 0:
                    break
                text, separator = text + item, ", "
        left -= len(batch)
        yield text.encode()
    yield b"]}"


def parse(raw: bytes) -> list[Node]:
    """Return the reporting node and then the nodes below it, each a hop farther than reported.

    Raises:
        ReportError: the bytes are no report.
    """
    return [node for batch in parse_in_slices(raw) for node in batch]


def parse_in_slices(raw: bytes) -> Iterator[list[Node]]:
    """Yield the nodes of ``parse`` in slices of few milliseconds' work.

    Raises:
        ReportError: the bytes are no report; a wrong node is found in its slice, after earlier ones.
    """
    if raw.count(b"[") + raw.count(b"{") > _MAX_BRACKETS:
        # json.loads would block the event loop on a megabyte of brackets.
        raise ReportError("too many lists and objects")
    try:
        report = parse_json(raw)
    except ValueError:
        raise ReportError("no JSON") from None
    me = replace(parse_node(report), hops=1, via=None, age=0.0)
    below = report.get("below", [])
    if not isinstance(below, list) or len(below) > MAX_NODES:
        raise ReportError("below is no list, or too long")
    yield [me]
    for start in range(0, len(below), SLICE_NODES):
        nodes = map(parse_node, below[start : start + SLICE_NODES])
        yield [replace(node, hops=node.hops + 1, via=node.via or me.node) for node in nodes]


def parse_node(values: object) -> Node:
    """Return a node of a report or a status, every bound checked.

    Raises:
        ReportError: the value is no node.
    """
    if not isinstance(values, dict):
        raise ReportError("a node that is no JSON object")
    role, name, via = values.get("role"), values.get("name", ""), values.get("via")
    hops, age, origin = values.get("hops", 0), values.get("age", 0), values.get("origin")
    if role not in _ROLES:
        raise ReportError(f"a node with another role than {', '.join(_ROLES)}")
    if not isinstance(name, str):
        raise ReportError("a name that is no text")
    if type(hops) is not int or not 0 <= hops <= MAX_HOPS:
        raise ReportError("a malformed number of hops")
    if type(age) not in (int, float) or not 0 <= age <= 86_400:
        raise ReportError("a malformed age")
    return Node(
        _id(values.get("node")),
        role,
        short_name(name, MAX_NAME),
        _versions(values.get("has", [])),
        _coming(values.get("coming", {})),
        hops,
        None if via is None else _id(via),
        float(age),
        None if origin is None else _id(origin),
    )


def _id(text: object) -> str:
    """Return the id of a node or an origin.

    Raises:
        ReportError: the value is no id.
    """
    if not is_id(text):
        raise ReportError("a node, or an origin, without an id")
    return text


def _versions(names: object) -> list[str]:
    """Return names of versions, checked.

    Raises:
        ReportError: the value is no list of versions, or is too long.
    """
    if not isinstance(names, list) or len(names) > _MAX_VERSIONS:
        raise ReportError("versions that are no list, or too many")
    if not all(isinstance(name, str) and version_number(name) for name in names):
        raise ReportError("a malformed version")
    return names


def _coming(sizes: object) -> dict[str, int]:
    """Return bytes by version, checked.

    Raises:
        ReportError: the value is no JSON object of versions and counts, or has too many.
    """
    if not isinstance(sizes, dict):
        raise ReportError("versions under way that are no JSON object")
    _versions(list(sizes))
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in sizes.values()):
        raise ReportError("a malformed count of bytes")
    return sizes


def newest_reportable(names: Sequence[str]) -> Sequence[str]:
    """Return as many of the versions, the last ones, as a report may carry."""
    return names[-_MAX_VERSIONS:]
