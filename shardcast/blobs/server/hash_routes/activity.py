"""The time since a server's last request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Activity:
    """A count of the requests under way, and the time of the last one.

    Attributes:
        requests: number of requests being answered.
        last: time of the last beginning or end of a request, by the clock (seconds).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.requests = 0
        self.last = clock()

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while the context is entered."""
        self.requests += 1
        self.last = self._clock()
        try:
            yield
        finally:
            self.requests -= 1
            self.last = self._clock()

    def idle_seconds(self) -> float:
        """Return the seconds since the last request ended; 0 while one is being answered."""
        return 0.0 if self.requests else self._clock() - self.last
