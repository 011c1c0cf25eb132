"""Who is below a node and has what, as they say themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from shardcast.report import MOST_NODES, Node

_FORGOTTEN = 60.0
"""Seconds after which a node that says nothing more is no longer told of."""


class Below:
    """The nodes below this one."""

    def __init__(self, node_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node_id = node_id
        self._clock = clock
        self._nodes: dict[str, tuple[float, Node]] = {}  # when each told, and what

    def heard(self, nodes: Sequence[Node]) -> None:
        """A report came. Of a node that is heard of over several ways, the latest counts."""
        now = self._clock()
        self._forget(now)
        for node in nodes:
            told_at = now - node.age
            known = self._nodes.get(node.node)
            if node.node == self._node_id or (known and known[0] > told_at):
                continue
            if known or len(self._nodes) < MOST_NODES:
                self._nodes[node.node] = told_at, node

    def now(self) -> list[Node]:
        """Those that told of themselves lately, nearest first."""
        now = self._clock()
        self._forget(now)
        nodes = (replace(node, age=now - told_at) for told_at, node in self._nodes.values())
        return sorted(nodes, key=lambda one: (one.hops, one.name, one.node))

    def _forget(self, now: float) -> None:
        gone = [name for name, (told_at, _) in self._nodes.items() if now - told_at > _FORGOTTEN]
        for name in gone:
            del self._nodes[name]
