"""Where the pieces that arrive are verified and written: on the event loop, or in threads."""

from __future__ import annotations

WINDOW_SECONDS = 1.0
"""Seconds over which the time that pieces take is added up."""
MAX_SHARE = 0.25
"""Part of the window that pieces may take of the loop. At 100 Mbit/s they take a hundredth of it; a thread
for each piece would cost 1.3 CPU seconds a GiB."""
MAX_SECONDS = 0.1
"""Seconds that one piece may hold up the loop: the others of a node wait meanwhile."""
THREADS_SECONDS = 10.0
"""Seconds for which threads take the pieces after that, until the loop is tried again."""


class LandingPlace:
    """The choice of one node, by how long its last pieces held up the event loop.

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
        """Note a piece that was verified and written on the loop."""
        if began - self._since >= WINDOW_SECONDS:
            self._since, self._taken = began, 0.0
        self._taken += ended - began
        if ended - began >= MAX_SECONDS or self._taken >= MAX_SHARE * WINDOW_SECONDS:
            self._threads_until = ended + THREADS_SECONDS
