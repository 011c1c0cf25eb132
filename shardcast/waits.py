"""What a reader waits for now, for whoever tells a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that is waited for.

    Attributes:
        seconds: for how long.
        what: what, and from whom: ``an answer of http://10.0.0.1:8000 (no connection)``.
    """

    seconds: float
    what: str


WaitSource = Callable[[], Wait | None]
"""Tells what is waited for; None while nothing is."""


class Waits:
    """All that one client waits for; what was begun last is what holds it up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys = count()
        self._sources: dict[int, WaitSource] = {}

    def now(self, least: float = 0.0) -> Wait | None:
        """Return what has been waited for these ``least`` seconds or longer; None where nothing has."""
        for source in reversed(self._sources.values()):
            wait = source()
            if wait is not None and wait.seconds >= least:
                return wait
        return None

    @contextmanager
    def watching(self, source: WaitSource) -> Iterator[None]:
        """Ask ``source`` too while the block runs."""
        key = next(self._keys)
        self._sources[key] = source
        try:
            yield
        finally:
            del self._sources[key]

    @contextmanager
    def waiting(self, what: Callable[[], str]) -> Iterator[None]:
        """Count what happens in the block as one wait."""
        started = self._clock()
        with self.watching(lambda: Wait(self._clock() - started, what())):
            yield
