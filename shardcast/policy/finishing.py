"""The end of a publisher: how long to wait for nodes still without the newest version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_WAIT = 60.0
"""Maximum wait of a publisher, in seconds, unless a longer one was requested."""
RECENT = 60.0
"""Seconds without a read or a report after which a publisher does not wait."""
HEARD_WITHIN = 20.0
"""Seconds after its last report during which a node is waited for; nodes report every 15 s."""
HOP_DELAY = 5.0
"""Maximum delay, in seconds a hop, of the report of a node without news."""
QUIET = 5.0
"""Seconds without a byte read until readers without reports count as gone."""
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class ReportedNode:
    """A node below the publisher, as of its last report.

    Attributes:
        name: name of the node, or its id.
        age: seconds since the report.
        hops: hops below the publisher; 1 for a direct follower.
        has_newest: whether the node has the publisher's newest version.
    """

    name: str
    age: float
    hops: int
    has_newest: bool


def max_wait(wait: float | None) -> float:
    """Return the seconds after which a publisher ends in any case.

    ``wait``: requested seconds to stay; None for none.
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
    """Return in words why a publisher does not end yet; None when it may end.

    The caller compares ``waited`` with ``max_wait(wait)``; this function ignores the limit.

    Args:
        newest: the newest complete version; None when nothing was published.
        nodes: the nodes below.
        feeds: number of open feeds; each belongs to a node that reports within a second.
        read_age: seconds since the last read of a shard's byte; infinity for never.
        waited: seconds since the request to end.
        wait: minimum seconds to stay; 0 to end at once; None to stay only as long as useful.
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
    # A reader without reports may be between two requests, or may not have seen the newest version yet;
    # a node that has just connected has yet to report.
    unheard = not heard or feeds > sum(node.hops <= 1 for node in heard)
    quiet = min(read_age, waited) if unheard else read_age
    return f"{newest}: {QUIET:g} s without a byte read" if quiet < QUIET else None


def _names(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        *others, last = names
        return f"{', '.join(others)} and {last}" if others else last
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"
