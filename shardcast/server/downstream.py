"""The nodes below this one and the versions they have, as they report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from shardcast.policy.owner_counts import OwnerCounts
from shardcast.protocol.report import MAX_NODES, Node
from shardcast.protocol.wire import version_number

_FORGOTTEN = 60.0
"""Seconds after its last report until a node is forgotten."""
_MAX_NAMES = 100_000
"""Maximum versions kept of all nodes together."""
_CLEAN_SECONDS = 1.0
"""Minimum seconds between two searches for silent nodes while reports arrive."""
_SLICE = 250
"""Nodes of a report recorded at a time."""
_FEW_NAMES = 4
"""Versions for which each node has room in any case: its newest, complete and arriving."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """The latest report about a node.

    Attributes:
        at: time of the node's own report.
        node: the node.
        address: the sending address of the report.
        reporter: the sending node of the report.
    """

    at: float
    node: Node
    address: str
    reporter: str


class Downstream:
    """The nodes below this one.

    Reports are not signed, and any client can invent nodes. Above ``MAX_NODES`` a node of the address with
    most nodes gives way, and there one of the reporter with most: an inventor of thousands crowds out its
    own.

    Attributes:
        reports: number of reports.
        changes: number of reports with a new node, or a node with a gained or lost version.
    """

    def __init__(self, node_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node_id = node_id
        self._clock = clock
        self._nodes: dict[str, _Entry] = {}
        self._addresses = OwnerCounts[str]()
        self._reporters: defaultdict[str, OwnerCounts[str]] = defaultdict(OwnerCounts)  # by address
        # Node ids by address and reporter, oldest first.
        self._reported_by: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        self._cleaned_at = clock()
        self._name_count = 0  # versions in all of them
        self.reports = self.changes = 0

    def record(self, nodes: Sequence[Node], address: str = "") -> None:
        """Record a report of ``nodes[0]``; where several reports name a node, the latest counts."""
        for _ in self.record_in_slices(nodes, address):
            pass

    def record_in_slices(self, nodes: Sequence[Node], address: str) -> Iterator[None]:
        """Record a report in slices of few milliseconds' work."""
        now = self._clock()
        if now - self._cleaned_at >= _CLEAN_SECONDS:  # not for each of thousands of reports
            self._forget(now)
        self.reports += 1
        changed = False
        for count, node in enumerate(nodes):
            if count % _SLICE == _SLICE - 1:
                yield
            reported_at = now - node.age
            known = self._nodes.get(node.node)
            if node.node == self._node_id or (known and known.at > reported_at):
                continue
            self._drop(node.node)
            if len(self._nodes) >= MAX_NODES:
                self._drop(self._crowded_out())
            kept = _shortened(node, _MAX_NAMES - self._name_count)
            self._add(_Entry(reported_at, kept, address, nodes[0].node))
            changed |= known is None or not _same_versions(known.node, kept)
        self.changes += changed

    def nodes(self) -> list[Node]:
        """Return the nodes with recent reports, nearest first."""
        return list(self.iter_nodes())

    def iter_nodes(self) -> Iterator[Node]:
        """Yield the nodes with recent reports, nearest first."""
        return (replace(node, age=age) for age, node in self.with_ages())

    def with_ages(self) -> list[tuple[float, Node]]:
        """Return the nodes with recent reports, nearest first, each after the seconds since its report."""
        now = self._clock()
        self._forget(now)
        entries = sorted(
            self._nodes.values(), key=lambda entry: (entry.node.hops, entry.node.name, entry.node.node)
        )
        return [(now - entry.at, entry.node) for entry in entries]

    def copies(self, version: str, origin: str) -> int:
        """Return the number of nodes with a version of an origin, by their reports of the last minute.

        A node without a named origin does not count.
        """
        self._forget(self._clock())
        nodes = (entry.node for entry in self._nodes.values())
        return sum(node.origin == origin and version in node.has for node in nodes)

    def _forget(self, now: float) -> None:
        """Drop the nodes without recent reports."""
        self._cleaned_at = now
        gone = [name for name, entry in self._nodes.items() if now - entry.at > _FORGOTTEN]
        for name in gone:
            self._drop(name)

    def _crowded_out(self) -> str:
        """Return the node to give way to another."""
        address = self._addresses.largest()
        return next(iter(self._reported_by[address, self._reporters[address].largest()]))

    def _add(self, entry: _Entry) -> None:
        """Record an entry of a node without one."""
        self._nodes[entry.node.node] = entry
        self._name_count += _name_count(entry.node)
        self._addresses.add(entry.address)
        self._reporters[entry.address].add(entry.reporter)
        self._reported_by[entry.address, entry.reporter][entry.node.node] = None

    def _drop(self, name: str) -> None:
        """Drop the entry of a node, if any."""
        entry = self._nodes.pop(name, None)
        if entry is None:
            return
        self._name_count -= _name_count(entry.node)
        self._addresses.remove(entry.address)
        self._reporters[entry.address].remove(entry.reporter)
        del self._reported_by[entry.address, entry.reporter][name]
        if not self._reported_by[entry.address, entry.reporter]:
            del self._reported_by[entry.address, entry.reporter]
        if not self._reporters[entry.address]:
            del self._reporters[entry.address]


def _same_versions(node: Node, other: Node) -> bool:
    """Return whether two reports of a node name the same versions."""
    return (node.origin, list(node.has)) == (other.origin, list(other.has))


def _name_count(node: Node) -> int:
    """Return how many versions a report names."""
    return len(node.has) + len(node.coming)


def _shortened(node: Node, room: int) -> Node:
    """Return a node with its newest versions where all of them exceed ``room``.

    Any client can invent nodes with very many versions.
    """
    if _name_count(node) <= room:
        return node
    newest = sorted(node.coming.items(), key=lambda item: version_number(item[0]) or 0)[-_FEW_NAMES:]
    return replace(node, has=node.has[-_FEW_NAMES:], coming=dict(newest))
