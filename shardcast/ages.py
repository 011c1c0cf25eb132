"""Ages by the wall clock, which jumps, and which every machine has for itself.

No age is negative: a time that lies ahead comes from a clock that was wrong. Taken as it is, it would keep
what it stands for (a lock, a temporary file) for as long as it lies ahead.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

CLOCK_SKEW = 60.0
"""Seconds by which the clocks of two machines may differ without either being wrong."""
_MOST_SEEN = 1000


def age(then: float, now: float) -> float:
    """Return the seconds since a time; none since one that lies ahead."""
    return max(0.0, now - then)


def lies_ahead(then: float, now: float) -> bool:
    """Return whether a time lies further ahead than clocks may differ."""
    return then > now + CLOCK_SKEW


def age_of(path: Path, found: os.stat_result, clock: Callable[[], float] = time.time) -> float:
    """Return the seconds since something of ours was last written.

    A time that lies ahead is set back to now, where that is allowed, so that it grows old from here on.
    """
    now = clock()
    if lies_ahead(found.st_mtime, now):
        with contextlib.suppress(OSError):
            os.utime(path, (now, now), follow_symlinks=False)
    return age(found.st_mtime, now)


class AgesSeen:
    """Ages of what may not be touched. Those of times that lie ahead count from when they were first seen, by
    a clock that doesn't jump."""

    def __init__(
        self, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._steady = clock, steady
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def age(self, name: str, then: float) -> float:
        """Return the seconds since a time that ``name`` has."""
        now = self._clock()
        if then <= now:
            self.forget(name)
            return now - then
        known, since = self._seen.get(name, (None, 0.0))
        if known != then:
            since = self._steady()
            self._seen[name] = then, since
            while len(self._seen) > _MOST_SEEN:
                self._seen.popitem(last=False)
        return self._steady() - since

    def forget(self, name: str) -> None:
        """Forget what is gone."""
        self._seen.pop(name, None)
