"""The present bounds of a version's bytes on the disk, and the error for too little room."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from shardcast.errors import NoRoom
from shardcast.policy.eviction import Why, reserve_of
from shardcast.protocol.wire import version_name
from shardcast.sizes import format_count, format_size
from shardcast.store.disk_usage import DiskSpace, disk_space
from shardcast.store.eviction_candidates import EvictionCandidates
from shardcast.store.inventory import Inventory
from shardcast.store.open_version import OpenVersion
from shardcast.store.space_ledger import SpaceLedger


@dataclass(frozen=True)
class RoomBounds:
    """The present bounds of a version's bytes; at least one of the two is set.

    Attributes:
        quota: bytes allowed by ``--max-bytes``; None for no bound.
        disk: bytes available on the disk; None for no bound.
        space: state of the disk, if read.
    """

    quota: int | None
    disk: int | None = None
    space: DiskSpace | None = None

    @property
    def available(self) -> int:
        """Bytes available to the version."""
        return min(bound for bound in (self.quota, self.disk) if bound is not None)

    @property
    def by_disk(self) -> bool:
        """Whether the disk is the tighter bound."""
        return self.disk is not None and (self.quota is None or self.disk < self.quota)


async def bounds_of(
    ledger: SpaceLedger,
    inventory: Inventory,
    opened: OpenVersion | None,
    *,
    max_bytes: int | None,
    full: bool = False,
) -> RoomBounds | None:
    """Return the present bounds of a version.

    Args:
        ledger: the bytes taken by all versions.
        inventory: the versions.
        opened: the version; None for one without any byte here.
        max_bytes: maximum bytes of all versions; None for no bound.
        full: whether the disk was found full: then nothing is available, whatever the file system reports.

    Returns:
        The bounds; None for an unbounded version. A publisher is bounded by its disk only after a failed
        write.
    """
    promised = ledger.promised(opened)
    quota = None if max_bytes is None else max_bytes - ledger.taken - promised
    if inventory.own_line and not full:
        return None if quota is None else RoomBounds(quota)
    space = await asyncio.to_thread(disk_space, inventory.data_dir.root)
    if full:
        return RoomBounds(None, 0, space)
    return RoomBounds(quota, space.free - reserve_of(space.size) - promised, space)


@dataclass(frozen=True)
class RoomShortage:
    """A version without room.

    Attributes:
        number: number of the version.
        size: bytes of the payload.
        lacking: bytes of the payload not here yet.
        bounds: the version's bounds.
        why: why no other version is removed.
    """

    number: int
    size: int
    lacking: int
    bounds: RoomBounds
    why: Why

    def error(self, inventory: Inventory, candidates: EvictionCandidates, max_bytes: int | None) -> NoRoom:
        """Return the error for the user, with advice."""
        version, root, most = version_name(self.number), inventory.data_dir.root, max_bytes or 0
        bounds, hint = self.bounds, self._hint(inventory, candidates, max_bytes)
        if not bounds.by_disk or bounds.space is None:
            return NoRoom(
                f"no room for {version} with {format_size(self.size)}: the versions in {root} may take "
                f"{format_size(most)}; {hint} allow more with --max-bytes"
            )
        free, stays = max(0, bounds.available), reserve_of(bounds.space.size)
        return NoRoom(
            f"no room for {version}, of which {format_size(self.lacking)} are missing: the disk of {root} "
            f"has {format_size(free)} free beside {format_size(stays)} that stay free; {hint} free some "
            "space there"
        )

    def _hint(self, inventory: Inventory, candidates: EvictionCandidates, max_bytes: int | None) -> str:
        """Return the reason why other versions stay, with advice."""
        if self.why is not Why.TOO_LARGE:
            return f"{self.why.value};"
        pinned = ", ".join(map(version_name, sorted(inventory.holds.pinned)))
        if pinned and (self.bounds.by_disk or (max_bytes or 0) >= self.size):
            return f"{pinned} pinned here, `shardcast unpin` some or"
        kept = len(list(inventory.aside)) - len(candidates.droppable)
        if kept:
            return f"{format_count(kept, 'version')} of another line can't go yet;"
        return "nothing older can go;"
