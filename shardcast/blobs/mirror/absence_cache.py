"""The blobs recently found at no server, not to be asked for again at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from shardcast.blobs.mirror.pending_fetch import Via, Wanted

_MAX_ENTRIES = 100_000
"""Maximum absent blobs to remember; the oldest entries go first."""


class AbsenceCache:
    """The requests without any server of their blob, each remembered for ``seconds``."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._until: OrderedDict[tuple[Wanted, Via], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, wanted: Wanted, via: Via) -> None:
        """Remember the absence of a blob, requested through the nodes ``via``, at all servers."""
        self._until[wanted, via] = self._clock() + self._seconds
        self._until.move_to_end((wanted, via))
        while len(self._until) > _MAX_ENTRIES:
            self._until.popitem(last=False)

    def has(self, wanted: Wanted, via: Via) -> bool:
        """Return whether a blob is known to be absent for requests through the nodes ``via``."""
        until = self._until.get((wanted, via))
        if until is not None and until <= self._clock():
            del self._until[wanted, via]
            until = None
        return until is not None
