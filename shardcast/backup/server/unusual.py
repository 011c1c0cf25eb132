"""A warning about more snapshots than usual: a taken-over client could flood good ones out."""

from __future__ import annotations

from collections.abc import Iterable

DAY = 86400.0
"""Seconds of a day."""
WATCHED_DAYS = 31
"""Days of snapshots considered, today included."""
_FACTOR = 3
"""Factor over the busiest earlier day that makes a day unusual."""
_ALWAYS_USUAL = 24
"""Snapshots a day that are never unusual: one an hour."""


def unusual_count(arrivals: Iterable[float], now: float) -> str | None:
    """Return a sentence about unusually many snapshots in the last 24 hours; None for a usual number.

    Args:
        arrivals: times of arrival of the client's snapshots of the last ``WATCHED_DAYS``, in seconds since
            1970.
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
