"""The hand-outs of one version: its ledger, the asking nodes, and the pieces ready to be sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from shardcast.policy.swarm.ledger import MAX_SITES, Asked, Handout, HandoutKind, Ledger
from shardcast.policy.swarm.masks import ranges_of
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.next_range import NextRangeError, NextRequest
from shardcast.protocol.piece_numbers import PieceRun
from shardcast.server.piece_supply import PieceSupply

MAX_NODES = 10_000
"""Maximum nodes known to a ledger."""
MAX_MASK_BYTES = 128 << 20
"""Maximum bytes of the sets of pieces kept by a ledger for its nodes."""
_MASKS_PER_NODE = 4
"""Maximum sets of pieces kept of a node, here and in the ledger."""
_MASKS_PER_SITE = 8
"""Maximum sets of pieces kept of a site by a ledger; all have ``MAX_MASK_BYTES`` as well."""
STALE_SECONDS = 10.0
"""Seconds without a request until a node counts as gone. One that was told of the end of the hand-outs has a
minute: it asks its neighbours, and here again only when none of them can help."""
_SWEEP_SECONDS = 1.0
"""Seconds between two looks for gone nodes."""
REPLACED_SECONDS = 2.0
"""Seconds without a request until a node's place may go to another, where all places are taken."""
_AHEAD = 1 << 16
"""Pieces by which a node's manifest may be ahead of this server's while the version grows."""


class ReportIncomplete(Exception):
    """A node with a higher count of pieces than it has told: it must tell all of them."""


@dataclass(eq=False, slots=True)
class AskingNode:
    """An asking node.

    Attributes:
        asked_at: time of its last request, or of other news.
        site: site of the node; None for the server's own.
        has: the pieces told by the node.
        handed: the pieces handed out to the node.
        patience: seconds without a request until the node counts as gone.
    """

    asked_at: float
    site: str | None = None
    patience: float = STALE_SECONDS
    has: int = 0
    handed: int = 0


class GrantedRange:
    """Pieces on their way to a node.

    Attributes:
        run: the pieces.
        digest: SHA-256 of their shard, in hex.
        size: bytes of their shard.
    """

    __slots__ = ("_book", "_node", "_taken_back", "digest", "run", "size")

    def __init__(self, book: VersionBook, node: str, run: PieceRun) -> None:
        self._book = book
        self._node = node
        self._taken_back = False
        self.run = run
        self.digest = book.supply.digest(run.shard)
        self.size = book.supply.numbers.shard_size(run.shard)

    def take_back(self) -> None:
        """Record, once, pieces that did not arrive whole: they are given again, unless a node has them."""
        if not self._taken_back:
            self._taken_back = True
            self._book.take_back(self._node, self.run.mask)

    def cannot_be_read(self) -> None:
        """Record an unreadable shard, and take the pieces back."""
        self.take_back()
        self._book.ledger.withdraw(self._book.supply.withdraw(self.run.shard))


class VersionBook:
    """The hand-outs of one version: its ledger, its nodes, and the pieces ready to be sent."""

    def __init__(
        self, supply: PieceSupply, find_rules: Callable[[int], SwarmRules], random: Random, now: float
    ) -> None:
        """Begin with no node.

        Args:
            supply: the pieces ready to be sent.
            find_rules: returns the numbers for so many nodes.
            random: for the choice among equals.
            now: the time, in seconds.
        """
        self.supply = supply
        self._find_rules = find_rules
        self.ledger = Ledger(find_rules(0), random, growing=supply.growing)
        self.asked_at = now
        self._nodes: OrderedDict[str, AskingNode] = OrderedDict()  # who asked longest ago first
        self._swept_at = now

    def node(self, name: str, site: str | None, now: float) -> AskingNode | None:
        """Return the record of a node that asks now, a new one if need be; None without a place for it.

        Args:
            name: name of the node in its requests (``NextRequest.asker``).
            site: site of the node; None for the server's own.
            now: the time, in seconds.
        """
        self.asked_at = now
        if now - self._swept_at >= _SWEEP_SECONDS:
            self.forget_stale(now)
        node = self._nodes.get(name)
        if node is None:
            if len(self._nodes) >= self._max_nodes and not self._make_place(now):
                return None
            node = self._nodes[name] = AskingNode(now)
            self.ledger.adopt(self._find_rules(len(self._nodes)))
        node.site = site
        self.ledger.max_sites = self._max_sites
        node.asked_at, node.patience = now, STALE_SECONDS
        self._nodes.move_to_end(name)
        return node

    def _make_place(self, now: float) -> bool:
        """Forget the node with the oldest request, unless recent; return whether there is a place now."""
        name, node = next(iter(self._nodes.items()))
        if now - node.asked_at < REPLACED_SECONDS:
            return False
        self.forget(name)
        return True

    @property
    def _max_nodes(self) -> int:
        """Nodes whose sets of pieces fit into the memory for them."""
        mask_bytes = self.supply.numbers.count // 8 + 1
        return max(1, min(MAX_NODES, MAX_MASK_BYTES // (_MASKS_PER_NODE * mask_bytes)))

    @property
    def _max_sites(self) -> int:
        """Sites whose sets of pieces fit into the memory for them."""
        mask_bytes = self.supply.numbers.count // 8 + 1
        return max(1, min(MAX_SITES, MAX_MASK_BYTES // (_MASKS_PER_SITE * mask_bytes)))

    @property
    def node_count(self) -> int:
        """The number of asking nodes."""
        return len(self._nodes)

    def forget_stale(self, now: float) -> None:
        """Forget nodes without recent requests; ranges only there are handed out again."""
        self._swept_at = now
        gone = [name for name, node in self._nodes.items() if now - node.asked_at >= node.patience]
        for name in gone:
            self.forget(name)

    def keep(self, name: str, now: float) -> None:
        """Record that a node lives, although without requests."""
        if node := self._nodes.get(name):
            node.asked_at = now
            self._nodes.move_to_end(name)

    def forget(self, name: str) -> None:
        """Forget a departed node; ranges only there are handed out again."""
        if self._nodes.pop(name, None) is not None:
            self.ledger.forget(name)

    def note_report(self, request: NextRequest, node: AskingNode, now: float) -> None:
        """Record the pieces told by a node, and take back those told as lost.

        Raises:
            NextRangeError: the version does not have some of them.
            ReportIncomplete: the node counts more of them than it told.
        """
        if request.has >> self.supply.numbers.count + (_AHEAD if self.supply.growing else 0):
            raise NextRangeError("a piece that the version does not have")
        new = request.has & ~node.has
        node.has |= new
        self.ledger.report(request.asker, node.site, new, now)
        if request.lost:
            self.take_back(request.asker, request.lost)
        if node.has.bit_count() < request.count:
            raise ReportIncomplete

    def take_back(self, name: str, mask: int) -> None:
        """Record handed-out pieces that did not arrive at their node: they are handed out again."""
        node = self._nodes.get(name)
        if node is None:
            return  # `forget` has given them back
        for number in ranges_of(mask & node.handed):
            self.ledger.failed(name, node.site, number)
        node.handed &= ~mask

    def hand_out(
        self, request: NextRequest, node: AskingNode, now: float, *, may_send: bool
    ) -> PieceRun | Handout:
        """Choose the pieces for a node, and record them as handed out.

        Returns:
            As many consecutive pieces of a shard as the node may have; or the reason for none, or the pieces
            for it to bring across the border of its site.
        """
        across = (request.across or 0) & self.supply.numbers.everything
        asked = Asked(request.asker, node.site, 0, request.asked, across, not request.offered)
        handout = self.ledger.decide(asked, now, may_send=may_send)
        if handout.answer is not HandoutKind.BODY:
            return handout
        most = 1 if node.site is not None else min(request.max_pieces, self.supply.range_pieces)
        run = self.supply.numbers.run(handout.number, most)
        count = 1
        while count < run.count:
            further = self.ledger.decide(asked, now)
            if further.answer is not HandoutKind.BODY:
                break
            if further.number != run.first + count:
                self.ledger.failed(request.asker, node.site, further.number)
                break
            count += 1
        run = self.supply.numbers.run(run.first, count)
        node.handed |= run.mask
        return run
