"""Servers that tell of the same line of versions, and those that contradict them."""

from __future__ import annotations

from collections.abc import Sequence
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

    def find(self, version: str) -> Listing | None:
        return next((one for one in self.listings if one.version == version), None)


def lines(readings: Sequence[tuple[str, Sequence[Listing]]]) -> list[Line]:
    """Group servers, each with its list, into lines; the order decides who is in the first.

    A server joins the first line that it doesn't contradict: two lists contradict each other when they
    give one version two digests, or two numbers of shards.
    """
    groups: list[tuple[list[str], dict[str, Listing], dict[str, list[str]]]] = []
    for server, listings in readings:
        for servers, known, offers in groups:
            if not any(_contradict(one, known.get(one.version)) for one in listings):
                break
        else:
            servers, known, offers = [], {}, {}
            groups.append((servers, known, offers))
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


def _contradict(one: Listing, other: Listing | None) -> bool:
    if other is None:
        return False
    return one.digest != other.digest or (
        None not in (one.shards, other.shards) and one.shards != other.shards
    )
