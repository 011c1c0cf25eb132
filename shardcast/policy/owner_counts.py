"""Counts per owner, with the owner of the highest count."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


class OwnerCounts(Generic[Owner]):
    """Counts per owner.

    Every operation takes constant time, so a client with invented owners slows nothing.
    """

    def __init__(self) -> None:
        self._counts: dict[Owner, int] = {}
        self._owners: dict[int, dict[Owner, None]] = {}  # by their counts
        self._most = 0

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, owner: Owner) -> None:
        """Count one more for an owner."""
        self._set(owner, self._counts.get(owner, 0) + 1)

    def remove(self, owner: Owner) -> None:
        """Count one less for an owner."""
        self._set(owner, self._counts[owner] - 1)

    def largest(self) -> Owner:
        """Return the owner with the highest count; of several, the first to reach this count."""
        return next(iter(self._owners[self._most]))

    def _set(self, owner: Owner, count: int) -> None:
        before = self._counts.pop(owner, 0)
        if before:
            del self._owners[before][owner]
            if not self._owners[before]:
                del self._owners[before]
        if count:
            self._counts[owner] = count
            self._owners.setdefault(count, {})[owner] = None
        if count > self._most or self._most not in self._owners:
            self._most = count  # counts change by one, so the next largest is this one's
