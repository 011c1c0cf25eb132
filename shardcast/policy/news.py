"""Which version of a line is news to a follower."""

from __future__ import annotations

from collections.abc import Mapping

from shardcast.policy.due import due


def news(
    listed: Mapping[int, str], had: Mapping[int, str], every: bool = False, last: int | None = None
) -> int | None:
    """Return the number of the version to fetch next, of those that a line lists; None without news.

    The newest version is news, with ``every`` the oldest one after ``last`` that was not had.

    Args:
        listed: the digest of each number that the line lists.
        had: the same of the versions of this line that the follower had. A number that is listed with
            another digest was not had, nor was any later one: the publisher's directory was restored.
        every: whether no version is left out.
        last: the number after which the follower began; None: with the newest.
    """
    changed = min(
        (number for number in listed if had.get(number, listed[number]) != listed[number]), default=None
    )
    if changed is not None:
        had = {number: digest for number, digest in had.items() if number < changed}
        last = None if last is None else min(last, changed - 1)
    begun = min(had, default=None) if last is None else last
    if every and begun is not None:
        return due(listed, begun, had, every=True)
    return due(listed, begun or 0, had)
