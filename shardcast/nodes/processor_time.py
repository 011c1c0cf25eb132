"""The time a thread has computed, or waited for a processor in use by other threads."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULED = Path("/proc/thread-self/schedstat")
"""Nanoseconds of the calling thread on a processor, and waiting for one (Linux only)."""


def busy_seconds() -> float:
    """Return the seconds in which the calling thread had work to compute, since its start.

    On systems without the time of waiting for a processor, only the time of running counts.
    """
    try:
        ran, waited = _SCHEDULED.read_text().split()[:2]
        return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):
        return time.thread_time()
