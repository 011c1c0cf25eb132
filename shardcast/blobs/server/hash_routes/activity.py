"""Whether anybody wants anything of a server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Activity:
    """When somebody last wanted something.

    Attributes:
        requests: how many are being answered now.
        last: when one last began or ended, by the clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.requests = 0
        self.last = clock()

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        self.requests += 1
        self.last = self._clock()
        try:
            yield
        finally:
            self.requests -= 1
            self.last = self._clock()

    def idle(self) -> float:
        """Seconds for which nobody wanted anything."""
        return 0.0 if self.requests else self._clock() - self.last
