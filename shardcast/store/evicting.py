"""What can go from a data directory for the room of another version: measured, and removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shardcast.policy.eviction import FIRST, UNLISTED, Removable, may_go
from shardcast.protocol.wire import version_name
from shardcast.store.aside import AsideVersion, AsideVersions
from shardcast.store.completed import CompleteVersions
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskUsage, disk_space, freeable, held_open
from shardcast.store.holds import Holds

log = logging.getLogger(__name__)

_SETTLING, _LOOK_AGAIN = 1.0, 0.05
"""Seconds in which the blocks of removed files come free at the latest, and between two looks."""


class Unlisted(Protocol):
    """What else is in the directory, and how it gives way."""

    own_line: bool

    @property
    def provisional(self) -> set[int]:
        """The complete versions that the authority does not list."""

    def unlisted_numbers(self) -> set[int]:
        """Return what is here and not listed, by number; it goes before any listed version."""

    async def drop_unlisted(self, number: int) -> None:
        """Remove one of these."""

    async def drop_aside(self, one: AsideVersion, why: str) -> None:
        """Remove a version of another line, if it is still there."""

    def is_known(self, number: int) -> bool:
        """Return whether the authority lists a version, or did."""

    def takes_from_firm(self, number: int) -> bool:
        """Return whether listed versions may go for an open one; else only provisional ones may."""

    async def retire(self, number: int, even_pinned: bool = False, even_leased: bool = True) -> None:
        """Have a complete version go."""


@dataclass(frozen=True)
class EvictionCandidate:
    """A version that may go.

    Attributes:
        key: which one.
        order: what goes first has the least.
        folder: where its files are.
        newest: whether it is the newest complete one.
    """

    key: Hashable
    order: tuple[int, ...]
    folder: Path
    newest: bool = False


class Evicting:
    """The versions that may go for another one; for the event loop.

    Attributes:
        offered: versions that upstreams offer; what they don't goes last.
    """

    def __init__(
        self,
        data_dir: DataDir,
        complete: CompleteVersions,
        holds: Holds,
        others: Unlisted,
        aside: AsideVersions,
        usage: DiskUsage,
    ) -> None:
        self.offered: Collection[int] = ()
        self._data_dir = data_dir
        self._complete = complete
        self._holds = holds
        self._others = others
        self._aside = aside
        self._usage = usage

    @property
    def droppable(self) -> list[AsideVersion]:
        """What was put aside and may go."""
        return self._aside.droppable(line_has_one=bool(self._complete.numbers))

    def aside(self) -> list[EvictionCandidate]:
        """Return what was put aside; it goes first."""
        return [
            EvictionCandidate(one, (FIRST, place), one.place.folder)
            for place, one in enumerate(self.droppable)
        ]

    def older(self, number: int) -> list[EvictionCandidate]:
        """Return what else may go for a version: what is not listed, then older ones."""
        unlisted = sorted(self._others.unlisted_numbers() - {number})
        found = [
            EvictionCandidate(("unlisted", one), (UNLISTED, one), self._data_dir.folder(one))
            for one in unlisted
        ]
        here = self._complete.numbers
        free = here if self._others.takes_from_firm(number) else here & self._others.provisional
        pinned, read = self._holds.pinned, self._holds.read()
        if self._others.own_line:  # its publisher decides, whoever reads
            newest, last = 0, max((one for one in free if one < number), default=0)
            order = may_go(number, free, pinned, (), read, here)
            order = {one: (rank[0], one == last, *rank[1:]) for one, rank in order.items()}
        else:
            newest = max(here, default=0)
            order = may_go(number, free, pinned, self._holds.leased(), read, self.offered)
        for one, rank in order.items():
            complete = self._complete.get(version_name(one))
            assert complete
            found.append(EvictionCandidate(one, rank, complete.place.folder, one == newest))
        return found

    async def measured(self, candidates: list[EvictionCandidate], on_disk: bool) -> list[Removable]:
        """Return what comes free with each: on the disk, or else of what counts for ``--max-bytes``."""
        if on_disk:
            return await asyncio.to_thread(_measure, candidates)
        counted = [(one, self._usage.freeable(one.folder)) for one in candidates]
        return [Removable(one.key, one.order, x.alone, x.shared, x.names, one.newest) for one, x in counted]

    async def remove(self, key: Hashable, expected: int, why: str) -> int:
        """Remove one of them, and wait a moment for the ``expected`` bytes to come free. Returns the bytes
        that are counted no more and did not: others hold them.

        Raises:
            LocalDiskError: it can't be removed.
        """
        counted = self._usage.total
        before = await asyncio.to_thread(disk_space, self._data_dir.root)
        if isinstance(key, AsideVersion):
            await self._others.drop_aside(key, why)
        elif isinstance(key, tuple):
            await self._others.drop_unlisted(key[1])
        else:
            assert isinstance(key, int)
            log.info("retired %s: %s", version_name(key), why)
            await self._others.retire(key, even_leased=self._others.own_line)
        deadline = asyncio.get_running_loop().time() + _SETTLING
        while True:
            after = await asyncio.to_thread(disk_space, self._data_dir.root)
            came_free = before.used - after.used
            if came_free >= expected or asyncio.get_running_loop().time() > deadline:
                return max(0, counted - self._usage.total - max(0, came_free))
            await asyncio.sleep(_LOOK_AGAIN)


def _measure(candidates: list[EvictionCandidate]) -> list[Removable]:
    held = held_open()
    found = [(one, freeable(one.folder, held)) for one in candidates]
    return [Removable(one.key, one.order, x.alone, x.shared, x.names, one.newest) for one, x in found]
