"""The swarm of a server's versions: announcements taken, tickets signed, and members named to each other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from random import Random

from shardcast.access.key_ring import VouchingKey, fingerprint
from shardcast.access.proofs import is_proof_to_server, prove_asking
from shardcast.access.signing import SigningKey, key_id
from shardcast.access.tickets import TICKET_SECONDS, TicketVersion, sign_ticket
from shardcast.addresses import Network
from shardcast.concurrency import in_thread
from shardcast.policy.swarm.addresses import can_be_named, guess_site, is_in, owner_of
from shardcast.policy.swarm.member_table import MemberTable, NodeTaken
from shardcast.policy.swarm.members import Entry, MemberFacts, Teller
from shardcast.policy.swarm.naming import members_for
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import Announcement
from shardcast.protocol.next_range import asker_of
from shardcast.protocol.swarm_members import MAX_KEYS, Place, SwarmError
from shardcast.protocol.wire import version_name
from shardcast.server.bounds import Address
from shardcast.server.checker import Checker
from shardcast.server.swarm_relay import SwarmRelay, keys_on_wire, named_member, version_key

_RELAY_PAUSE, _RELAYS_OFTEN = 1.0, 30.0
"""Seconds between two announcements of a server, which carry others' members, and the time of such frequent
ones after members came or left."""


class SwarmConflict(ValueError):
    """An announcement of another version than the local one of this number, or by another member's id."""


class SwarmTracker:
    """The members of a server's versions.

    Other servers of the same origin have members too, known through ``relay``.

    Attributes:
        table: the members.
        relay: the exchange with other servers.
        on_announced: called with the name of a version, a member's name in requests for ranges, and whether
            the member leaves.
    """

    def __init__(
        self,
        seed: bytes,
        *,
        networks: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        """Know no member.

        Args:
            seed: the secret bytes of the key for tickets.
            networks: networks of advertised addresses, and of members relayed by servers; without any, none
                is advertised.
            clock: gives seconds.
            wall_clock: gives seconds since 1970, for the expiry of tickets.
            random: draws members.
        """
        self._seed = seed
        self._loaded: SigningKey | None = None
        self._networks = networks
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random or Random()
        self.table = MemberTable(clock)
        self.on_announced: Callable[[str, str, bool], None] = lambda version, asker, leaves: None
        self._checker = Checker(self.table, clock)
        self._changes, self._changed_at = 0, clock()
        self.relay = SwarmRelay(
            self.table,
            self._checker,
            self._signing_key,
            networks=networks,
            clock=clock,
            wall_clock=wall_clock,
            random=self._random,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End all checks at the end of the block."""
        try:
            yield
        finally:
            await self._checker.stop()

    async def prepare(self) -> None:
        """Load the library for keys, to spare the first announcement some 50 ms.

        Raises:
            UsageError: the library is missing.
        """
        if self._loaded is None:
            self._loaded = await in_thread(SigningKey.from_seed, self._seed)

    def _signing_key(self) -> SigningKey:
        """Return the key for tickets."""
        if self._loaded is None:
            self._loaded = SigningKey.from_seed(self._seed)
        return self._loaded

    # Announcements

    def announce(
        self,
        version: TicketVersion,
        announcement: Announcement,
        seen: Address | None,
        expires: float | None = None,
    ) -> AnnouncementAnswer | None:
        """Record an announcement, and return the answer; None for a departure.

        Args:
            version: the local version.
            announcement: the member's announcement.
            seen: the member's address; None for unknown.
            expires: end of the member's right to read, in seconds since 1970; None for never.

        Raises:
            SwarmConflict: the announcement is of another version, by the id of another member, or by this
                node itself.
            SwarmError: the proof of the key is wrong.
        """
        announced = TicketVersion(version.number, announcement.origin, announcement.digest)
        if not version.is_same(announced):
            raise SwarmConflict(f"v{version.number} has another origin id or digest here, or none to compare")
        name, key = version_key(version), announcement.key
        if key == self.relay.own_key:
            raise SwarmConflict("this is the node itself, which is no member here")
        known = self.table.is_secret(name, key, announcement.secret)
        if announcement.leaving:
            left = self.table.leave(name, key) if known else None
            if left:
                self._tell_askers(left, leaves=True)
            return None
        if not known and not is_proof_to_server(
            key, announcement.node, announcement.secret, announcement.proof
        ):
            raise SwarmError("a proof that is not of this key, node and secret")
        facts, teller = self._facts(announcement, seen), Teller(owner_of(seen))
        try:
            entry = self.table.announce(name, facts, teller, announcement.secret)
        except NodeTaken as error:
            raise SwarmConflict(str(error)) from None
        self._checker.consider(entry)
        self._tell_askers(entry, leaves=False)
        if announcement.relay:
            self.relay.take(name, key_id(key), announcement.relay, seen)
        until = self._wall_clock() + TICKET_SECONDS
        ticket = sign_ticket(
            version,
            entry.facts.node,
            key,
            expires=until if expires is None else min(until, expires),
            signer=self._signing_key(),
            site=entry.facts.site,
        )
        return self._answer(entry, announcement, seen, ticket)

    def _tell_askers(self, entry: Entry, *, leaves: bool) -> None:
        """Tell of a living or leaving member, by its names in requests: older nodes give no proof there."""
        version, node = version_name(entry.version[0]), entry.facts.node
        for proof in ("", prove_asking(node, entry.secret)):
            self.on_announced(version, asker_of(node, proof), leaves)

    def _facts(self, announcement: Announcement, seen: Address | None) -> MemberFacts:
        """Return the valid facts of an announcement: a place only where others can be sent there."""
        place = self._place(announcement, seen)
        site = announcement.site or (guess_site(seen) if seen else None)
        return MemberFacts(
            announcement.node,
            announcement.key,
            place.host if place else None,
            place.port if place else 0,
            site,
            announcement.certificate,
            announcement.rate,
            announcement.sharing,
            announcement.nonce,
        )

    def _place(self, announcement: Announcement, seen: Address | None) -> Place | None:
        """Return the place for others to connect to a member; None without one.

        An address advertised by the member counts in the operator's networks alone: else the source address
        of the announcement counts.
        """
        advertised = announcement.advertise
        if advertised:
            address = ip_address(advertised.host)
            if is_in(address, self._networks) and can_be_named(address, advertised.port):
                return advertised
        if seen is None or announcement.port is None or not can_be_named(seen, announcement.port):
            return None
        return Place(str(seen), announcement.port)

    def _answer(
        self, entry: Entry, announcement: Announcement, seen: Address | None, ticket: str
    ) -> AnnouncementAnswer:
        """Return the answer to a member."""
        now, asker = self._clock(), str(seen) if seen else None
        members = self.table.of(entry.version)
        named = members_for(members, entry, asker, now, self._random)
        keys = self.vouching_keys()
        keys_id = fingerprint(keys, now)
        is_server = announcement.relay is not None
        place = Place(entry.facts.host, entry.facts.port) if entry.facts.host else None
        return AnnouncementAnswer(
            ticket=ticket,
            announce_again=self._pause(entry, is_server),
            keys=keys_on_wire(keys) if is_server or keys_id != announcement.keys else None,
            keys_id=keys_id,
            neighbours=tuple(filter(None, map(named_member, named))),
            members=len(members.by_key),
            reachable=entry.reachable if entry.facts.host else False,
            place=place if entry.reachable else None,
            site=entry.facts.site,
            relayed=self.relay.members_below(entry, asker) if is_server else (),
        )

    def _pause(self, entry: Entry, is_server: bool) -> float:
        """Return the seconds until a member's next announcement."""
        now, pause = self._clock(), self.table.pause(entry)
        if self._changes != self.table.changes:
            self._changes, self._changed_at = self.table.changes, now
        busy = is_server and now - self._changed_at < _RELAYS_OFTEN
        return min(_RELAY_PAUSE, pause) if busy else pause

    def vouching_keys(self) -> list[VouchingKey]:
        """Return the keys of all servers whose tickets count, this one's among them."""
        return [VouchingKey(self._signing_key().public, self._wall_clock()), *self.relay.keys.keys()][
            :MAX_KEYS
        ]
