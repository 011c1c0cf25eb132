"""The versions removable in favour of another one, and the bytes freed with each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shardcast.policy.eviction import FIRST, PARTIAL, UNLISTED, Removable, eviction_order
from shardcast.policy.retention import versions_to_retire
from shardcast.protocol.wire import version_name
from shardcast.store.aside_version import AsideVersion
from shardcast.store.disk_usage import Freeable, freeable, held_open
from shardcast.store.inventory import Inventory
from shardcast.store.space_ledger import SpaceLedger


@dataclass(frozen=True)
class EvictionCandidate:
    """A removable version.

    Attributes:
        key: the version: an ``AsideVersion``, ``(rank, number)`` of an unlisted or partial one, or the number
            of a complete one.
        order: rank; the lowest goes first.
        folder: folder of the files.
        newest: whether this is the newest complete one.
        arriving: bytes on the disk of incomplete shards, missing in the count of files.
    """

    key: Hashable
    order: tuple[int, ...]
    folder: Path
    newest: bool = False
    arriving: int = 0


class EvictionCandidates:
    """The versions removable in favour of another one; for the event loop.

    Attributes:
        offered: versions on offer at upstreams; others go last.
    """

    def __init__(self, inventory: Inventory, ledger: SpaceLedger) -> None:
        self.offered: Collection[int] = ()
        self._inventory = inventory
        self._ledger = ledger

    @property
    def droppable(self) -> list[AsideVersion]:
        """Removable versions put aside."""
        return self._inventory.aside.droppable(line_has_one=bool(self._inventory.complete.numbers))

    def aside(self) -> list[EvictionCandidate]:
        """Return the removable versions put aside; they go first."""
        return [
            EvictionCandidate(version, (FIRST, place), version.place.folder)
            for place, version in enumerate(self.droppable)
        ]

    def older(self, number: int) -> list[EvictionCandidate]:
        """Return the other candidates: unlisted versions, then parts of older ones, then older ones."""
        inventory, holds = self._inventory, self._inventory.holds
        found = [
            EvictionCandidate((UNLISTED, other), (UNLISTED, other), inventory.data_dir.folder(other))
            for other in sorted(inventory.unlisted - {number})
        ]
        found += self._partial(number)
        here = inventory.complete.numbers
        free = here if inventory.may_evict_firm(number) else here & inventory.provisional
        pinned, read = holds.pinned, holds.recently_read()
        if inventory.own_line:  # its publisher decides, whoever reads
            newest, last = 0, max((other for other in free if other < number), default=0)
            order = eviction_order(number, free, pinned=pinned, leased=(), read=read, offered=here)
            order = {other: (rank[0], other == last, *rank[1:]) for other, rank in order.items()}
        else:
            newest = max(here, default=0)
            order = eviction_order(
                number, free, pinned=pinned, leased=holds.leased(), read=read, offered=self.offered
            )
        for other, rank in order.items():
            complete = inventory.complete.get(version_name(other))
            assert complete
            found.append(EvictionCandidate(other, rank, complete.place.folder, other == newest))
        return found

    def _partial(self, number: int) -> Iterator[EvictionCandidate]:
        """Yield the older versions that are here in part and not being fetched.

        Their servers may no longer have them; kept for ever, such parts would leave no room for later
        versions.
        """
        inventory = self._inventory
        if inventory.own_line or not inventory.may_evict_firm(number):
            return
        for other in sorted(inventory.open.keys() - inventory.hidden):
            opened = inventory.open[other]
            if other < number and not self._ledger.is_fetched(other):
                yield EvictionCandidate(
                    (PARTIAL, other), (PARTIAL, other), opened.place.folder, arriving=opened.space.arriving
                )

    async def measured(self, candidates: list[EvictionCandidate], *, on_disk: bool) -> list[Removable]:
        """Return the bytes freed with each: on the disk, or else of the count for ``--max-bytes``."""
        if on_disk:
            return await asyncio.to_thread(_measure_on_disk, candidates)
        usage = self._inventory.usage
        return [
            _removable(candidate, usage.freeable(candidate.folder), candidate.arriving)
            for candidate in candidates
        ]

    def surplus(self, taken: int, max_bytes: int, provisional: Collection[int]) -> list[int]:
        """Return the versions to retire until all take no more than ``max_bytes``, provisional ones first.

        Args:
            taken: bytes of all versions on the disk.
            max_bytes: maximum of these bytes.
            provisional: complete versions without the word of the authority.
        """
        holds = self._inventory.holds
        aside = sum(self._inventory.usage.of(version.place.folder) for version in self.droppable)
        over, pinned, read = taken - aside - max_bytes, holds.pinned, holds.recently_read()
        firm = self._inventory.complete.numbers - set(provisional)
        first = versions_to_retire(
            max(provisional, default=0) + 1, over, self._sizes(provisional), pinned=pinned, read=read
        )
        left = over - sum(self._sizes(first).values())
        return first + versions_to_retire(
            max(firm, default=0), left, self._sizes(firm), pinned=pinned, read=read
        )

    def _sizes(self, numbers: Iterable[int]) -> dict[int, int]:
        """Return the bytes on the disk of complete versions, by number."""
        found = {number: self._inventory.complete.get(version_name(number)) for number in numbers}
        usage = self._inventory.usage
        return {number: usage.of(complete.place.folder) for number, complete in found.items() if complete}


def _measure_on_disk(candidates: list[EvictionCandidate]) -> list[Removable]:
    held = held_open()
    return [_removable(candidate, freeable(candidate.folder, held)) for candidate in candidates]


def _removable(candidate: EvictionCandidate, free: Freeable, arriving: int = 0) -> Removable:
    alone = free.alone + arriving
    return Removable(candidate.key, candidate.order, alone, free.shared, free.names, candidate.newest)
