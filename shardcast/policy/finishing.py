"""The end of a publisher: how long it waits for the nodes that have yet to get its newest version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_WAIT = 60.0
"""Seconds that a publisher waits at most, unless it was asked to wait longer."""
RECENT = 60.0
"""A publisher whose versions were not read, and that got no report, for so many seconds does not wait."""
HEARD_WITHIN = 20.0
"""Seconds after its last report for which a node is waited for; nodes report every 15 s."""
HOP_DELAY = 5.0
"""Seconds that each further hop may delay the report of a node that has nothing new."""
QUIET = 5.0
"""Seconds without a byte read after which readers that do not report count as gone."""
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class ReportedNode:
    """A node below the publisher, as its last report described it.

    Attributes:
        name: its name, or its id.
        age: seconds since that report.
        hops: how far below the publisher it is; 1 follows the publisher itself.
        has_newest: whether it has the publisher's newest version.
    """

    name: str
    age: float
    hops: int
    has_newest: bool


def max_wait(wait: float | None) -> float:
    """Return the seconds after which a publisher ends in any case.

    ``wait``: seconds that it was asked to stay; None for none.
    """
    return max(LONGEST_WAIT, wait or 0.0)


def reason_to_wait(
    newest: str | None,
    nodes: Sequence[ReportedNode],
    *,
    feeds: int,
    read_age: float,
    waited: float,
    wait: float | None,
) -> str | None:
    """Return what a publisher that was asked to end still waits for, in words; None when it may end.

    The limit is not looked at here: the caller compares ``waited`` with ``limit(wait)``.

    Args:
        newest: the newest complete version; None when nothing was published.
        nodes: the nodes below.
        feeds: how many feeds are open; each belongs to a node that reports within a second.
        read_age: seconds since a byte of a shard was read; infinity when none was.
        waited: seconds since the publisher was asked to end.
        wait: seconds for which to stay at least; 0 to end at once; None to stay only as long as is useful.
    """
    if newest is None or wait == 0:
        return None
    heard = [node for node in nodes if node.age <= HEARD_WITHIN + HOP_DELAY * max(0, node.hops - 1)]
    lacking = sorted({node.name for node in heard if not node.has_newest})
    if lacking:
        return f"{newest}: {_names(lacking)} {'lacks' if len(lacking) == 1 else 'lack'} it"
    if wait is not None and waited < wait:
        return f"{newest}: {wait:g} s were asked for"
    silent = min([read_age, *(node.age for node in nodes)]) > waited + RECENT
    if silent and not feeds:
        return None
    # A reader that does not report may be between two requests, or may not have seen the newest version yet;
    # a node that has just connected has yet to report.
    unheard = not heard or feeds > sum(node.hops <= 1 for node in heard)
    quiet = min(read_age, waited) if unheard else read_age
    return f"{newest}: {QUIET:g} s without a byte read" if quiet < QUIET else None


def _names(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        *others, last = names
        return f"{', '.join(others)} and {last}" if others else last
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"
