"""Exponential backoff: the pause before the next attempt, doubled after each failure up to a bound."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_MAX_DOUBLINGS = 30
"""Doublings after which a pause grows no more; 2.0**1024 would overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounds of the pauses between attempts.

    Attributes:
        first: seconds of the pause after the first failure.
        longest: upper bound of every pause, in seconds.
    """

    first: float
    longest: float

    def pause(self, failures: int) -> float:
        """Return the seconds to pause after ``failures`` earlier failures in a row and one more."""
        return min(self.first * 2.0 ** min(failures, _MAX_DOUBLINGS), self.longest)

    def spread(self, failures: int, random: Random) -> float:
        """Return half to all of the same pause, at random.

        Nodes that lost a server at the same moment then return one by one instead of storming the server.
        """
        return self.pause(failures) * random.uniform(0.5, 1.0)
