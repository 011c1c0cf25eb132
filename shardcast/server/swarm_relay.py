"""The swarm of other servers of one origin: news from servers below and from upstreams, and for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from random import Random

from shardcast.access.key_ring import KeyRing, VouchingKey
from shardcast.access.signing import SigningKey, key_id
from shardcast.access.tickets import TicketVersion
from shardcast.addresses import Network
from shardcast.policy.swarm.addresses import can_be_named, can_be_told, is_in, owner_of
from shardcast.policy.swarm.member_table import MemberTable
from shardcast.policy.swarm.members import Entry, MemberFacts, Shortlist, Teller, VersionKey
from shardcast.policy.swarm.naming import members_to_relay
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import Relay
from shardcast.protocol.swarm_members import MAX_RELAYED, NamedMember, Place, RelayedMember, ServerKey
from shardcast.server.bounds import Address
from shardcast.server.checker import Checker

_KEYS_OF_SERVER, _KEYS_OF_OWNER = 32, 64
"""Maximum keys from one server below, and from all servers below at one address."""
_BELOW = "below:"
_ABOVE = "above:"
"""Beginnings of the names of sources of keys: servers below, and upstreams."""


class SwarmRelay:
    """The exchange between servers of one origin: keys, and some of their members.

    A member told by a server below is checked from here before it counts: any reader can pose as a server. An
    upstream is believed, since the operator chose it.

    Attributes:
        own_key: the public key of this node as a member; None where it is none. It is no member here.
        keys: the valid keys of other servers.
    """

    def __init__(
        self,
        table: MemberTable,
        checker: Checker,
        signing_key: Callable[[], SigningKey],
        *,
        networks: Sequence[Network],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random: Random,
    ) -> None:
        """Know no other server.

        Args:
            table: gets the members told by others.
            checker: checks those from below.
            signing_key: returns this server's key for tickets.
            networks: possible networks of members told by servers below; everywhere where there are none.
            clock: gives seconds.
            wall_clock: gives seconds since 1970.
            random: draws members.
        """
        self.own_key: bytes | None = None
        self.keys = KeyRing(clock)
        self._table = table
        self._checker = checker
        self._own_key = signing_key
        self._networks = networks
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._told_above: dict[tuple[VersionKey, str], Shortlist] = {}  # by version and upstream

    # Servers below

    def take(self, version: VersionKey, server: str, relay: Relay, seen: Address | None) -> None:
        """Take the news of a server below: keys, and members, valid once checked from here."""
        owner = owner_of(seen)
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
            entry = self._table.relay(version, _facts_of(relayed), teller, relayed.age)
            if entry:
                self._checker.consider(entry)
        self._forget_others(version, teller, relay.members)

    def _can_be_relayed(self, address: Address, port: int, seen: Address | None) -> bool:
        """Return whether a server at ``seen`` can tell of a member at a place."""
        allowed = not self._networks or address == seen or is_in(address, self._networks)
        told = can_be_told(str(address), str(seen) if seen else None)
        return allowed and told and can_be_named(address, port)

    def members_below(self, server: Entry, asker: str | None) -> tuple[RelayedMember, ...]:
        """Return the members to tell a server below: neither its own, nor itself."""
        teller = key_id(server.facts.key)

        def wanted(entry: Entry) -> bool:
            """Return whether a member is told."""
            host = entry.host
            known = entry.teller.server == teller or entry is server
            return not known and host is not None and can_be_told(host, asker)

        return self._selected(server.version, server.relayed, wanted, with_nonces=False)

    # Upstreams

    @property
    def changes(self) -> int:
        """Count of the members that became reachable, or ceased to be."""
        return self._table.changes

    def relay_for(self, version: TicketVersion, upstream: str, *, on_loopback: bool) -> Relay:
        """Return the news for an upstream: the keys and the members from elsewhere than above.

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

        for known in [known for known in self._told_above if not self._table.has(known[0])]:
            del self._told_above[known]
        shortlist = self._told_above.setdefault((version_key(version), upstream), Shortlist())
        own = VouchingKey(self._own_key().public, self._wall_clock())
        below = self.keys.keys(lambda source: source.startswith(_BELOW))
        return Relay(
            keys_on_wire([own, *below][:_KEYS_OF_SERVER]),
            self._selected(version_key(version), shortlist, wanted, with_nonces=True),
        )

    def hear_from_above(
        self, version: TicketVersion, upstream: str, answer: AnnouncementAnswer, *, on_loopback: bool
    ) -> None:
        """Take an upstream's answer: keys, and members already checked there.

        Args:
            version: the version.
            upstream: the name of the upstream.
            answer: its answer.
            on_loopback: whether the upstream is on this machine.
        """
        if answer.keys is not None:
            own = self._own_key().public
            keys = (_from_wire(key) for key in answer.keys if key.key != own)
            self.keys.tell(_ABOVE + upstream, keys)
        teller, name = Teller(_ABOVE + upstream, upstream, above=True), version_key(version)
        for relayed in answer.relayed:
            place = relayed.member.place
            asker = "127.0.0.1" if on_loopback else None
            if relayed.member.key == self.own_key:
                continue
            if can_be_named(ip_address(place.host), place.port) and can_be_told(place.host, asker):
                self._table.relay(name, _facts_of(relayed), teller, relayed.age)
        self._forget_others(name, teller, answer.relayed)

    def _forget_others(self, version: VersionKey, teller: Teller, told: Sequence[RelayedMember]) -> None:
        """Forget the members missing from a server's whole list."""
        if len(told) < MAX_RELAYED:
            self._table.keep_relayed(version, teller, {relayed.member.key for relayed in told})

    def _selected(
        self, version: VersionKey, shortlist: Shortlist, wanted: Callable[[Entry], bool], *, with_nonces: bool
    ) -> tuple[RelayedMember, ...]:
        """Return members for another server: for the most part the same as before."""
        members, now = self._table.of(version), self._clock()
        chosen = members_to_relay(members, shortlist, MAX_RELAYED, wanted, now=now, random=self._random)
        return tuple(
            RelayedMember(
                named,
                max(0.0, now - entry.heard_at),
                entry.facts.rate,
                entry.facts.nonce if with_nonces else None,
            )
            for entry in chosen
            if (named := named_member(entry))
        )


def version_key(version: TicketVersion) -> VersionKey:
    """Return the name of a version in the table, unchanged by the version's completion."""
    return version.number, version.origin or version.digest


def named_member(entry: Entry) -> NamedMember | None:
    """Return a member as named to others; None for an unreachable one."""
    facts = entry.facts
    if entry.host is None:
        return None
    return NamedMember(facts.node, facts.key, Place(entry.host, facts.port), facts.site, facts.certificate)


def _facts_of(relayed: RelayedMember) -> MemberFacts:
    """Return another server's facts of a member."""
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


def keys_on_wire(keys: Sequence[VouchingKey]) -> tuple[ServerKey, ...]:
    """Return keys as servers tell them."""
    return tuple(ServerKey(key.public, key.now, key.age) for key in keys)


def _from_wire(key: ServerKey) -> VouchingKey:
    """Return a key told by a server."""
    return VouchingKey(key.key, key.now, key.age)
