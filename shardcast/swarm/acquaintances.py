"""The neighbours of a node for one version: connections to make, to accept, and to leave.

A member's name is its public key: no other can take that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from random import Random
from typing import cast

from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError
from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.meeting import (
    SETTLED_SECONDS,
    Acquaintance,
    Member,
    accepts,
    connections_wanted,
    to_connect,
    to_leave,
    to_replace,
)
from shardcast.protocol.swarm_members import NamedMember
from shardcast.swarm.exchange import Exchange
from shardcast.swarm.links import Link

log = logging.getLogger(__name__)

Dial = Callable[[NamedMember], Awaitable[object]]
"""Opens a link to a member, and adds the link to the exchange; raises ``ShardcastError`` or ``OSError``."""

_ROUND_SECONDS = 0.5
"""Seconds between two looks at whom to connect to, and whom to leave."""
_DIALS_AT_ONCE = 4
"""Maximum links being opened at once."""
_OTHERS_FIRST = 1.0
"""Seconds for the member with the lower key to let the other one connect."""
_AGAIN = Backoff(2.0, 60.0)
"""Seconds until an unreachable member is tried again."""


@dataclass
class _Known:
    """A neighbour.

    Attributes:
        link: its stream.
        member: the neighbour in the view of the rules.
        since: beginning of the neighbourhood.
        opened: whether this node connected to the other.
        received: bytes received from there by the last look.
        given: bytes given by the last look.
        active_at: time of the last byte either way.
    """

    link: Link
    member: Member
    since: float
    opened: bool
    received: int = 0
    given: int = 0
    active_at: float = 0.0


class Acquaintances:
    """The present, wanted and unreachable neighbours of a node.

    Attributes:
        me: this node, in the view of the rules.
    """

    def __init__(
        self,
        me: Member,
        exchange: Exchange,
        dial: Dial,
        *,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nobody yet.

        Args:
            me: this node.
            exchange: gets each new link.
            dial: opens links.
            random: source of choices.
            clock: gives seconds.
        """
        self.me = me
        self._exchange = exchange
        exchange.when_met, exchange.when_left = self._met, self._left
        self._dial = dial
        self._random = random or Random()
        self._clock = clock
        self._named: dict[Hashable, NamedMember] = {}
        self._named_at: dict[Hashable, float] = {}
        self._first_named_at: float | None = None
        self._known: dict[Hashable, _Known] = {}
        self._admitted: Member | None = None  # let in just now
        self._failures: dict[Hashable, tuple[int, float]] = {}  # how many, and when to try again
        self._dialling: dict[Hashable, asyncio.Task[None]] = {}
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._known)

    def name(self, members: Iterable[NamedMember]) -> None:
        """Replace the named members by those the servers name now."""
        now = self._clock()
        self._named = {member.key: member for member in members if member.key != self.me.key}
        if self._named and self._first_named_at is None:
            self._first_named_at = now
        self._named_at = {key: self._named_at.get(key, now) for key in self._named}
        self._failures = {key: value for key, value in self._failures.items() if key in self._named}
        self._news.set()

    def accepts(self, member: Member) -> bool:
        """Return whether to accept a connecting member as a neighbour; remember an accepted one."""
        if member.key in self._exchange.banned:
            return False
        accepted = accepts(self.me, member, [known.member for known in self._known.values()])
        self._admitted = member if accepted else None
        return accepted

    def site_of(self, key: Hashable, told: str | None = None) -> str | None:
        """Return the site of a member, as in its ticket or as named by a server.

        This is the node's own where nothing is known: servers without borders told of the member.
        """
        named = self._named.get(key)
        return told or (named.site if named else self.me.site)

    def _met(self, link: Link) -> None:
        """Record a new link's member as a neighbour; close a link of another site that it replaces."""
        now = self._clock()
        self._failures.pop(link.key, None)
        member, self._admitted = self._admitted, None
        if member is None or member.key != link.key:
            member = Member(link.key, self.site_of(link.key))
        replaced = to_replace(self.me, member, [known.member for known in self._known.values()])
        self._known[link.key] = _Known(link, member, now, link.key in self._dialling, active_at=now)
        if replaced is not None:
            self._known[replaced.key].link.close("a node of this one's site takes the place")

    async def run(self) -> None:
        """Connect to members and leave idle neighbours, until this is cancelled."""
        try:
            while True:
                self._news.clear()
                self._connect()
                self._leave()
                try:
                    async with asyncio.timeout(_ROUND_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    continue
        finally:
            await cancel(self._dialling.values())

    def _connect(self) -> None:
        """Begin to connect to wanted members."""
        if self._exchange.is_whole:
            return  # others connect to a node that has everything
        now = self._clock()
        candidates = [
            Member(member.key, member.site)
            for member in self._named.values()
            if member.key not in self._dialling
            and member.key not in self._exchange.banned
            and self._failures.get(member.key, (0, 0.0))[1] <= now
            and self._is_first(member, now)
        ]
        neighbours = [known.member for known in self._known.values()]
        opened = sum(known.opened for known in self._known.values()) + len(self._dialling)
        room = _DIALS_AT_ONCE - len(self._dialling)
        since = self._first_named_at
        settled = since is not None and now - since >= SETTLED_SECONDS
        want = connections_wanted(len(self._named), settled=settled)
        wanted = to_connect(self.me, candidates, neighbours, self._random, opened=opened, want=want)
        for member in wanted[:room]:
            dialling = asyncio.ensure_future(self._meet(self._named[member.key], member))
            self._dialling[member.key] = dialling

    def _is_first(self, member: NamedMember, now: float) -> bool:
        """Return whether this node connects to a member, and not the other way round.

        Two connecting to each other in the same moment would each refuse the other's second stream.
        """
        return member.key < cast(bytes, self.me.key) or now - self._named_at[member.key] >= _OTHERS_FIRST

    async def _meet(self, named: NamedMember, member: Member) -> None:
        """Connect to a member; after a failure it is not tried again for some seconds."""
        try:
            await self._dial(named)
        except (ShardcastError, OSError) as error:
            log.debug("no link to %s: %s", named.place, error)
            count, _ = self._failures.get(member.key, (0, 0.0))
            self._failures[member.key] = count + 1, self._clock() + _AGAIN.spread(count, self._random)
        finally:
            del self._dialling[member.key]
            self._news.set()

    def _left(self, link: Link) -> None:
        """Record the end of a link."""
        self._known.pop(link.key, None)
        self._news.set()

    def _leave(self) -> None:
        """Leave an inactive neighbour for another one."""
        now, exchange = self._clock(), self._exchange
        for key, known in self._known.items():
            received = exchange.receipts.by_neighbour.get(key, 0)
            given = exchange.gifts.given.get(key, 0)
            if (received, given) != (known.received, known.given):
                known.received, known.given, known.active_at = received, given, now
        idle = to_leave(
            self.me,
            [
                Acquaintance(known.member, known.active_at, done=exchange.is_done(key))
                for key, known in self._known.items()
            ],
            now,
            done=exchange.is_whole,
        )
        if idle is not None:
            self._known[idle.member.key].link.close("others are more use")
