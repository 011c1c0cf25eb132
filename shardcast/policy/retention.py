"""Which versions a node retires."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def surplus(complete: Iterable[int], keep: int) -> list[int]:
    """The versions beyond the newest ``keep``, oldest first."""
    return sorted(complete)[:-keep]


def retirable(
    surplus: Iterable[int],
    last_read: Mapping[int, float],
    since: Mapping[int, float],
    *,
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
    number: int, needed: int, sizes: Mapping[int, int], *, pinned: Collection[int], read: Collection[int]
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
