"""Where arriving pieces are verified and written: on the event loop, or in threads."""

from __future__ import annotations

WINDOW_SECONDS = 1.0
"""Seconds of the window over which the time for pieces is added up."""
MAX_SHARE = 0.25
"""Maximum share of the window for pieces on the loop. At 100 Mbit/s they take a hundredth of the window; a
thread for each piece would cost 1.3 CPU seconds a GiB."""
MAX_SECONDS = 0.1
"""Maximum seconds for one piece on the loop: all other tasks of a node wait meanwhile."""
THREADS_SECONDS = 10.0
"""Seconds in threads after a slow piece, until the loop is tried again."""


class LandingPlace:
    """The choice of one node, by the seconds of the event loop spent on the last pieces.

    The loop is cheaper, and threads are patient: a slow disk holds up one of them, and many of them use all
    processors where pieces come fast.
    """

    __slots__ = ("_since", "_taken", "_threads_until")

    def __init__(self) -> None:
        self._since = float("-inf")  # the beginning of the window
        self._taken = 0.0  # seconds of it
        self._threads_until = float("-inf")

    def is_loop(self, now: float) -> bool:
        """Return whether the next piece is verified and written on the loop."""
        return now >= self._threads_until

    def took(self, began: float, ended: float) -> None:
        """Record a piece verified and written on the loop, by the times of its beginning and end.

        After a slow piece, or too large a share of the window, ``is_loop`` is False for a while.
        """
        if began - self._since >= WINDOW_SECONDS:
            self._since, self._taken = began, 0.0
        self._taken += ended - began
        if ended - began >= MAX_SECONDS or self._taken >= MAX_SHARE * WINDOW_SECONDS:
            self._threads_until = ended + THREADS_SECONDS
