"""Ages by the wall clock, which jumps, and which every machine has for itself.

No age is negative: a time in the future comes from a clock that was wrong. Taken as it is, it would keep a
lock or a temporary file until that time has come.
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
_MAX_SEEN = 1000
"""Names that ``ObservedAges`` remembers."""


def age(then: float, now: float) -> float:
    """Return the seconds since a time; 0 for a time in the future."""
    return max(0.0, now - then)


def is_future(then: float, now: float) -> bool:
    """Return whether a time is further in the future than the clocks of two machines may differ."""
    return then > now + CLOCK_SKEW


def age_of(path: Path, found: os.stat_result, clock: Callable[[], float] = time.time) -> float:
    """Return the seconds since a file was last written.

    An mtime in the future is set back to now, where that is allowed, so that the file grows old from now on.

    Args:
        path: the file.
        found: its state.
        clock: the wall clock.
    """
    now = clock()
    if is_future(found.st_mtime, now):
        with contextlib.suppress(OSError):
            os.utime(path, (now, now), follow_symlinks=False)
    return age(found.st_mtime, now)


class ObservedAges:
    """Ages of files that may not be touched.

    The age of a time in the future counts from the moment in which it was first seen, by a clock that doesn't
    jump.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        """Have seen nothing yet; ``steady`` is a clock that never jumps."""
        self._clock, self._steady = clock, steady
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def age(self, name: str, then: float) -> float:
        """Return the seconds since the time of ``name``."""
        now = self._clock()
        if then <= now:
            self.forget(name)
            return now - then
        known, since = self._seen.get(name, (None, 0.0))
        if known != then:
            since = self._steady()
            self._seen[name] = then, since
            while len(self._seen) > _MAX_SEEN:
                self._seen.popitem(last=False)
        return self._steady() - since

    def forget(self, name: str) -> None:
        """Forget a name that is gone."""
        self._seen.pop(name, None)
