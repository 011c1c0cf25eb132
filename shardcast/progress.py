"""How far a download or a broadcast has come, for programs that ask for it: plain values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shardcast.errors import UsageError

REPORT_INTERVAL = 0.1
"""Seconds between two calls of a program's function, at least."""
_RATE_SECONDS = 5.0
"""Seconds over which the rate is averaged."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a download or a broadcast.

    Attributes:
        version: the version's name; None while a broadcast to an origin elsewhere has none.
        done: bytes that are done: of a download those that are here and verified, also from an earlier run;
            of a broadcast those that are stored, or sent.
        size: bytes of the payload; None while unknown.
        rate: bytes a second, now; 0 in the first moments.
        received: bytes that came from each server, by its URL; of a client that shares also those of its
            neighbours, all together, as ``neighbours``. Empty for a broadcast.
    """

    version: str | None
    done: int
    size: int | None
    rate: float = 0.0
    received: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end at the present rate; None while size or rate are unknown."""
        if self.size is None or (self.done < self.size and not self.rate):
            return None
        return (self.size - self.done) / self.rate if self.done < self.size else 0.0


OnProgress = Callable[[Progress], object]
"""A function that a program wants to have called."""


def checked_progress(progress: OnProgress | bool | None) -> OnProgress | bool:
    """Return an argument ``progress``: a function, True for a bar, or False for neither.

    Raises:
        UsageError: it is something else.
    """
    if progress is None or isinstance(progress, bool):
        return bool(progress)
    if not callable(progress):
        raise UsageError(f"progress={progress!r} is no function; give one that takes a Progress, or True")
    return progress


class RecentRate:
    """The bytes a second of the last seconds."""

    def __init__(self) -> None:
        """Begin without a byte."""
        self._seen: deque[tuple[float, int]] = deque()

    def observe(self, now: float, done: int) -> float | None:
        """Note the bytes that are done by now, and return the rate; None while there is none yet."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        seconds = now - self._seen[0][0]
        return (done - self._seen[0][1]) / seconds if seconds > 0.5 else None
