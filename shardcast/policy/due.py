"""Which version a follower fetches next."""

from __future__ import annotations

from collections.abc import Iterable


def due(offered: Iterable[int], last: int, every: bool) -> int | None:
    """The version after ``last``: the newest, or with ``every`` the oldest; None when there is none yet."""
    newer = [number for number in offered if number > last]
    return (min if every else max)(newer, default=None)
