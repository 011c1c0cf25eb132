"""Ids added and removed between the previous snapshot and a new one."""

from __future__ import annotations

from collections.abc import Iterable

from shardcast.backup.ids import ID_SIZE

MAX_CHANGES = 1 << 18
"""Maximum number of changed ids; beyond, the whole list is sent. Bounds the memory."""


class IdChanges:
    """The ids of new parts of a snapshot, and of parts of the previous one that changed or were removed."""

    def __init__(self) -> None:
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    @property
    def too_many(self) -> bool:
        """Whether the whole list is to be sent instead."""
        return len(self._new) + len(self._old) > MAX_CHANGES

    def add_new(self, joined: bytes) -> None:
        """Add the ids, joined, of a new or rebuilt part."""
        if not self.too_many:
            self._new.update(split(joined))

    def add_old(self, joined: bytes) -> None:
        """Add the ids, joined, of a part of the previous snapshot, changed or removed since."""
        if not self.too_many:
            self._old.update(split(joined))

    def added(self) -> list[bytes]:
        """Return the ids of new parts that no changed or removed part had; wrong if ``too_many``."""
        return sorted(self._new - self._old)

    def removed(self, needed: Iterable[bytes]) -> list[bytes]:
        """Return the ids no longer needed; wrong if ``too_many``.

        Args:
            needed: all ids of the new snapshot, joined in strings: an id removed in one place may be needed
                in another.
        """
        gone = self._old - self._new
        for joined in needed if gone else ():
            gone.difference_update(split(joined))
        return sorted(gone)


def split(joined: bytes) -> list[bytes]:
    """Return a list of joined ids."""
    return [joined[at : at + ID_SIZE] for at in range(0, len(joined), ID_SIZE)]
