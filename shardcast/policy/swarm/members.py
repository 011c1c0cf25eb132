"""A member of a swarm in the view of a server, and the members of one version by hosts and sites."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardcast.access.signing import key_id
from shardcast.policy.swarm.addresses import owner_of
from shardcast.policy.swarm.pools import HostPool

VersionKey = tuple[int, str | None]
"""The number and the origin id of a version; without an origin id the digest of its payload."""


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A member's own facts, and the server's observations.

    Attributes:
        node: generation id.
        key: public key, the name of the member.
        host: the address for others to connect to; None for a member without a listener.
        port: the port there.
        site: the member's site.
        certificate: SHA-256 of its certificate in hex; None for plain HTTP.
        rate: claimed upload rate, in bytes a second.
        sharing: whether the member gives its pieces to others.
        nonce: nonce of the last announcement; None where an upstream checked the place.
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
        """Whether the id is made from the key, so no holder of another key can claim the id."""
        return self.node == key_id(self.key)


@dataclass(frozen=True, slots=True)
class Teller:
    """The source of the news of a member.

    Attributes:
        owner: the source's address, by which members are bounded.
        server: the relaying server; empty for the member itself.
        above: whether this server is an upstream of this one, whose check of the place counts.
    """

    owner: str
    server: str = ""
    above: bool = False


@dataclass(eq=False, slots=True)
class Entry:
    """A member of a version.

    Attributes:
        version: the version.
        facts: the known facts of the member.
        teller: the source of the facts.
        secret: secret of its announcements; empty for a member relayed by another server.
        since: time of the first news.
        heard_at: time of the last announcement.
        interval: maximum seconds until the next announcement, as told to the member.
        reachable: whether the server's check reached the member; None while none ended.
        failures: failed checks in a row.
        checked_at: beginning of the last check; None before the first one.
        named: the members named to this one.
        relayed: the members relayed to this one, if a server.
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
        """The address to give to others; None while there is none."""
        return self.facts.host if self.reachable and self.facts.sharing else None


@dataclass(eq=False, slots=True)
class Shortlist:
    """Members named to one node or server, again and again.

    Attributes:
        entries: the members.
        renewed_at: time of the last exchange of some of them; None for a new shortlist.
    """

    entries: list[Entry] = field(default_factory=list)
    renewed_at: float | None = None


class VersionMembers:
    """The members of one version.

    Attributes:
        by_key: all of them, by their keys.
        by_node: the same by their generation ids, unique to each.
        all: the reachable ones that share their pieces.
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
        """Add a member to those drawn from now on, if reachable and sharing."""
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
