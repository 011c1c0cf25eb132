"""How fast the bytes of a transfer arrive, by whom they come from, over the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

_SECONDS = 2.0
"""Seconds of measuring a rate: a handed-out piece counts once whole."""


class ArrivalRates:
    """The rates of the sources of one transfer, for people: ranges and single pieces count alike.

    The ranking of servers has other rates, over the seconds of a server's answers only, so an idle server
    keeps its rate.
    """

    def __init__(self) -> None:
        """Know no source."""
        self._looks: deque[tuple[float, dict[str, int]]] = deque()

    def observe(self, now: float, received: Mapping[str, int]) -> None:
        """Note how many bytes have come from each source by ``now``, in seconds."""
        self._looks.append((now, dict(received)))
        while len(self._looks) > 2 and self._looks[1][0] <= now - _SECONDS:
            self._looks.popleft()

    def of(self, source: str) -> float:
        """Return the bytes a second from a source."""
        if len(self._looks) < 2:
            return 0.0
        (since, before), (until, after) = self._looks[0], self._looks[-1]
        new = after.get(source, 0) - before.get(source, 0)
        return max(0.0, new / max(until - since, 1e-6))
