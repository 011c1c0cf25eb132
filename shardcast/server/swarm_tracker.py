"""The swarm of a server's versions: announcements taken, tickets signed, and members named to each other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from random import Random

from shardcast.access.key_ring import KeyRing, VouchingKey, fingerprint
from shardcast.access.proofs import is_proof_to_server
from shardcast.access.signing import SigningKey, key_id
from shardcast.access.tickets import TICKET_SECONDS, TicketVersion, sign_ticket
from shardcast.addresses import Network
from shardcast.concurrency import in_thread
from shardcast.policy.swarm.addresses import can_be_named, can_be_told, guess_site, is_in
from shardcast.policy.swarm.member_table import MemberTable
from shardcast.policy.swarm.members import Entry, MemberFacts, Shortlist, Teller, VersionKey
from shardcast.policy.swarm.naming import members_for, members_to_relay
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import Announcement, Relay
from shardcast.protocol.swarm_members import (
    MAX_KEYS,
    MAX_RELAYED,
    NamedMember,
    Place,
    RelayedMember,
    ServerKey,
    SwarmError,
)
from shardcast.protocol.wire import version_name
from shardcast.server.bounds import Address
from shardcast.server.checker import Checker

_KEYS_OF_SERVER, _KEYS_OF_OWNER = 32, 64
"""Keys that a server below, and all servers below at one address, can tell."""
_RELAY_PAUSE, _RELAYS_OFTEN = 1.0, 30.0
"""Seconds between two announcements of a server, which carry others', and for which that is so after members
came or left."""
_BELOW = "below:"
_ABOVE = "above:"
"""Beginnings of the names of those who tell keys: servers below, and upstreams."""


class SwarmConflict(ValueError):
    """An announcement of another version than the one that is here under its number."""


class SwarmTracker:
    """The members of a server's versions.

    A middle has two more sources of members and keys: the servers below it, which announce themselves here,
    and its upstreams (``hear_from_above``).

    Attributes:
        table: the members.
        own_key: the public key of this node as a member; None where it is none. It is no member here.
        keys: the keys of other servers whose tickets count.
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
            seed: the secret bytes of the key that signs the tickets.
            networks: where members can advertise addresses, and servers relay them; none advertises one
                without.
            clock: gives seconds.
            wall_clock: gives seconds since 1970, by which tickets expire.
            random: draws members.
        """
        self._seed = seed
        self._loaded: SigningKey | None = None
        self._networks = networks
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random or Random()
        self.table = MemberTable(clock)
        self.own_key: bytes | None = None
        self.keys = KeyRing(clock)
        self.on_announced: Callable[[str, str, bool], None] = lambda version, node, leaves: None
        self._checker = Checker(self.table, clock)
        self._changes, self._changed_at = 0, clock()
        self._told_above: dict[tuple[VersionKey, str], Shortlist] = {}  # by version and upstream

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End all checks at the end of the block."""
        try:
            yield
        finally:
            await self._checker.stop()

    async def prepare(self) -> None:
        """Load the library for keys, which takes some 50 ms of the first announcement.

        Raises:
            UsageError: the library is missing.
        """
        if self._loaded is None:
            self._loaded = await in_thread(SigningKey.from_seed, self._seed)

    @property
    def _key(self) -> SigningKey:
        """The key that signs the tickets."""
        if self._loaded is None:
            self._loaded = SigningKey.from_seed(self._seed)
        return self._loaded

    @property
    def changes(self) -> int:
        """Count of the members that became reachable, or ceased to be."""
        return self.table.changes

    # Announcements

    def announce(
        self,
        version: TicketVersion,
        announcement: Announcement,
        seen: Address | None,
        expires: float | None = None,
    ) -> AnnouncementAnswer | None:
        """Record an announcement, and return the answer; None for one that leaves.

        Args:
            version: the version here.
            announcement: what a member says.
            seen: its address; None where it is unknown.
            expires: when its right to read ends, in seconds since 1970; None for never.

        Raises:
            SwarmConflict: the announcement is of another version.
            SwarmError: it does not prove its key.
        """
        announced = TicketVersion(version.number, announcement.origin, announcement.digest)
        if not version.is_same(announced):
            raise SwarmConflict(f"the origin id and the digest are not those of v{version.number} here")
        name, key = version_key(version), announcement.key
        if key == self.own_key:
            raise SwarmConflict("this is the node itself, which is no member here")
        known = self.table.is_secret(name, key, announcement.secret)
        if announcement.leaving:
            if known:
                self.table.leave(name, key)
                self.on_announced(version_name(version.number), announcement.node, True)
            return None
        if not known and not is_proof_to_server(
            key, announcement.node, announcement.secret, announcement.proof
        ):
            raise SwarmError("a proof that is not of this key, node and secret")
        entry = self.table.announce(
            name, self._facts(announcement, seen), Teller(_owner(seen)), announcement.secret
        )
        self._checker.consider(entry)
        self.on_announced(version_name(version.number), announcement.node, False)
        if announcement.relay:
            self._take_relay(name, key_id(key), announcement.relay, seen)
        until = self._wall_clock() + TICKET_SECONDS
        ticket = sign_ticket(
            version,
            entry.facts.node,
            key,
            expires=until if expires is None else min(until, expires),
            signer=self._key,
        )
        return self._answer(entry, announcement, seen, ticket)

    def _facts(self, announcement: Announcement, seen: Address | None) -> MemberFacts:
        """Return what counts of an announcement: a place only where others can be sent to it."""
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
        """Return where others would connect to a member; None where it can't be named.

        An address that the member advertises counts in the operator's networks alone: else it is the address
        that the announcement came from.
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
        is_server = announcement.relay is not None
        place = Place(entry.facts.host, entry.facts.port) if entry.facts.host else None
        return AnnouncementAnswer(
            ticket=ticket,
            announce_again=self._pause(entry, is_server),
            keys=_on_wire(keys) if is_server or fingerprint(keys) != announcement.keys else None,
            neighbours=tuple(filter(None, map(_named, named))),
            members=len(members.by_key),
            reachable=entry.reachable if entry.facts.host else False,
            place=place if entry.reachable else None,
            site=entry.facts.site,
            relayed=self._relayed(entry, asker) if is_server else (),
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
        return [VouchingKey(self._key.public, self._wall_clock()), *self.keys.keys()][:MAX_KEYS]

    # Servers below

    def _take_relay(self, version: VersionKey, server: str, relay: Relay, seen: Address | None) -> None:
        """Take what a server below tells: keys, and members, which count once they are checked from here."""
        owner = _owner(seen)
        others = self.keys.count(
            lambda source: source.startswith(f"{_BELOW}{owner} ") and source != f"{_BELOW}{owner} {server}"
        )
        limit = min(_KEYS_OF_SERVER, _KEYS_OF_OWNER - others)
        self.keys.tell(f"{_BELOW}{owner} {server}", map(_from_wire, relay.keys), limit)
        teller = Teller(owner, server)
        for relayed in relay.members:
            address = ip_address(relayed.member.place.host)
            if relayed.nonce is None or not self._can_be_relayed(address, relayed.member.place.port, seen):
                continue
            entry = self.table.relay(version, _facts_of(relayed), teller, relayed.age)
            if entry:
                self._checker.consider(entry)
        self._forget_others(version, teller, relay.members)

    def _can_be_relayed(self, address: Address, port: int, seen: Address | None) -> bool:
        """Return whether a server at ``seen`` can tell of a member at a place."""
        allowed = not self._networks or address == seen or is_in(address, self._networks)
        told = can_be_told(str(address), str(seen) if seen else None)
        return allowed and told and can_be_named(address, port)

    def _relayed(self, server: Entry, asker: str | None) -> tuple[RelayedMember, ...]:
        """Return the members to tell a server below: not those that it told, nor itself."""
        teller = key_id(server.facts.key)

        def wanted(entry: Entry) -> bool:
            """Return whether a member is told."""
            host = entry.host
            known = entry.teller.server == teller or entry is server
            return not known and host is not None and can_be_told(host, asker)

        return self._selected(server.version, server.relayed, wanted, with_nonces=False)

    # Upstreams

    def relay_for(self, version: TicketVersion, upstream: str, *, on_loopback: bool) -> Relay:
        """Return what to tell an upstream: the keys and the members that did not come from above.

        Args:
            version: the version.
            upstream: the name of the upstream.
            on_loopback: whether the upstream is on this machine.
        """
        asker = "127.0.0.1" if on_loopback else None

        def wanted(entry: Entry) -> bool:
            """Return whether a member is told."""
            host = entry.host
            return not entry.teller.above and host is not None and can_be_told(host, asker)

        for known in [known for known in self._told_above if not self.table.has(known[0])]:
            del self._told_above[known]
        shortlist = self._told_above.setdefault((version_key(version), upstream), Shortlist())
        own = VouchingKey(self._key.public, self._wall_clock())
        below = self.keys.keys(lambda source: source.startswith(_BELOW))
        return Relay(
            _on_wire([own, *below][:_KEYS_OF_SERVER]),
            self._selected(version_key(version), shortlist, wanted, with_nonces=True),
        )

    def hear_from_above(
        self, version: TicketVersion, upstream: str, answer: AnnouncementAnswer, *, on_loopback: bool
    ) -> None:
        """Take what an upstream answered: keys, and members, which it has checked.

        Args:
            version: the version.
            upstream: the name of the upstream.
            answer: its answer.
            on_loopback: whether the upstream is on this machine.
        """
        if answer.keys is not None:
            own = self._key.public
            keys = (_from_wire(key) for key in answer.keys if key.key != own)
            self.keys.tell(_ABOVE + upstream, keys)
        teller, name = Teller(_ABOVE + upstream, upstream, above=True), version_key(version)
        for relayed in answer.relayed:
            place = relayed.member.place
            asker = "127.0.0.1" if on_loopback else None
            if relayed.member.key == self.own_key:
                continue
            if can_be_named(ip_address(place.host), place.port) and can_be_told(place.host, asker):
                self.table.relay(name, _facts_of(relayed), teller, relayed.age)
        self._forget_others(name, teller, answer.relayed)

    def _forget_others(self, version: VersionKey, teller: Teller, told: Sequence[RelayedMember]) -> None:
        """Forget the members that a server does not tell any more, where it told all that it has."""
        if len(told) < MAX_RELAYED:
            self.table.keep_relayed(version, teller, {relayed.member.key for relayed in told})

    def _selected(
        self, version: VersionKey, shortlist: Shortlist, wanted: Callable[[Entry], bool], *, with_nonces: bool
    ) -> tuple[RelayedMember, ...]:
        """Return members for another server: for the most part the same as before."""
        members, now = self.table.of(version), self._clock()
        chosen = members_to_relay(members, shortlist, MAX_RELAYED, wanted, now=now, random=self._random)
        return tuple(
            RelayedMember(
                named,
                max(0.0, now - entry.heard_at),
                entry.facts.rate,
                entry.facts.nonce if with_nonces else None,
            )
            for entry in chosen
            if (named := _named(entry))
        )


def version_key(version: TicketVersion) -> VersionKey:
    """Return the name of a version in the table, which stays the same once the version is complete."""
    return version.number, version.origin or version.digest


def _owner(seen: Address | None) -> str:
    """Return the name by which bounds count an address; of IPv6 a whole subnet, which is one machine's."""
    if isinstance(seen, IPv6Address) and not seen.is_loopback:
        return str(ip_network((seen, 64), strict=False))
    return str(seen or "")


def _named(entry: Entry) -> NamedMember | None:
    """Return a member as it is named; None where it can't be connected to."""
    facts = entry.facts
    if entry.host is None:
        return None
    return NamedMember(facts.node, facts.key, Place(entry.host, facts.port), facts.site, facts.certificate)


def _facts_of(relayed: RelayedMember) -> MemberFacts:
    """Return what another server tells of a member."""
    member = relayed.member
    return MemberFacts(
        member.node,
        member.key,
        member.place.host,
        member.place.port,
        member.site,
        member.certificate,
        relayed.rate,
        True,
        relayed.nonce,
    )


def _on_wire(keys: Sequence[VouchingKey]) -> tuple[ServerKey, ...]:
    """Return keys as servers tell them."""
    return tuple(ServerKey(key.public, key.now, key.age) for key in keys)


def _from_wire(key: ServerKey) -> VouchingKey:
    """Return a key that a server told."""
    return VouchingKey(key.key, key.now, key.age)
