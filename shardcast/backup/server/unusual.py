"""Words about a client that makes more snapshots than usual: a taken-over one could flood good ones out."""

from __future__ import annotations

from collections.abc import Iterable

DAY = 86400.0
"""Seconds of a day."""
WATCHED_DAYS = 31
"""Days whose snapshots say what is usual, today included."""
_FACTOR = 3
"""Times the busiest day before, from which a day is unusual."""
_ALWAYS_USUAL = 24
"""Snapshots of a day that are never unusual: one an hour."""


def unusual_count(arrivals: Iterable[float], now: float) -> str | None:
    """Return what is unusual about a client's snapshots of the last 24 hours; None where nothing is.

    Args:
        arrivals: when its snapshots of the last ``WATCHED_DAYS`` arrived, in seconds since 1970.
        now: seconds since 1970.
    """
    days = [0] * WATCHED_DAYS
    for arrived in arrivals:
        days[min(WATCHED_DAYS - 1, max(0, int((now - arrived) // DAY)))] += 1
    today, busiest = days[0], max(days[1:])
    if today <= max(_ALWAYS_USUAL, _FACTOR * busiest):
        return None
    return (
        f"{today} snapshots in the last 24 hours, at most {busiest} a day in the {WATCHED_DAYS - 1} days "
        "before; look at them before you forget any"
    )
