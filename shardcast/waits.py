"""The current waits of a client, to be shown to a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait.

    Attributes:
        seconds: duration so far.
        what: the awaited event, and the server: ``an answer of http://10.0.0.1:8000 (no connection)``.
        is_idle: whether a long wait is normal, as for the next version: then one note is enough.
    """

    seconds: float
    what: str
    is_idle: bool = False


WaitSource = Callable[[], Wait | None]
"""Returns the current wait; None while there is none."""


class Waits:
    """The waits of one client; the newest wait holds the client up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Wait for nothing yet."""
        self._clock = clock
        self._keys = count()
        self._sources: dict[int, WaitSource] = {}

    def now(self, min_seconds: float = 0.0) -> Wait | None:
        """Return the latest wait of ``min_seconds`` seconds or more; None where there is none."""
        for source in reversed(self._sources.values()):
            wait = source()
            if wait is not None and wait.seconds >= min_seconds:
                return wait
        return None

    @contextmanager
    def watching(self, source: WaitSource) -> Iterator[None]:
        """Consult ``source`` while the block runs."""
        key = next(self._keys)
        self._sources[key] = source
        try:
            yield
        finally:
            del self._sources[key]

    @contextmanager
    def waiting(self, what: Callable[[], str]) -> Iterator[None]:
        """Show the block as one wait, with the description ``what()``."""
        started = self._clock()
        with self.watching(lambda: Wait(self._clock() - started, what())):
            yield
