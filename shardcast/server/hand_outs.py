"""The hand-outs of a server, piece by piece: a ledger for each version with requests for its next range.

``policy/swarm`` decides on the receiver of each piece. Here lie the facts behind a decision: the pieces ready
to be sent, the asking nodes, and the unfinished answers; and the bounds of all this memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from shardcast.policy.swarm.addresses import site_beyond
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.ledger import HandoutKind
from shardcast.policy.swarm.rules import SwarmRules, range_size, rules_for
from shardcast.protocol.manifest import Header
from shardcast.protocol.next_range import NextRequest, NotNow
from shardcast.protocol.piece_numbers import PieceRun
from shardcast.server.bounds import Address
from shardcast.server.piece_supply import PieceSupply
from shardcast.server.version_book import GrantedRange, VersionBook
from shardcast.store.interfaces import Shelf

MAX_VERSIONS = 8
"""Maximum versions handed out at the same time."""
UNUSED_SECONDS = 60.0
"""Seconds without a request until a ledger is dropped."""
_RATE_SECONDS = 0.25
"""Seconds of measuring the rate of hand-outs."""
_WAITING_RATE = 200.0
"""Nodes a second that repeat their question while a version grows, in two requests each: a tenth of a
processor."""
_ALL_GIVEN_SECONDS = 1.0
"""Seconds until a node asks again where all was handed out."""


@dataclass(frozen=True, slots=True)
class NothingNow:
    """A request without bytes for now.

    Attributes:
        reason: why.
        seconds: to wait until the next request.
        claims: mask of the pieces for the node to bring across the border of its site.
    """

    reason: NotNow
    seconds: float
    claims: int = 0


class HandOuts:
    """The ledgers of a server, one for each requested version."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        rules: SwarmRules | None = None,
        own_pieces: Callable[[str], int | None] = lambda version: None,
        site: str | None = None,
    ) -> None:
        """Hand out the versions of a Shelf.

        Args:
            shelf: the server's versions.
            clock: seconds, for the ages of nodes and hand-outs.
            random: for the choice among equals.
            rules: the numbers; None for those by the number of nodes.
            own_pieces: returns the pieces of a version for this server to hand out first, such as those
                handed out to it by the origin; None for all.
            site: the site of this server; None to guess one from the address reached by a node.
        """
        self._shelf = shelf
        self._clock = clock
        self._random = random or Random()
        self._fixed_rules = rules
        self._rules = rules or SwarmRules()
        self._own_pieces = own_pieces
        self._site = site
        self._books: OrderedDict[str, VersionBook] = OrderedDict()  # asked for longest ago first
        self._slots = AnswerSlots(self._rules)
        self._fastest = 0.0
        self._measured_since, self._measured_bytes = clock(), 0

    def __contains__(self, version: str) -> bool:
        """Return whether there is a ledger of a version."""
        return version in self._books

    def next_for(
        self,
        version: str,
        request: NextRequest,
        *,
        seen: Address | None = None,
        here: Address | None = None,
        again: bool = False,
    ) -> GrantedRange | NothingNow:
        """Decide on the answer to a node, and record it. An answer with bytes has a slot until ``end``.

        Args:
            version: name of the version.
            request: the node's request.
            seen: the node's address; None for unknown.
            here: the address of this server reached by the node; None for unknown.
            again: whether to decide anew for a kept request, with its report recorded already.

        Raises:
            NextRangeError: the request names pieces beyond those of the version.
            ReportIncomplete: the node must tell all its pieces.
        """
        now = self._clock()
        book = self._book(version, now)
        if book is None:
            return NothingNow(NotNow.ABSENT, _ALL_GIVEN_SECONDS)
        site = None  # a node that knows no borders gets what those of this site get
        if request.across is not None:
            site = site_beyond(request.site, seen, home=self._site, here=here)
        node = book.node(request.asker, site, now)
        if node is None:
            return NothingNow(NotNow.BUSY, self._rules.longest_server_pause)
        if not again:
            book.note_report(request, node, now)
        has_slot = self._slots.begin(request.asker)
        chosen = book.hand_out(request, node, now, may_send=has_slot)
        if isinstance(chosen, PieceRun):
            return GrantedRange(book, request.asker, chosen)
        if has_slot:
            self._slots.end(request.asker)
        if chosen.answer is HandoutKind.CLAIMS:
            return NothingNow(NotNow.CLAIMS, self._rules.first_server_pause, chosen.ranges)
        if chosen.answer is HandoutKind.PAUSE:
            return NothingNow(NotNow.PAUSE if has_slot else NotNow.BUSY, self._rules.first_server_pause)
        if chosen.answer is HandoutKind.WAIT:
            pause = max(self._rules.first_server_pause, book.node_count / _WAITING_RATE)
            return NothingNow(NotNow.WAIT, min(pause, self._rules.longest_server_pause))
        node.patience = UNUSED_SECONDS
        return NothingNow(NotNow.ALL_GIVEN, _ALL_GIVEN_SECONDS)

    def end(self, node: str, sent: int) -> None:
        """Free the slot of an answer that ended after ``sent`` bytes.

        Args:
            node: the name of the node in its request (``NextRequest.asker``).
            sent: counts for the rate, by which ranges are chosen.
        """
        self._slots.end(node)
        self._measured_bytes += sent
        now = self._clock()
        seconds = now - self._measured_since
        if seconds >= _RATE_SECONDS:
            self._fastest = max(self._fastest, self._measured_bytes / seconds)
            self._measured_since, self._measured_bytes = now, 0

    def note_member(self, version: str, node: str, leaves: bool) -> None:
        """Record that a member of a version's swarm lives, or leaves: ranges only there are handed out again.

        Args:
            version: the version.
            node: the member's name in requests (``NextRequest.asker``).
            leaves: whether the member leaves.
        """
        book = self._books.get(version)
        if book is None:
            return
        if leaves:
            book.forget(node)
        else:
            book.keep(node, self._clock())

    def tidy(self) -> None:
        """Forget inactive nodes and ledgers, and ledgers of versions gone since."""
        now = self._clock()
        for version, book in list(self._books.items()):
            book.forget_stale(now)
            if now - book.asked_at >= UNUSED_SECONDS or not book.supply.is_of(self._header(version)):
                del self._books[version]

    def _book(self, version: str, now: float) -> VersionBook | None:
        """Return the up-to-date book of a version; None where the version cannot be handed out."""
        book = self._books.get(version)
        if book is None or book.supply.is_due(now):
            book = self._refresh(version, book, now)
        if book:
            self._books.move_to_end(version)
        return book

    def _refresh(self, version: str, book: VersionBook | None, now: float) -> VersionBook | None:
        """Bring a version's book up to date, or make one; None where the version cannot be handed out."""
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

    def _make_book(self, version: str, header: Header, now: float) -> VersionBook | None:
        """Make the book of a version, if need be in the place of the longest unused one.

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
        book = self._books[version] = VersionBook(supply, find_rules, self._random, now)
        return book

    def _header(self, version: str) -> Header | None:
        """Return the header of a local version, complete or open."""
        manifest = self._shelf.manifest_of(version)
        if manifest is not None:
            return manifest.header
        live = self._shelf.live(version)
        return live.header if live and live.has_header else None
