"""The time that a thread has computed, or could not because other threads had the processors."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULED = Path("/proc/thread-self/schedstat")
"""Nanoseconds that the calling thread ran, and that it waited for a processor; Linux has it."""


def busy_seconds() -> float:
    """Return the seconds in which the calling thread had something to compute, since it began.

    Where the system does not tell for how long threads waited for a processor, only those that it ran.
    """
    try:
        ran, waited = _SCHEDULED.read_text().split()[:2]
        return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):
        return time.thread_time()
