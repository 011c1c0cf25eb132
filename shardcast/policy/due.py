"""Which version a follower fetches next."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def due(offered: Iterable[int], last: int, had: Collection[int] = (), every: bool = False) -> int | None:
    """The version after ``last`` that is fetched next: the newest, or with ``every`` the oldest of those that
    were not ``had``, since a relay may have a later one first; None when there is none yet."""
    if every:
        return min((number for number in offered if number > last and number not in had), default=None)
    return max((number for number in offered if number > max(last, *had, 0)), default=None)
