"""A member of a swarm as a server knows it, and the members of one version by their hosts and sites."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardcast.access.signing import key_id
from shardcast.policy.swarm.addresses import owner_of
from shardcast.policy.swarm.pools import HostPool

VersionKey = tuple[int, str | None]
"""The number and the origin id of a version; without an origin id the digest of its payload."""


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What a member says about itself, and what the server saw.

    Attributes:
        node: its generation id.
        key: its public key, by which it is known.
        host: the address at which others would connect to it; None for a member that does not listen.
        port: the port there.
        site: its site.
        certificate: SHA-256 of its certificate in hex; None for plain HTTP.
        rate: bytes a second that it says it gives.
        sharing: whether it gives what it has.
        nonce: of its last announcement; None where an upstream checked the place.
    """

    node: str
    key: bytes
    host: str | None = None
    port: int = 0
    site: str | None = None
    certificate: str | None = None
    rate: int = 0
    sharing: bool = True
    nonce: str | None = None

    def is_at(self, other: MemberFacts) -> bool:
        """Return whether others connect to the same place with the same certificate."""
        place = (self.host, self.port, self.certificate)
        return place == (other.host, other.port, other.certificate)

    @property
    def owns_node(self) -> bool:
        """Whether the id is the one that the key makes, which no holder of another key can claim."""
        return self.node == key_id(self.key)


@dataclass(frozen=True, slots=True)
class Teller:
    """Who told of a member.

    Attributes:
        owner: the address that it came from, by which members are bounded.
        server: the server that relayed it; empty for the member itself.
        above: whether that server is an upstream of this one, whose check of the place counts.
    """

    owner: str
    server: str = ""
    above: bool = False


@dataclass(eq=False, slots=True)
class Entry:
    """A member of a version.

    Attributes:
        version: the version that it is a member of.
        facts: what is known of it.
        teller: who told of it.
        secret: of its announcements; empty for a member that another server relayed.
        since: when it was told of first.
        heard_at: when it announced itself last.
        interval: seconds that it was asked to wait until the next time, at most.
        reachable: whether the server's check reached it; None while none ended.
        failures: checks in a row that failed.
        checked_at: when the last check began; None before the first one.
        named: the members that were named to it.
        relayed: the members that were told to it, where it is a server.
    """

    version: VersionKey
    facts: MemberFacts
    teller: Teller
    secret: str
    since: float
    heard_at: float
    interval: float
    reachable: bool | None = None
    failures: int = 0
    checked_at: float | None = None
    named: Shortlist = field(default_factory=lambda: Shortlist())
    relayed: Shortlist = field(default_factory=lambda: Shortlist())

    @property
    def host(self) -> str | None:
        """The address that others are given; None while there is none."""
        return self.facts.host if self.reachable and self.facts.sharing else None


@dataclass(eq=False, slots=True)
class Shortlist:
    """Members that are named to one node or server, again and again.

    Attributes:
        entries: the members.
        renewed_at: when some of them were exchanged last; None for a new shortlist.
    """

    entries: list[Entry] = field(default_factory=list)
    renewed_at: float | None = None


class VersionMembers:
    """The members of one version.

    Attributes:
        by_key: all of them, by their keys.
        by_node: the same by their generation ids, each of which one member has.
        all: those that others can connect to.
        sites: the same by their sites.
    """

    def __init__(self) -> None:
        self.by_key: dict[bytes, Entry] = {}
        self.by_node: dict[str, Entry] = {}
        self.all = HostPool[Entry]()
        self.sites: dict[str | None, HostPool[Entry]] = {}

    def has(self, entry: Entry) -> bool:
        """Return whether a member is still one."""
        return self.by_key.get(entry.facts.key) is entry

    def add(self, entry: Entry) -> None:
        """Add a member whose key and id no other one has."""
        self.by_key[entry.facts.key] = self.by_node[entry.facts.node] = entry
        self.enlist(entry)

    def remove(self, entry: Entry) -> None:
        """Remove a member."""
        self.delist(entry)
        del self.by_key[entry.facts.key], self.by_node[entry.facts.node]

    def enlist(self, entry: Entry) -> None:
        """Have a member drawn from now on, if others can connect to it."""
        if entry.host:
            owner = owner_of(entry.host)
            self.all.add(owner, entry)
            self.sites.setdefault(entry.facts.site, HostPool()).add(owner, entry)

    def delist(self, entry: Entry) -> None:
        """Have a member drawn no more."""
        if entry.host:
            owner, site = owner_of(entry.host), self.sites[entry.facts.site]
            self.all.remove(owner, entry)
            site.remove(owner, entry)
            if not site:
                del self.sites[entry.facts.site]
