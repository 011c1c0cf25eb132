"""Dates as people read them."""

from __future__ import annotations

import time


def shown_time(seconds: float, *, with_seconds: bool = False) -> str:
    """Return a time since 1970 as local date and time; as a number where no calendar has the year.

    Files have any time: a copy from a damaged disk or a wrong clock may be of year 300 000 000.
    """
    try:
        return time.strftime("%Y-%m-%d %H:%M" + ":%S" * with_seconds, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(int(seconds))
