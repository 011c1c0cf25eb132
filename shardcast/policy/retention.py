"""Retention: the versions that a node retires."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def surplus(complete: Iterable[int], keep: int) -> list[int]:
    """Return the versions beyond the newest ``keep``, oldest first."""
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
    """Return the surplus versions that can be retired now.

    Args:
        surplus: versions beyond retention.
        last_read: when each was read last; infinite while an answer is running.
        since: when each became surplus.
        now: the time, on the clock of both.
        recently: seconds after the last reading at which a version can go.
        longest: seconds beyond retention after which a version goes although it is read.
    """
    return [
        number
        for number in surplus
        if now - last_read.get(number, float("-inf")) >= recently or now - since[number] >= longest
    ]


def versions_to_retire(
    number: int, needed: int, sizes: Mapping[int, int], *, pinned: Collection[int], read: Collection[int]
) -> list[int]:
    """Return the complete versions to retire so that ``needed`` bytes come free for version ``number``.

    Only older versions go that are not ``pinned``, the oldest first; after them those that are being
    ``read``, and last the newest of them. Where all of these are not enough, all of these are returned.

    Args:
        number: the version that needs room.
        needed: bytes.
        sizes: bytes of the complete versions, by number.
        pinned: versions that never go.
        read: versions that are read now, or were a moment ago.
    """
    older = [candidate for candidate in sizes if candidate < number]
    newest = max(older, default=0)
    chosen: list[int] = []
    for candidate in sorted(older, key=lambda n: (n == newest, n in read, n)):
        if needed <= 0:
            break
        if candidate not in pinned:
            chosen.append(candidate)
            needed -= sizes[candidate]
    return chosen
