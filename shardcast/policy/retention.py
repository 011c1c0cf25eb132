"""Retention: the versions for a node to retire."""

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
    """Return the surplus versions retirable now.

    Args:
        surplus: versions beyond retention.
        last_read: time of each one's last reading; infinite while an answer is running.
        since: time at which each became surplus.
        now: the time, on the clock of both.
        recently: seconds to wait after the last reading.
        longest: seconds beyond retention after which a version goes despite its readers.
    """
    return [
        number
        for number in surplus
        if now - last_read.get(number, float("-inf")) >= recently or now - since[number] >= longest
    ]


def versions_to_retire(
    number: int, needed: int, sizes: Mapping[int, int], *, pinned: Collection[int], read: Collection[int]
) -> list[int]:
    """Return the complete versions to retire to free ``needed`` bytes for version ``number``.

    Only older versions without a pin go, the oldest first; after them those being ``read``, and last the
    newest of them. All of these are returned where even all are not enough.

    Args:
        number: the version in need of room.
        needed: bytes.
        sizes: bytes of the complete versions, by number.
        pinned: versions never to retire.
        read: versions read now, or a moment ago.
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
