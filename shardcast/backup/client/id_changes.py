"""How the ids that a snapshot needs differ from those of the one before."""

from __future__ import annotations

from collections.abc import Iterable

from shardcast.backup.ids import ID_SIZE

MAX_CHANGES = 1 << 18
"""Ids beyond which the whole list is sent instead: this bounds the memory."""


class IdChanges:
    """The ids of what is new in a snapshot, and of what was in the one before and is no more."""

    def __init__(self) -> None:
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    @property
    def too_many(self) -> bool:
        """Whether the whole list is to be sent instead."""
        return len(self._new) + len(self._old) > MAX_CHANGES

    def add_new(self, joined: bytes) -> None:
        """Note ids, joined, of what is new or was made anew."""
        if not self.too_many:
            self._new.update(split(joined))

    def add_old(self, joined: bytes) -> None:
        """Note ids, joined, of what was there before, at a place that changed."""
        if not self.too_many:
            self._old.update(split(joined))

    def added(self) -> list[bytes]:
        """Return the ids that are new."""
        return sorted(self._new - self._old)

    def removed(self, needed: Iterable[bytes]) -> list[bytes]:
        """Return the ids that are not needed any more.

        Args:
            needed: all ids of the new snapshot, joined in strings: an id that went from one place may be at
                another one.
        """
        gone = self._old - self._new
        for joined in needed if gone else ():
            gone.difference_update(split(joined))
        return sorted(gone)


def split(joined: bytes) -> list[bytes]:
    """Return ids that are joined."""
    return [joined[at : at + ID_SIZE] for at in range(0, len(joined), ID_SIZE)]
