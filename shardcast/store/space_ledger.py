"""The bytes of a data directory's versions on the disk, and those they may yet take."""

from __future__ import annotations

import asyncio

from shardcast.store.disk_usage import DiskSpace, disk_space
from shardcast.store.inventory import Inventory
from shardcast.store.open_version import OpenVersion


class SpaceLedger:
    """Counts of taken, claimed and fetched bytes on the disk.

    For the event loop only. The counts of threads are in ``usage`` and in each open version's ``space``, as
    running totals with locks of their own.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._claimed: dict[int, int] = {}  # bytes on the disk that versions may take which are published
        self._fetched: dict[int, int] = {}  # bytes that others had on the disk when each fetch began

    @property
    def used(self) -> int:
        """Bytes on the disk taken, or claimed by open versions before they come.

        At a middle older versions, and those aside, go as bytes come, so this can exceed the bound meanwhile.
        """
        return self.taken + sum(self.to_come(number) for number in self._inventory.open)

    @property
    def taken(self) -> int:
        """Bytes on the disk, or reserved there for arriving shards."""
        opened = (*self._inventory.open.values(), *self._inventory.aside.beside.values())
        return self._inventory.usage.total + sum(version.space.arriving for version in opened)

    def to_come(self, number: int) -> int:
        """Return the bytes an open version may take beside its present ones."""
        space = self._inventory.open[number].space
        if number in self._fetched and space.is_size_known:
            return space.missing_space
        return max(0, self._claimed.get(number, 0) - space.accounted_space)

    def promised(self, opened: OpenVersion | None) -> int:
        """Return the bytes open versions except ``opened`` may take beside their present ones."""
        versions = self._inventory.open.items()
        return sum(self.to_come(number) for number, version in versions if version is not opened)

    def foreign(self, space: DiskSpace) -> int:
        """Return the bytes of a disk taken by others."""
        return space.used - self.taken

    # Claims of published versions

    def claimed(self, number: int) -> int:
        """Return the bytes on the disk claimed by a version."""
        return self._claimed.get(number, 0)

    def claim(self, number: int, size: int) -> None:
        """Count ``size`` bytes on the disk as claimed by a version, in place of an earlier claim."""
        self._claimed[number] = size

    # Fetched versions

    async def begin_fetch(self, number: int) -> None:
        """Remember the bytes of other users of the disk at the beginning of a version's fetch."""
        self._fetched[number] = self.foreign(
            await asyncio.to_thread(disk_space, self._inventory.data_dir.root)
        )

    def end_fetch(self, number: int) -> None:
        """Count a version as fetched no longer; its missing bytes are not claimed any more."""
        self._fetched.pop(number, None)

    def is_fetched(self, number: int) -> bool:
        """Return whether a version is being fetched now."""
        return number in self._fetched

    def grown(self, number: int, space: DiskSpace | None) -> int:
        """Return the growth in bytes of other users of the disk since a version's fetch began."""
        return self.foreign(space) - self._fetched[number] if space and number in self._fetched else 0

    def keep_held(self, size: int) -> None:
        """Count ``size`` bytes of removed files as foreign from the beginning of each fetch.

        Readers still have them open, or clones share them: they are not bytes of other users of the disk.
        """
        for number in self._fetched:
            self._fetched[number] += size

    def drop(self, number: int) -> None:
        """Forget the claim and the fetch of a version no longer open."""
        self._claimed.pop(number, None)
        self._fetched.pop(number, None)
