"""Which open versions a middle begins to fetch."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Servers = Collection[str]


def to_begin(
    opened: Mapping[int, Servers],
    complete: Mapping[int, Servers],
    here: Collection[int],
    making: Mapping[int, Servers],
    places: int,
    share: int,
) -> list[int]:
    """The versions to begin, of those that are ``opened`` at these servers: newer than what is complete
    ``here``, and where they are open. Those that are being fetched (``making``) leave so many of the
    ``places``, of which one server's versions take its ``share`` at the most."""
    newest: dict[str, int] = {}
    for number, servers in complete.items():
        newest.update({server: max(number, newest.get(server, 0)) for server in servers})
    taken = dict(making)
    begun = []
    for number in in_turn(opened):
        if len(taken) >= places:
            break
        servers = opened[number]
        old = number <= max([*here, min(newest.get(server, 0) for server in servers)])
        if old or number in complete or number in taken:
            continue
        if min(sum(server in those for those in taken.values()) for server in servers) < share:
            taken[number] = servers
            begun.append(number)
    return begun


def in_turn(offers: Mapping[int, Collection[str]]) -> list[int]:
    """All of these versions, the newest first, but each server's newest before another's second."""
    places: dict[str, int] = {}
    rank: dict[int, int] = {}
    for number in sorted(offers, reverse=True):
        rank[number] = min(places.get(server, 0) for server in offers[number])
        for server in offers[number]:
            places[server] = places.get(server, 0) + 1
    return sorted(offers, key=lambda number: (rank[number], -number))
