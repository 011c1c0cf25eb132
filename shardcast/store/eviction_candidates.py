"""The versions that may go for the room of another one, and what comes free with each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from shardcast.policy.eviction import FIRST, UNLISTED, Removable, eviction_order
from shardcast.policy.retention import versions_to_retire
from shardcast.protocol.wire import version_name
from shardcast.store.aside_version import AsideVersion
from shardcast.store.disk_usage import Freeable, freeable, held_open
from shardcast.store.inventory import Inventory


@dataclass(frozen=True)
class EvictionCandidate:
    """A version that may go.

    Attributes:
        key: which version: an ``AsideVersion``, ``("unlisted", number)``, or the number of a complete one.
        order: what goes first has the lowest.
        folder: where its files are.
        newest: whether it is the newest complete one.
    """

    key: Hashable
    order: tuple[int, ...]
    folder: Path
    newest: bool = False


class EvictionCandidates:
    """The versions that may go for another one; for the event loop.

    Attributes:
        offered: versions that upstreams offer; what they don't offer goes last.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.offered: Collection[int] = ()
        self._inventory = inventory

    @property
    def droppable(self) -> list[AsideVersion]:
        """What was put aside and may go."""
        return self._inventory.aside.droppable(line_has_one=bool(self._inventory.complete.numbers))

    def aside(self) -> list[EvictionCandidate]:
        """Return what was put aside; it goes first."""
        return [
            EvictionCandidate(version, (FIRST, place), version.place.folder)
            for place, version in enumerate(self.droppable)
        ]

    def older(self, number: int) -> list[EvictionCandidate]:
        """Return what else may go for a version: what is not listed, then older versions."""
        inventory, holds = self._inventory, self._inventory.holds
        found = [
            EvictionCandidate(("unlisted", other), (UNLISTED, other), inventory.data_dir.folder(other))
            for other in sorted(inventory.unlisted - {number})
        ]
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

    async def measured(self, candidates: list[EvictionCandidate], *, on_disk: bool) -> list[Removable]:
        """Return what comes free with each: on the disk, or else of what counts for ``--max-bytes``."""
        if on_disk:
            return await asyncio.to_thread(_measure_on_disk, candidates)
        usage = self._inventory.usage
        return [_removable(candidate, usage.freeable(candidate.folder)) for candidate in candidates]

    def surplus(self, taken: int, max_bytes: int, provisional: Collection[int]) -> list[int]:
        """Return the versions to retire until they take no more than ``max_bytes``, provisional ones first.

        Args:
            taken: bytes on the disk that all versions take.
            max_bytes: bytes that they may take.
            provisional: complete versions that the authority did not vouch for.
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


def _removable(candidate: EvictionCandidate, free: Freeable) -> Removable:
    return Removable(candidate.key, candidate.order, free.alone, free.shared, free.names, candidate.newest)
