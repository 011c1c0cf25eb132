"""Which versions a node wants, and which it retires."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def wanted(offered: Iterable[int], here: Collection[int], under_way: Collection[int], keep: int) -> list[int]:
    """The versions to fetch, first things first: of the newest ``keep``, what is under way, then the
    newest. What is offered but was retired here for its age is not wanted again."""
    newest = sorted({*offered, *here}, reverse=True)[:keep]
    missing = [number for number in newest if number not in here]
    return sorted(missing, key=lambda number: (number not in under_way, -number))


def wanted_of(
    offers: Mapping[int, Collection[str]],
    here: Collection[int],
    under_way: Collection[int],
    keep: int,
    doubted: Collection[str] = (),
) -> list[int]:
    """The versions to fetch of those that ``offers`` names with their servers, first things first. What one
    server says it has takes no place from what another one has: each server's newest ``keep`` are wanted,
    last those that only ``doubted`` ones have, which offered what could not be had."""
    servers = {server for those in offers.values() for server in those}
    found: set[int] = set()
    for server in servers:
        its = [number for number, those in offers.items() if server in those]
        found.update(wanted(its, here, under_way, keep))

    def rank(number: int) -> tuple[bool, bool, int]:
        return not set(offers[number]) - set(doubted), number not in under_way, -number

    return sorted(found, key=rank)


def surplus(complete: Iterable[int], keep: int) -> list[int]:
    """The versions beyond the newest ``keep``, oldest first."""
    return sorted(complete)[:-keep]


def retirable(
    surplus: Iterable[int],
    last_read: Mapping[int, float],
    since: Mapping[int, float],
    now: float,
    recently: float,
    longest: float,
) -> list[int]:
    """Which surplus versions can go: nobody read them for ``recently`` seconds, or readers have held
    them ``longest`` seconds beyond retention. ``last_read`` is infinite while an answer is running;
    ``since`` says when each became surplus."""
    return [
        number
        for number in surplus
        if now - last_read.get(number, float("-inf")) >= recently or now - since[number] >= longest
    ]


def room_for(
    number: int, needed: int, sizes: Mapping[int, int], pinned: Collection[int], read: Collection[int]
) -> list[int]:
    """The complete versions to retire so that ``needed`` bytes come free for version ``number``, or as many
    as there can: only older ones that are not ``pinned``, the oldest first; after them those that are being
    ``read``, and at last the newest of them. ``sizes`` are in bytes, by version."""
    older = [one for one in sizes if one < number]
    newest = max(older, default=0)
    chosen: list[int] = []
    for one in sorted(older, key=lambda one: (one == newest, one in read, one)):
        if needed <= 0:
            break
        if one not in pinned:
            chosen.append(one)
            needed -= sizes[one]
    return chosen
