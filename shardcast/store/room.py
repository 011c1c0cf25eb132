"""The room that the versions of a data directory may take: claimed before it is filled, made by retiring."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shardcast.errors import NoRoom
from shardcast.policy.retention import room_for
from shardcast.sizes import format_count, format_size
from shardcast.store.aside import AsideVersion, AsideVersions
from shardcast.store.complete import CompleteVersions
from shardcast.store.holds import Holds
from shardcast.store.open_version import OpenVersion
from shardcast.wire import version_name

log = logging.getLogger(__name__)


class Unlisted(Protocol):
    """What else is in the directory, and how it gives way."""

    @property
    def provisional(self) -> set[int]:
        """The complete versions that the authority does not list."""

    def unlisted_sizes(self) -> Mapping[int, int]:
        """Return the bytes of what is here and not listed, by number; it goes before any listed version."""

    async def drop_unlisted(self, number: int) -> None:
        """Remove one of these."""

    async def drop_aside(self, one: AsideVersion, why: str) -> None:
        """Remove a version of another line, if it is still there."""

    def takes_from_firm(self, number: int) -> bool:
        """Return whether listed versions may go for an open one; else only provisional ones may."""

    async def retire(self, number: int) -> None:
        """Have a complete version go."""


class Room:
    """The room of a data directory's versions.

    Attributes:
        most: bytes that they may take; None for no bound.
    """

    def __init__(
        self,
        root: Path,
        most: int | None,
        complete: CompleteVersions,
        opened: Mapping[int, OpenVersion],
        holds: Holds,
        others: Unlisted,
        aside: AsideVersions,
    ) -> None:
        """``complete``, ``opened`` and ``aside``: the versions in the directory ``root``, as they are at any
        time."""
        self.most = most
        self._root = root
        self._complete = complete
        self._open = opened
        self._holds = holds
        self._others = others
        self._aside = aside
        self._claimed: dict[int, int] = {}  # bytes that open versions may take
        self._claiming = asyncio.Lock()

    @property
    def used(self) -> int:
        """Bytes that the versions take, or may take: those that are open claim them before they come. What
        was put aside counts; as it goes for bytes that come, this can be more than ``most`` meanwhile."""
        return self._claimed_by_all + sum(one.complete.size for one in self._droppable)

    @property
    def _claimed_by_all(self) -> int:
        """Bytes that nothing which was put aside can be dropped for."""
        opened = (max(one.bytes_here, self._claimed.get(number, 0)) for number, one in self._open.items())
        aside = self._aside.size - sum(one.complete.size for one in self._droppable)
        return sum(self._complete.sizes.values()) + sum(opened) + self._withdrawn_size + aside

    @property
    def _taken(self) -> int:
        """Bytes that are on the disk, or reserved there for shards that are arriving."""
        opened = sum(one.bytes_reserved for one in self._open.values())
        return sum(self._complete.sizes.values()) + opened + self._withdrawn_size + self._aside.size

    @property
    def _withdrawn_size(self) -> int:
        unlisted = self._others.unlisted_sizes()
        return sum(size for number, size in unlisted.items() if number not in self._open)

    @property
    def _droppable(self) -> list[AsideVersion]:
        return self._aside.droppable(line_has_one=bool(self._complete.numbers))

    def begin(self, number: int) -> None:
        """A version is open; what is here of it is claimed, more of it before it comes."""
        self._claimed[number] = self._open[number].bytes_here

    def let_go(self, number: int) -> None:
        """A version is not open any more."""
        self._claimed.pop(number, None)

    async def claim(self, number: int, size: int) -> None:
        """See to it that an open version can take ``size`` bytes in all, at the cost of older ones that are
        not pinned.

        Raises:
            NoRoom: it can't.
        """
        async with self._claiming:
            if number not in self._open:
                return
            self._claimed[number], before = size, self._claimed[number]
            try:
                while self._over:  # what is in the way may be pinned at any moment
                    spare, going = self._spare(number), self.in_the_way(number)
                    if self._over > self._free_by(spare, going):
                        raise self._no_room(number, size)
                    if spare:
                        await self._others.drop_unlisted(min(spare))
                        continue
                    log.info("retired %s: its room is needed", version_name(going[0]))
                    await self._others.retire(going[0])
            except BaseException:
                if number in self._open:
                    self._claimed[number] = before
                raise

    async def claim_beside(self, opened: OpenVersion, coming: int) -> None:
        """See to it that the next shard of a version that is received beside the current line has room, at
        the cost of what was put aside and of nothing else.

        Raises:
            NoRoom: it has none.
        """
        if self.most is not None:
            if self._claimed_by_all + coming > self.most:
                raise self._no_room(opened.number, opened.live.size)
            await self.make_room(coming)

    async def make_room(self, coming: int) -> None:
        """Drop what was put aside, the oldest first, as far as bytes that are here and ``coming`` need it."""
        async with self._claiming:
            while self.most is not None and self._taken + coming > self.most and (going := self._droppable):
                await self._others.drop_aside(going[0], "its room is needed")

    async def free_disk(self, needed: int) -> bool:
        """Drop something that was put aside, since the disk is full; returns whether to try again. Nothing
        goes for what would not fit even without all of it."""
        async with self._claiming:
            going = self._droppable
            sizes = await asyncio.to_thread(lambda: [_freed_by(one) for one in going])
            free = await asyncio.to_thread(_free_on_disk, self._root)
            if not sum(sizes) or free + sum(sizes) < needed:
                return False
            await self._others.drop_aside(
                next(one for one, size in zip(going, sizes, strict=True) if size), "the disk is full"
            )
            return True

    def check(self, number: int, size: int) -> None:
        """
        Raises:
            NoRoom: a version of so many bytes could not be taken.
        """
        if self.most is not None:
            over = self._claimed_by_all - self._claimed.get(number, 0) + size - self.most
            spare = self._spare(number)
            if over > self._free_by(spare, self._going(number, over - sum(spare.values()))):
                raise self._no_room(number, size)

    def in_the_way(self, number: int) -> list[int]:
        """The versions that can go so that this one has room; none while there is enough."""
        return self._going(number, self._over - sum(self._spare(number).values()))

    def to_retire(self, provisional: Collection[int]) -> list[int]:
        """Return the versions to retire until they take no more than they may, provisional ones first."""
        firm = self._complete.numbers - set(provisional)
        first = room_for(max(provisional, default=0) + 1, self._over, self._sizes(provisional), *self._held())
        left = self._over - sum(self._complete.sizes[one] for one in first)
        return first + room_for(max(firm, default=0), left, self._sizes(firm), *self._held())

    def _going(self, number: int, needed: int) -> list[int]:
        firm = self._others.takes_from_firm(number)
        sizes = self._complete.sizes if firm else self._sizes(self._others.provisional)
        return room_for(number, needed, sizes, *self._held())

    def _spare(self, number: int) -> dict[int, int]:
        """Bytes of what goes before any listed version, but for this one."""
        unlisted = self._others.unlisted_sizes()
        return {one: max(size, self._claimed.get(one, 0)) for one, size in unlisted.items() if one != number}

    def _sizes(self, numbers: Collection[int]) -> dict[int, int]:
        return {number: size for number, size in self._complete.sizes.items() if number in numbers}

    def _held(self) -> tuple[Collection[int], Collection[int]]:
        return self._holds.pinned, self._holds.read()

    def _free_by(self, spare: Mapping[int, int], going: Sequence[int]) -> int:
        return sum(spare.values()) + sum(self._complete.sizes[one] for one in going)

    @property
    def _over(self) -> int:
        """Bytes beyond what the versions may take."""
        return 0 if self.most is None else max(0, self._claimed_by_all - self.most)

    def _no_room(self, number: int, size: int) -> NoRoom:
        names = ", ".join(map(version_name, sorted(self._holds.pinned)))
        pinned = names and (self.most or 0) >= size
        why = f"{names} pinned here, `shardcast unpin` some or" if pinned else "nothing older can go;"
        kept = len(list(self._aside)) - len(self._droppable)
        if kept and not pinned:
            why = f"{format_count(kept, 'version')} of another line can't go yet;"
        return NoRoom(
            f"no room for {version_name(number)} with {format_size(size)}: the versions in "
            f"{self._root} may take {format_size(self.most or 0)}; {why} allow more with "
            "--max-bytes"
        )


def _freed_by(one: AsideVersion) -> int:
    """Bytes that come free with a version's folder: not those of files that other versions share."""
    try:
        found = [entry.stat() for entry in one.place.folder.iterdir()]
    except OSError:
        return 0
    return sum(stat.st_blocks * 512 for stat in found if stat.st_nlink == 1)


def _free_on_disk(root: Path) -> int:
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize
