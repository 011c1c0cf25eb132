"""The agenda of a simulation: what happens when, and the time that it is."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Agenda:
    """Actions in the order of their times.

    Attributes:
        now: the time, in seconds since the beginning.
        events: actions carried out so far.
        ended: whether to carry out nothing more.
    """

    __slots__ = ("_entries", "_number", "ended", "events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.ended = False
        self._number = 0
        self._entries: list[tuple[float, int, Callable[[Any], None], Any]] = []

    def at(self, time: float, action: Callable[[Any], None], argument: Any = None) -> None:
        """Enter an action; those of the same time happen in the order in which they were entered."""
        self._number += 1
        heappush(self._entries, (time, self._number, action, argument))

    def run(self, until: float) -> None:
        """Carry out what is entered, until a time or until ``ended`` is set."""
        entries = self._entries
        while entries and not self.ended:
            self.now, _, action, argument = heappop(entries)
            if self.now > until:
                return
            self.events += 1
            action(argument)
