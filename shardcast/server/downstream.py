"""Who is below a node and has what, as they say themselves."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from shardcast.protocol.report import MOST_NODES, Node
from shardcast.protocol.wire import version_number
from shardcast.store.shares import Shares

_FORGOTTEN = 60.0
"""Seconds after which a node that says nothing more is no longer told of."""
_MOST_NAMES = 100_000
"""Versions that are told of, over all nodes."""
_LOOK = 1.0
"""Seconds between two looks, while reports come, for nodes that say nothing more."""
_SLICE = 250
"""Nodes of a report that are taken at once."""
_FEW_NAMES = 4
"""Those that each node has room for in any case: the newest that it has, and that are coming."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What was told of a node.

    Attributes:
        at: when the node itself told it.
        node: the node.
        address: from where the report came.
        reporter: the node that reported.
    """

    at: float
    node: Node
    address: str
    reporter: str


class Downstream:
    """The nodes below this one.

    Reports are not signed, and anybody can invent nodes. When there are too many, those go first that the
    address with most nodes told of, and of these the ones of the reporter with most: who invents thousands
    crowds out its own.

    Attributes:
        reports: counts the reports that came.
        changes: counts the reports in which a node was new, or had got or lost a version.
    """

    def __init__(self, node_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node_id = node_id
        self._clock = clock
        self._nodes: dict[str, _Told] = {}
        self._addresses = Shares[str]()
        self._reporters: defaultdict[str, Shares[str]] = defaultdict(Shares)  # by address
        self._of: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)  # the oldest first
        self._looked_at = clock()
        self._names = 0  # versions in all of them
        self.reports = self.changes = 0

    def heard(self, nodes: Sequence[Node], address: str = "") -> None:
        """A report came, of ``nodes[0]``. Of a node that is heard of over several ways, the latest counts."""
        for _ in self.hear(nodes, address):
            pass

    def hear(self, nodes: Sequence[Node], address: str) -> Iterator[None]:
        """Take a report in slices of few milliseconds' work."""
        now = self._clock()
        if now - self._looked_at >= _LOOK:  # not for each of thousands of reports
            self._forget(now)
        self.reports += 1
        changed = False
        for count, node in enumerate(nodes):
            if count % _SLICE == _SLICE - 1:
                yield
            told_at = now - node.age
            known = self._nodes.get(node.node)
            if node.node == self._node_id or (known and known.at > told_at):
                continue
            self._drop(node.node)
            if len(self._nodes) >= MOST_NODES:
                self._drop(self._crowded_out())
            kept = _shortened(node, _MOST_NAMES - self._names)
            self._add(_Told(told_at, kept, address, nodes[0].node))
            changed |= known is None or not _has_the_same(known.node, kept)
        self.changes += changed

    def now(self) -> list[Node]:
        """Those that told of themselves lately, nearest first."""
        return list(self.one_by_one())

    def one_by_one(self) -> Iterator[Node]:
        """Yield the same."""
        return (replace(node, age=age) for age, node in self.with_ages())

    def with_ages(self) -> list[tuple[float, Node]]:
        """Return the same, each after the seconds since it told."""
        now = self._clock()
        self._forget(now)
        told = sorted(self._nodes.values(), key=lambda one: (one.node.hops, one.node.name, one.node.node))
        return [(now - one.at, one.node) for one in told]

    def copies(self, version: str, origin: str) -> int:
        """Return how many nodes have a version of an origin, as their reports of the last minute say. A node
        that names no origin does not count."""
        self._forget(self._clock())
        nodes = (one.node for one in self._nodes.values())
        return sum(node.origin == origin and version in node.has for node in nodes)

    def _forget(self, now: float) -> None:
        self._looked_at = now
        gone = [name for name, told in self._nodes.items() if now - told.at > _FORGOTTEN]
        for name in gone:
            self._drop(name)

    def _crowded_out(self) -> str:
        """Return the node that gives its place to another."""
        address = self._addresses.largest()
        return next(iter(self._of[address, self._reporters[address].largest()]))

    def _add(self, told: _Told) -> None:
        self._nodes[told.node.node] = told
        self._names += _names(told.node)
        self._addresses.add(told.address)
        self._reporters[told.address].add(told.reporter)
        self._of[told.address, told.reporter][told.node.node] = None

    def _drop(self, name: str) -> None:
        told = self._nodes.pop(name, None)
        if told is None:
            return
        self._names -= _names(told.node)
        self._addresses.remove(told.address)
        self._reporters[told.address].remove(told.reporter)
        del self._of[told.address, told.reporter][name]
        if not self._of[told.address, told.reporter]:
            del self._of[told.address, told.reporter]
        if not self._reporters[told.address]:
            del self._reporters[told.address]


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
