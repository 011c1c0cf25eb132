"""What a server hands out piece by piece: a ledger for each version that nodes ask the next range of.

``policy/swarm`` decides which piece goes to whom. Here lie the facts that it decides by: which pieces can be
sent by now, which nodes ask, and the answers that are under way; and the bounds of all that memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.ledger import Asked, HandoutKind, Ledger
from shardcast.policy.swarm.masks import ranges_of
from shardcast.policy.swarm.rules import SwarmRules, range_size, rules_for
from shardcast.protocol.manifest import Header
from shardcast.protocol.next_range import NextRangeError, NextRequest, NotNow
from shardcast.protocol.piece_numbers import PieceRun
from shardcast.server.piece_supply import PieceSupply
from shardcast.store.interfaces import Shelf

MAX_VERSIONS = 8
"""Versions that are handed out at the same time."""
MAX_NODES = 10_000
"""Nodes that a ledger knows."""
MAX_MASK_BYTES = 128 << 20
"""Bytes of the sets of pieces that a ledger keeps of its nodes."""
_MASKS_PER_NODE = 4
"""Sets of pieces that are kept of a node, here and in the ledger, at the most."""
UNUSED_SECONDS = 60.0
"""Seconds without a request after which a ledger is dropped."""
STALE_SECONDS = 10.0
"""Seconds without a request after which a node counts as gone. One that was told that all was handed out has
``UNUSED_SECONDS``: it asks its neighbours, and here again only when none of them can help it."""
_SWEEP_SECONDS = 1.0
"""Seconds between two looks for nodes that have gone."""
REPLACED_SECONDS = 2.0
"""Seconds without a request after which a node's place may go to another, where all places are taken."""
_RATE_SECONDS = 0.25
"""Seconds over which the rate of what is handed out is measured."""
_AHEAD = 1 << 16
"""Pieces by which a node's manifest may be ahead of this server's while the version grows."""
_WAITING_RATE = 200.0
"""Nodes a second that ask again while they wait for a version to grow, with two requests each: a tenth of a
processor."""
_ALL_GIVEN_SECONDS = 1.0
"""Seconds until a node asks again where all was handed out."""


@dataclass(frozen=True, slots=True)
class NothingNow:
    """A request that gets no bytes now.

    Attributes:
        reason: why not.
        seconds: to wait until the next request.
    """

    reason: NotNow
    seconds: float


class ReportIncomplete(Exception):
    """A node counts more pieces than it has told: it must tell all of them."""


@dataclass(eq=False, slots=True)
class _Node:
    """A node that asks.

    Attributes:
        asked_at: when it asked last, or was heard of in another way.
        has: the pieces that it told.
        handed: the pieces that were handed out to it.
        patience: seconds without a request after which it counts as gone.
    """

    asked_at: float
    patience: float = STALE_SECONDS
    has: int = 0
    handed: int = 0


class GrantedRange:
    """Pieces that are being sent to a node.

    Attributes:
        run: the pieces.
        digest: SHA-256 of their shard, in hex.
        size: bytes of their shard.
    """

    __slots__ = ("_book", "_node", "_taken_back", "digest", "run", "size")

    def __init__(self, book: _VersionBook, node: str, run: PieceRun) -> None:
        self._book = book
        self._node = node
        self._taken_back = False
        self.run = run
        self.digest = book.supply.digest(run.shard)
        self.size = book.supply.numbers.shard_size(run.shard)

    def take_back(self) -> None:
        """Note, once, that the pieces did not come whole: they are given again, unless a node has them."""
        if not self._taken_back:
            self._taken_back = True
            self._book.take_back(self._node, self.run.mask)

    def cannot_be_read(self) -> None:
        """Note that the shard cannot be read now, and take the pieces back."""
        self.take_back()
        self._book.ledger.withdraw(self._book.supply.withdraw(self.run.shard))


class _VersionBook:
    """The hand-outs of one version: its ledger, its nodes, and the pieces that can be sent."""

    def __init__(
        self, supply: PieceSupply, find_rules: Callable[[int], SwarmRules], random: Random, now: float
    ) -> None:
        """Begin with no node.

        Args:
            supply: the pieces that can be sent.
            find_rules: returns the numbers to go by, for so many nodes.
            random: for the choice among equals.
            now: the time, in seconds.
        """
        self.supply = supply
        self._find_rules = find_rules
        self.ledger = Ledger(find_rules(0), random, growing=supply.growing)
        self.asked_at = now
        self._nodes: OrderedDict[str, _Node] = OrderedDict()  # who asked longest ago first
        self._swept_at = now

    def node(self, name: str, now: float) -> _Node | None:
        """Return a node that asks now; None where there is no place for another one."""
        self.asked_at = now
        if now - self._swept_at >= _SWEEP_SECONDS:
            self.forget_stale(now)
        node = self._nodes.get(name)
        if node is None:
            if len(self._nodes) >= self._max_nodes and not self._make_place(now):
                return None
            node = self._nodes[name] = _Node(now)
            self.ledger.adopt(self._find_rules(len(self._nodes)))
        node.asked_at, node.patience = now, STALE_SECONDS
        self._nodes.move_to_end(name)
        return node

    def _make_place(self, now: float) -> bool:
        """Forget the node that asked longest ago, unless that was just now; return whether it was not."""
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
    def node_count(self) -> int:
        """The number of nodes that ask."""
        return len(self._nodes)

    def forget_stale(self, now: float) -> None:
        """Forget nodes that have not asked for long; what only they had is handed out again."""
        self._swept_at = now
        gone = [name for name, node in self._nodes.items() if now - node.asked_at >= node.patience]
        for name in gone:
            self.forget(name)

    def keep(self, name: str, now: float) -> None:
        """Note that a node lives, though it asks for nothing."""
        if node := self._nodes.get(name):
            node.asked_at = now
            self._nodes.move_to_end(name)

    def forget(self, name: str) -> None:
        """Forget a node that left."""
        if self._nodes.pop(name, None) is not None:
            self.ledger.forget(name)

    def note_report(self, request: NextRequest, node: _Node, now: float) -> None:
        """Note the pieces that a node tells.

        Raises:
            NextRangeError: the version does not have some of them.
            ReportIncomplete: it counts more of them than it told.
        """
        if request.has >> self.supply.numbers.count + (_AHEAD if self.supply.growing else 0):
            raise NextRangeError("a piece that the version does not have")
        new = request.has & ~node.has
        node.has |= new
        self.ledger.report(request.node, None, new, now)
        if request.lost:
            self.take_back(request.node, request.lost)
        if node.has.bit_count() < request.count:
            raise ReportIncomplete

    def take_back(self, name: str, mask: int) -> None:
        """Note that pieces which were handed out to a node did not come."""
        node = self._nodes.get(name)
        if node is None:
            return  # `forget` has given them back
        for number in ranges_of(mask & node.handed):
            self.ledger.failed(name, None, number)
        node.handed &= ~mask

    def hand_out(
        self, request: NextRequest, node: _Node, now: float, *, may_send: bool
    ) -> PieceRun | HandoutKind:
        """Choose the pieces for a node: as many consecutive ones of a shard as it may have, or why none."""
        asked = Asked(request.node, under_way=request.asked, help=not request.offered)
        handout = self.ledger.decide(asked, now, may_send=may_send)
        if handout.answer is not HandoutKind.BODY:
            return handout.answer
        run = self.supply.numbers.run(handout.number, min(request.max_pieces, self.supply.range_pieces))
        count = 1
        while count < run.count:
            further = self.ledger.decide(asked, now)
            if further.answer is not HandoutKind.BODY:
                break
            if further.number != run.first + count:
                self.ledger.failed(request.node, None, further.number)
                break
            count += 1
        run = self.supply.numbers.run(run.first, count)
        node.handed |= run.mask
        return run


class HandOuts:
    """The ledgers of a server, one for each version that nodes ask for."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        rules: SwarmRules | None = None,
        own_pieces: Callable[[str], int | None] = lambda version: None,
    ) -> None:
        """Hand out the versions of a Shelf.

        Args:
            shelf: what the server has.
            clock: seconds, for the ages of nodes and hand-outs.
            random: for the choice among equals.
            rules: the numbers to go by; None for those that fit the number of nodes.
            own_pieces: returns the pieces of a version that this server hands out first, such as those
                that the origin handed out to it; None for all.
        """
        self._shelf = shelf
        self._clock = clock
        self._random = random or Random()
        self._fixed_rules = rules
        self._rules = rules or SwarmRules()
        self._own_pieces = own_pieces
        self._books: OrderedDict[str, _VersionBook] = OrderedDict()  # asked for longest ago first
        self._slots = AnswerSlots(self._rules)
        self._fastest = 0.0
        self._measured_since, self._measured_bytes = clock(), 0

    def __contains__(self, version: str) -> bool:
        """Return whether there is a ledger of a version."""
        return version in self._books

    def next_for(self, version: str, request: NextRequest) -> GrantedRange | NothingNow:
        """Decide what a node gets, and note it. An answer with bytes has a slot until ``end``.

        Raises:
            NextRangeError: the node tells pieces that the version does not have.
            ReportIncomplete: the node must tell all pieces that it has.
        """
        now = self._clock()
        book = self._book(version, now)
        if book is None:
            return NothingNow(NotNow.ABSENT, _ALL_GIVEN_SECONDS)
        node = book.node(request.node, now)
        if node is None:
            return NothingNow(NotNow.BUSY, self._rules.longest_server_pause)
        book.note_report(request, node, now)
        has_slot = self._slots.begin(request.node)
        chosen = book.hand_out(request, node, now, may_send=has_slot)
        if isinstance(chosen, PieceRun):
            return GrantedRange(book, request.node, chosen)
        if has_slot:
            self._slots.end(request.node)
        if chosen is HandoutKind.PAUSE:
            return NothingNow(NotNow.PAUSE if has_slot else NotNow.BUSY, self._rules.first_server_pause)
        if chosen is HandoutKind.WAIT:
            pause = max(self._rules.first_server_pause, book.node_count / _WAITING_RATE)
            return NothingNow(NotNow.WAIT, min(pause, self._rules.longest_server_pause))
        node.patience = UNUSED_SECONDS
        return NothingNow(NotNow.ALL_GIVEN, _ALL_GIVEN_SECONDS)

    def end(self, node: str, sent: int) -> None:
        """End an answer of which so many bytes were sent."""
        self._slots.end(node)
        self._measured_bytes += sent
        now = self._clock()
        seconds = now - self._measured_since
        if seconds >= _RATE_SECONDS:
            self._fastest = max(self._fastest, self._measured_bytes / seconds)
            self._measured_since, self._measured_bytes = now, 0

    def note_member(self, version: str, node: str, leaves: bool) -> None:
        """Note that a member of a version's swarm lives, or leaves: what only it had is handed out again."""
        book = self._books.get(version)
        if book is None:
            return
        if leaves:
            book.forget(node)
        else:
            book.keep(node, self._clock())

    def tidy(self) -> None:
        """Forget nodes and ledgers that nobody asked for, and ledgers of versions that have gone."""
        now = self._clock()
        for version, book in list(self._books.items()):
            book.forget_stale(now)
            if now - book.asked_at >= UNUSED_SECONDS or not book.supply.is_of(self._header(version)):
                del self._books[version]

    def _book(self, version: str, now: float) -> _VersionBook | None:
        """Return the book of a version with what can be sent by now; None where it cannot be handed out."""
        book = self._books.get(version)
        if book is None or book.supply.is_due(now):
            book = self._refresh(version, book, now)
        if book:
            self._books.move_to_end(version)
        return book

    def _refresh(self, version: str, book: _VersionBook | None, now: float) -> _VersionBook | None:
        """Bring a version's book up to date, or make one."""
        header = self._header(version)
        if book is not None and not book.supply.is_of(header):
            del self._books[version]
            book = None
        if header is None:
            return None
        book = book or self._make_book(version, header, now)
        if book is None:
            return None
        new = book.supply.refresh(now)
        if book.supply.is_too_large:
            self._books.pop(version, None)
            return None
        book.ledger.growing = book.supply.growing
        if new:
            own = self._own_pieces(version)
            book.ledger.offer(new if own is None else new & own)
            if own is not None:
                book.ledger.offer(new & ~own, own=False)
        return book

    def _make_book(self, version: str, header: Header, now: float) -> _VersionBook | None:
        """Make the book of a version, if need be in the place of the one that nobody asked for longest.

        Pieces without digests can't be handed out: None for such a version.
        """
        manifest = self._shelf.manifest_of(version)
        if manifest is not None and not manifest.verifiable:
            return None
        range_pieces = range_size(header.piece_size, self._fastest) // header.piece_size
        supply = PieceSupply(self._shelf, version, header, range_pieces=range_pieces)

        def find_rules(members: int) -> SwarmRules:
            rules = self._fixed_rules or rules_for(members=members)
            return replace(rules, credit=None if rules.credit is None else rules.credit * range_pieces)

        while len(self._books) >= MAX_VERSIONS:
            self._books.popitem(last=False)
        book = self._books[version] = _VersionBook(supply, find_rules, self._random, now)
        return book

    def _header(self, version: str) -> Header | None:
        """Return the header of a version that is here, complete or open."""
        manifest = self._shelf.manifest_of(version)
        if manifest is not None:
            return manifest.header
        live = self._shelf.live(version)
        return live.header if live and live.has_header else None
