"""The decision on the removal of a store's blobs, and its time.

A blob is removed in two phases, by two runs a grace time apart: the first marks the blob; the second removes
it, unless put again or referenced by then. So a program about to refer to the blob has the grace time to do
so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Decision(Enum):
    """The fate of a blob in a run."""

    KEEP = "keep"
    MARK = "mark"
    WAIT = "wait"
    """Leave the mark: the grace time isn't over."""
    UNMARK = "unmark"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Blob:
    """The ages of a blob; times are in seconds since 1970.

    Attributes:
        written: time of the last write of its bytes.
        touched: time of the last write, repeated put or mark.
        marked: whether the blob is marked, and was not put again since.
    """

    written: float
    touched: float
    marked: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """The times of a run, in seconds.

    Attributes:
        older_than: the age from which an unreferenced blob is removed; None for no removal.
        grace: the time between the two phases, and the time after a put during which a blob is left alone.
    """

    older_than: float | None
    grace: float


def decide(blob: Blob, referenced: bool, rules: Rules, now: float) -> Decision:
    """Return the fate of a blob; ``now`` is when the roots began to be read."""
    if referenced or rules.older_than is None or blob.written > now - rules.older_than:
        return Decision.UNMARK if blob.marked else Decision.KEEP
    if blob.marked:
        return Decision.WAIT if blob.touched > now - rules.grace else Decision.REMOVE
    if blob.touched > now - max(rules.older_than, rules.grace):
        return Decision.KEEP
    return Decision.MARK
