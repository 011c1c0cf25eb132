"""Servers that tell of the same line of versions, and those that contradict them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardcast.distribution import Listing


@dataclass(frozen=True, slots=True)
class Line:
    """Servers that agree about every version that more than one of them lists.

    Attributes:
        servers: their URLs, in the order in which they were named.
        listings: the versions that they offer together, oldest first.
        offers: which of the servers offer a version.
    """

    servers: tuple[str, ...]
    listings: tuple[Listing, ...]
    offers: dict[str, tuple[str, ...]]

    def contradiction(self, used: Line) -> str:
        """What to tell people of the servers of this line, while another one is used."""
        return (
            f"{', '.join(self.servers)} contradict {', '.join(used.servers)} and are not used: they offer "
            "other bytes under the same version"
        )

    @property
    def complete(self) -> dict[int, tuple[str, ...]]:
        """The versions by number, and which of the servers offer each."""
        return {one.number: self.offers[one.version] for one in self.listings}

    def find(self, version: str) -> Listing | None:
        return next((one for one in self.listings if one.version == version), None)


def lines(readings: Sequence[tuple[str, Sequence[Listing]]]) -> list[Line]:
    """Group servers, each with its list, into lines; the order decides who is in the first.

    A server joins the first line that it doesn't contradict: two lists contradict each other when they
    give one version two digests, or two numbers of shards.
    """
    groups: list[tuple[list[str], dict[str, Listing], dict[str, list[str]]]] = []
    for server, listings in readings:
        found = next((group for group in groups if _agree(listings, group[1])), None)
        if found is None:
            found = ([], {}, {})
            groups.append(found)
        servers, known, offers = found
        servers.append(server)
        for one in listings:
            if one.version not in known or known[one.version].shards is None:
                known[one.version] = one
            offers.setdefault(one.version, []).append(server)
    return [
        Line(
            tuple(servers),
            tuple(sorted(known.values(), key=lambda one: one.number)),
            {version: tuple(those) for version, those in offers.items()},
        )
        for servers, known, offers in groups
    ]


def _agree(listings: Sequence[Listing], known: Mapping[str, Listing]) -> bool:
    for one in listings:
        other = known.get(one.version, one)
        if one.digest != other.digest:
            return False
        if None not in (one.shards, other.shards) and one.shards != other.shards:
            return False
    return True
