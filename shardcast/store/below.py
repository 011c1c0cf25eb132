"""Who is below a node and has what, as they say themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from shardcast.report import MOST_NODES, Node
from shardcast.wire import version_number

_FORGOTTEN = 60.0
"""Seconds after which a node that says nothing more is no longer told of."""
_MOST_NAMES = 100_000
"""Versions that are told of, over all nodes."""
_FEW_NAMES = 4
"""Those that each node has room for in any case: the newest that it has, and that are coming."""


class Below:
    """The nodes below this one.

    Attributes:
        reports: counts the reports that came.
        changes: counts the reports in which a node was new, or had got or lost a version.
    """

    def __init__(self, node_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node_id = node_id
        self._clock = clock
        self._nodes: dict[str, tuple[float, Node]] = {}  # when each told, and what
        self._names = 0  # versions in all of them
        self.reports = self.changes = 0

    def heard(self, nodes: Sequence[Node]) -> None:
        """A report came. Of a node that is heard of over several ways, the latest counts."""
        now = self._clock()
        self._forget(now)
        self.reports += 1
        changed = False
        for node in nodes:
            told_at = now - node.age
            known = self._nodes.get(node.node)
            if node.node == self._node_id or (known and known[0] > told_at):
                continue
            if known or len(self._nodes) < MOST_NODES:
                self._drop(node.node)
                kept = _shortened(node, _MOST_NAMES - self._names)
                self._nodes[node.node] = told_at, kept
                self._names += _names(kept)
                changed |= known is None or not _has_the_same(known[1], kept)
        self.changes += changed

    def now(self) -> list[Node]:
        """Those that told of themselves lately, nearest first."""
        now = self._clock()
        self._forget(now)
        nodes = (replace(node, age=now - told_at) for told_at, node in self._nodes.values())
        return sorted(nodes, key=lambda one: (one.hops, one.name, one.node))

    def copies(self, version: str, origin: str) -> int:
        """Return how many nodes have a version of an origin, as their reports of the last minute say. A node
        that names no origin does not count."""
        self._forget(self._clock())
        return sum(node.origin == origin and version in node.has for _, node in self._nodes.values())

    def _forget(self, now: float) -> None:
        gone = [name for name, (told_at, _) in self._nodes.items() if now - told_at > _FORGOTTEN]
        for name in gone:
            self._drop(name)

    def _drop(self, name: str) -> None:
        if name in self._nodes:
            self._names -= _names(self._nodes.pop(name)[1])


def _has_the_same(node: Node, other: Node) -> bool:
    return (node.origin, list(node.has)) == (other.origin, list(other.has))


def _names(node: Node) -> int:
    return len(node.has) + len(node.coming)


def _shortened(node: Node, room: int) -> Node:
    """A node with as many versions as there is room for, the newest of them: anybody can invent nodes that
    have a great deal."""
    if _names(node) <= room:
        return node
    newest = sorted(node.coming.items(), key=lambda one: version_number(one[0]) or 0)[-_FEW_NAMES:]
    return replace(node, has=node.has[-_FEW_NAMES:], coming=dict(newest))
