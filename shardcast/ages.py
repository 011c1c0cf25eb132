"""Ages by the wall clock: this clock may jump, and clocks of machines differ.

No age is negative. A time in the future comes from a wrong clock; taken literally, it would keep a lock or a
temporary file until that time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

CLOCK_SKEW = 60.0
"""Seconds by which the clocks of two machines may differ and both count as right."""
_MAX_SEEN = 1000
"""Maximum names remembered by ``ObservedAges``."""


def age(then: float, now: float) -> float:
    """Return the seconds since a time; 0 for a time in the future."""
    return max(0.0, now - then)


def is_future(then: float, now: float) -> bool:
    """Return whether a time is further in the future than the clocks of two machines may differ."""
    return then > now + CLOCK_SKEW


def age_of(path: Path, found: os.stat_result, clock: Callable[[], float] = time.time) -> float:
    """Return the seconds since a file was last written.

    An mtime in the future is set to now, if allowed, so the file ages from now on.

    Args:
        path: the file.
        found: the file's ``stat``.
        clock: the wall clock.
    """
    now = clock()
    if is_future(found.st_mtime, now):
        with contextlib.suppress(OSError):
            os.utime(path, (now, now), follow_symlinks=False)
    return age(found.st_mtime, now)


class ObservedAges:
    """Ages of files whose times may not be set.

    The age of a time in the future counts from the first observation, by a clock that never jumps.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without observations; ``steady`` is a clock that never jumps."""
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
        """Forget the name of a removed file."""
        self._seen.pop(name, None)
