"""Which blobs of a store can go, and when.

A blob goes in two phases, two runs that are a grace time apart: the first marks it, the second removes it
when nobody put it again or refers to it by then. So whoever was about to refer to it has that time to do so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Decision(Enum):
    """What becomes of a blob."""

    KEEP = "keep"
    MARK = "mark"
    WAIT = "wait"
    """It is marked, and the grace time isn't over."""
    UNMARK = "unmark"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Blob:
    """What is known of a blob. Times are in seconds since 1970.

    Attributes:
        written: when its bytes were written.
        touched: when it was written, put again or marked, whichever was last.
        marked: whether it is marked, and was not put again since.
    """

    written: float
    touched: float
    marked: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What a run goes by, in seconds.

    Attributes:
        older_than: how old a blob must be to go that nobody refers to; None when none of them goes.
        grace: between the two phases, and in which what was put is left alone.
    """

    older_than: float | None
    grace: float


def decide(blob: Blob, referenced: bool, rules: Rules, now: float) -> Decision:
    """What becomes of a blob, ``now`` being when its references began to be read."""
    if referenced or rules.older_than is None or blob.written > now - rules.older_than:
        return Decision.UNMARK if blob.marked else Decision.KEEP
    if blob.marked:
        return Decision.WAIT if blob.touched > now - rules.grace else Decision.REMOVE
    if blob.touched > now - max(rules.older_than, rules.grace):
        return Decision.KEEP
    return Decision.MARK
