"""The quota of a data directory's versions: within ``--max-bytes``, and on the disk.

A publisher claims the room of a version before storing it. A middle takes room as bytes come, so that an
announcement alone removes no version. ``SpaceLedger`` counts, ``EvictionDecisions`` chooses the version to
remove, ``Evictor`` removes it; here they are called in turn, one removal at a time.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection

from shardcast.concurrency import in_thread
from shardcast.constants import HTTP_TIMEOUT
from shardcast.errors import NoRoom
from shardcast.policy.eviction import (
    Decision,
    Fill,
    Fits,
    Refuse,
    Removable,
    Remove,
    RoomNeed,
    Why,
    decide,
    freed_bytes,
    infeasible_why,
    reserve_of,
)
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.store.disk_usage import disk_space
from shardcast.store.evicting import Evictor
from shardcast.store.eviction_candidates import EvictionCandidates
from shardcast.store.eviction_decisions import EvictionDecisions
from shardcast.store.inventory import Inventory
from shardcast.store.open_version import OpenVersion
from shardcast.store.retirement import Retirement
from shardcast.store.room_bounds import RoomBounds, RoomShortage
from shardcast.store.space_ledger import SpaceLedger

_LOOK_AGAIN = 0.05
"""Seconds between two checks whether reserved bytes are verified."""


class DiskQuota:
    """Room for new versions; used by the event loop only.

    Attributes:
        max_bytes: maximum bytes of all versions; None for no bound.
        candidates: the removable versions.
        ledger: the bytes taken by versions.
    """

    def __init__(
        self, inventory: Inventory, ledger: SpaceLedger, retirement: Retirement, most: int | None
    ) -> None:
        self.max_bytes = most
        self.candidates = EvictionCandidates(inventory, ledger)
        self.ledger = ledger
        self._inventory = inventory
        self._decisions = EvictionDecisions(inventory, ledger, self.candidates, most)
        self._evictor = Evictor(inventory, retirement)
        self._relieved: dict[int, int] = {}  # bytes that were on the full disk before something went for each
        self._claiming = asyncio.Lock()

    @property
    def used(self) -> int:
        """Bytes on the disk taken or claimed by versions."""
        return self.ledger.used

    def surplus_versions(self, provisional: Collection[int]) -> list[int]:
        """Return the versions to retire until they take no more than they may, provisional ones first."""
        if self.max_bytes is None:
            return []
        return self.candidates.surplus(self.ledger.taken, self.max_bytes, provisional)

    # A publisher's

    async def claim(self, number: int, size: int) -> None:
        """Claim room for the payload of a version being published.

        Older unpinned versions are removed to make room.

        Args:
            number: the version's number; nothing is claimed unless the version is open.
            size: bytes of the payload.

        Raises:
            NoRoom: there is no room.
        """
        opened, before = self._inventory.open.get(number), self.ledger.claimed(number)
        if opened is None:
            return
        self.ledger.claim(number, opened.space.space_for(size))
        try:
            while self.max_bytes is not None and number in self._inventory.open:
                async with self._claiming:  # what is in the way may be pinned at any moment
                    coming = self.ledger.to_come(number)
                    bounds = RoomBounds(self.max_bytes - self.ledger.taken - self.ledger.promised(opened))
                    facts = await self._decisions.facts(number, bounds)
                    decision = decide(RoomNeed(coming, coming, whole=False), bounds.available, facts)
                    if isinstance(decision, Fits):
                        return
                    if isinstance(decision, Refuse):
                        raise self._decisions.error(RoomShortage(number, size, size, bounds, decision.why))
                    assert isinstance(decision, Remove)
                    await self._remove(decision, facts, "its room is needed")
        except BaseException:
            if number in self._inventory.open:
                self.ledger.claim(number, before)
            raise

    # A middle's

    async def check(self, number: int, manifest: Manifest, lacking: int) -> None:
        """Check for possible room for a version, before the first byte is stored.

        Args:
            number: the version's number.
            manifest: the version's manifest.
            lacking: bytes needed on the disk.

        Raises:
            NoRoom: even removals could not make room.
        """
        async with self._claiming:
            # An open version with the same number gives way to this one.
            bounds = await self._decisions.bounds(self._inventory.open.get(number))
            if bounds is None or lacking <= bounds.available:
                return
            failed = self._decisions.failed_why(number, listed=True)
            need = RoomNeed(lacking, lacking, takes_newest=manifest.verifiable, failed=failed)
            why = infeasible_why(need, bounds.available, await self._decisions.facts(number, bounds))
            if why is not None:
                raise self._decisions.error(RoomShortage(number, manifest.size, lacking, bounds, why))

    async def begin_fetch(self, number: int) -> None:
        """Count a version as fetched, and record the bytes of other users of the disk.

        If these grow by much from now on, no version is removed for this one.
        """
        await self.ledger.begin_fetch(number)

    def end_fetch(self, number: int) -> None:
        """Count a version as fetched no longer; its missing bytes are not claimed any more."""
        self.ledger.end_fetch(number)

    def record_out_of_room(self, opened: OpenVersion) -> None:
        """Record that a version ran out of room: from now on no other version is removed for it.

        A version still being made gets another chance when it is listed.
        """
        self._decisions.ran_out(opened)

    def forget_failures(self) -> None:
        """Forget the versions out of room: the numbers are another line's now."""
        self._decisions.forget()
        self._relieved.clear()

    async def reserve(self, opened: OpenVersion, shard: Shard, take: Callable[[], None]) -> bool:
        """Reserve room for the next shard of a version.

        Args:
            opened: the version.
            shard: the next shard.
            take: reserves the room on the disk, in a thread.

        Returns:
            True when the whole shard has room; False to call ``extend`` for each part.

        Raises:
            NoRoom: there is no room.
            LocalDiskError: the disk failed.
        """
        coming = opened.space.space_of_next(shard)
        if not coming or opened.space.reserves_verified_only:
            return not opened.space.reserves_verified_only
        return await self._fit(opened, coming, take=take)

    async def extend(self, opened: OpenVersion, size: int, take: Callable[[], None]) -> None:
        """Take room for verified bytes about to be written.

        Args:
            opened: the version.
            size: number of bytes.
            take: takes the room on the disk, in a thread.

        Raises:
            NoRoom: there is no room.
            LocalDiskError: the disk failed.
        """
        await self._fit(opened, size, whole=False, take=take)

    async def full(self, opened: OpenVersion, size: int, error: OSError) -> bool:
        """Make room on a full disk, unless a removal would be in vain.

        Args:
            opened: the version being written.
            size: bytes that did not fit.
            error: the error of the disk.

        Returns:
            Whether to try again.
        """
        if await self._is_in_vain(opened.number, size, error):
            return False
        try:
            return await self._fit(opened, size, whole=False, full=True)
        except NoRoom:
            return False

    async def full_before(self, number: int, manifest: Manifest, lacking: int, error: OSError) -> bool:
        """Make room for a version without any byte here: not even the manifest could be written.

        Args:
            number: the version's number.
            manifest: the version's manifest.
            lacking: bytes needed on the disk.
            error: the error of the disk.

        Returns:
            Whether to try again.
        """
        first = min(len(manifest.raw), max(lacking, 1))
        if await self._is_in_vain(number, first, error):
            return False
        async with self._claiming:
            bounds = await self._decisions.bounds(None, full=True)
            assert bounds
            need = RoomNeed(
                first, max(lacking, first), whole=False, takes_newest=manifest.verifiable,
                failed=self._decisions.failed_why(number, listed=True),
            )  # fmt: skip
            facts = await self._decisions.facts(number, bounds)
            decision = decide(need, bounds.available, facts)
            if isinstance(decision, Remove):
                await self._relieve(number, decision, facts)
            return isinstance(decision, Remove)

    async def _fit(
        self,
        opened: OpenVersion,
        coming: int,
        *,
        whole: bool = True,
        full: bool = False,
        take: Callable[[], None] | None = None,
    ) -> bool:
        """Remove candidates until the next bytes of a version fit.

        Args:
            opened: the version.
            coming: how many bytes are next.
            whole: whether room is reserved for them before they come.
            full: whether the disk was found full; one removal is enough then.
            take: takes the room on the disk, in a thread, before another version can.

        Returns:
            True when they fit; False where each part of them shall ask ``extend``.

        Raises:
            NoRoom: they don't fit, and nothing more goes for them.
        """
        deadline = asyncio.get_running_loop().time() + HTTP_TIMEOUT
        while True:
            async with self._claiming:
                bounds = await self._decisions.bounds(opened, full=full)
                facts: list[Removable] = []
                decision: Decision = Fits()
                if bounds is not None and self._decisions.is_short(opened, coming, whole, bounds):
                    facts = await self._decisions.facts_for(opened, bounds)
                    decision = self._decisions.decide(opened, coming, whole, bounds, facts=facts)
                if isinstance(decision, Fits):
                    if take is not None:
                        await in_thread(take)
                    return True
                assert bounds is not None
                if isinstance(decision, Fill):
                    opened.space.reserves_verified_only = True
                    return False
                if isinstance(decision, Remove) and full:
                    await self._relieve(opened.number, decision, facts)
                    return True
                if isinstance(decision, Remove):
                    why = "the disk is full" if bounds.by_disk else "its room is needed"
                    await self._remove(decision, facts, why)
                    continue
                late = asyncio.get_running_loop().time() > deadline
                if late or isinstance(decision, Refuse):
                    reason = decision.why if isinstance(decision, Refuse) else Why.TOO_LARGE
                    lacking = max(opened.space.missing_space, coming)
                    opened.space.refused = self._decisions.error(
                        RoomShortage(opened.number, opened.live.size, lacking, bounds, reason)
                    )
                    opened.space.refused_as_listed = self._decisions.is_listed(opened)
                    opened.space.refused_why = reason
                    raise opened.space.refused
            # Outside the lock, so that reserved bytes can be verified meanwhile.
            await asyncio.sleep(_LOOK_AGAIN)

    # Implementation

    async def _is_in_vain(self, number: int, size: int, error: OSError) -> bool:
        """Return whether a removal would not help a version without room for ``size`` bytes.

        This is so if the file system has room all the same. With a user's quota, unknown to the file system,
        it is so if the room freed for this version already would have been enough.
        """
        if error.errno == errno.ENOSPC:
            space = await asyncio.to_thread(disk_space, self._inventory.data_dir.root)
            return space.takes_files and space.free - reserve_of(space.size) >= size
        return self.ledger.taken + size <= self._relieved.get(number, 0)

    async def _relieve(self, number: int, decision: Remove, facts: list[Removable]) -> None:
        """Remove a candidate because the disk is full."""
        before = self.ledger.taken
        await self._remove(decision, facts, "the disk is full")
        self._relieved[number] = max(before, self._relieved.get(number, 0))

    async def _remove(self, decision: Remove, facts: list[Removable], why: str) -> None:
        """Remove the candidate chosen by a decision."""
        expected = freed_bytes(fact for fact in facts if fact.key == decision.key)
        self.ledger.keep_held(await self._evictor.remove(decision.key, expected, why))
