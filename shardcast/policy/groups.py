"""Groups of servers with the same versions, and servers in conflict with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from shardcast.protocol.distribution import Listing


@dataclass(frozen=True, slots=True)
class Offer:
    """The versions of one server.

    Attributes:
        server: URL.
        complete: complete versions, oldest first.
        origin: the named origin id; None for servers without one (0.1.0, static servers).
        known: listed versions whose bytes the server does not have yet.
    """

    server: str
    complete: Sequence[Listing]
    origin: str | None = None
    known: Sequence[Listing] = ()

    @property
    def listed(self) -> tuple[Listing, ...]:
        """The listed versions: those served, and those complete only at the authority."""
        return (*self.complete, *self.known)


@dataclass(frozen=True)
class ServerGroup:
    """Servers of one line in agreement about every version listed by more than one of them.

    Attributes:
        servers: URLs, in the order of their naming.
        listings: versions listed by any of them, oldest first.
        offers: the servers of a version, by its name.
        origin: the origin id of the line; None where no server names one.
    """

    servers: tuple[str, ...]
    listings: tuple[Listing, ...]
    offers: Mapping[str, tuple[str, ...]]
    origin: str | None = None

    def conflict(self, used: ServerGroup) -> str:
        """Return the message about this group while the group ``used`` is in use."""
        if None not in (self.origin, used.origin) and self.origin != used.origin:
            why = f"they publish another line of versions (origin id {self.origin} instead of {used.origin})"
        else:
            why = "they offer other bytes, or another manifest, under the same version"
        return f"{', '.join(self.servers)} contradict {', '.join(used.servers)} and are not used: {why}"

    @cached_property
    def complete(self) -> dict[int, tuple[str, ...]]:
        """The servers of a version, by number; versions without a server are left out."""
        holders = {listing.number: self.offers.get(listing.version, ()) for listing in self.listings}
        return {number: servers for number, servers in holders.items() if servers}

    def find(self, version: str) -> Listing | None:
        """Return the listing of a version, or None."""
        return next((listing for listing in self.listings if listing.version == version), None)


class _Forming:
    """A group while servers join it."""

    def __init__(self, origin: str | None, known: Mapping[int, Listing], digests: Mapping[int, str]) -> None:
        self.origin = origin
        self.known = dict(known)
        self.digests = digests
        self.servers: list[str] = []
        self.offers: dict[str, list[str]] = {}

    def takes(self, offer: Offer) -> bool:
        """Return whether a server contradicts neither the group's line nor a version of the group."""
        if None not in (offer.origin, self.origin) and offer.origin != self.origin:
            return False
        return all(self._agrees(listing) for listing in offer.listed)

    def _agrees(self, listing: Listing) -> bool:
        known = self.known.get(listing.number)
        if known is None:
            return self.digests.get(listing.number, listing.digest) == listing.digest
        return is_same_version(listing, known)

    def add(self, offer: Offer) -> None:
        """Let a server join."""
        self.servers.append(offer.server)
        self.origin = self.origin or offer.origin
        for listing in offer.listed:
            self.known[listing.number] = merge_listings(self.known.get(listing.number), listing)
        for listing in offer.complete:
            self.offers.setdefault(listing.version, []).append(offer.server)

    def group(self) -> ServerGroup:
        """Return the group in its present state."""
        listings = tuple(listing for _, listing in sorted(self.known.items()))
        offers = {version: tuple(servers) for version, servers in self.offers.items()}
        return ServerGroup(tuple(self.servers), listings, offers, self.origin)


def is_same_version(one: Listing, other: Listing) -> bool:
    """Return whether two listings are of the same version.

    Compare the payload's digest, and the number of shards and the manifest's digest where both listings have
    them.
    """
    if one.digest != other.digest:
        return False
    if None not in (one.shards, other.shards) and one.shards != other.shards:
        return False
    return None in (one.manifest, other.manifest) or one.manifest == other.manifest


def merge_listings(one: Listing | None, other: Listing) -> Listing:
    """Return one listing with all facts of two listings of one version."""
    if one is None:
        return other
    shards = other.shards if one.shards is None else one.shards
    return Listing(one.version, one.digest, shards, one.manifest or other.manifest)


def group_servers(
    offers: Iterable[Offer],
    origin: str | None = None,
    listed: Mapping[int, Listing] | None = None,
    digests: Mapping[int, str] | None = None,
) -> list[ServerGroup]:
    """Group servers, in the order of their naming.

    A server joins the first group without a conflict. The first group, possibly without servers, belongs to
    the line ``origin`` with the versions ``listed`` and the payload ``digests`` seen earlier; without these,
    to the first server's line.
    """
    seeded = origin is not None or bool(listed) or bool(digests)
    groups = [_Forming(origin, listed or {}, digests or {})] if seeded else []
    for offer in offers:
        found = next((group for group in groups if group.takes(offer)), None)
        if found is None:
            found = _Forming(offer.origin, {}, {})
            groups.append(found)
        found.add(offer)
    return [group.group() for group in groups]
