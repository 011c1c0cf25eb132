"""The room that the versions of a data directory may take: within ``--max-bytes``, and on the disk.

A publisher claims what a version takes before it is stored. A middle takes room as bytes come, so that
nothing goes for what is only said to exist. ``policy.eviction`` decides what goes; this measures and asks.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from shardcast.concurrency import in_thread
from shardcast.constants import HTTP_TIMEOUT
from shardcast.errors import NoRoom
from shardcast.policy.eviction import (
    NOISE,
    Decision,
    Fill,
    Fits,
    Need,
    Refuse,
    Removable,
    Remove,
    Why,
    begin,
    decide,
    feasible,
    freed,
    reserve_of,
)
from shardcast.policy.retention import room_for
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.wire import version_name
from shardcast.sizes import format_count, format_size
from shardcast.store.aside import AsideVersions
from shardcast.store.completed import CompleteVersions
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskSpace, DiskUsage, disk_space
from shardcast.store.evicting import Evicting, EvictionCandidate, Unlisted
from shardcast.store.holds import Holds
from shardcast.store.open_version import OpenVersion

_LOOK_AGAIN = 0.05
"""Seconds until it is looked again whether what was reserved is verified."""


@dataclass(frozen=True)
class _Bounds:
    """What a version may take now, by ``--max-bytes`` and by the disk; None where that doesn't bound it."""

    most: int | None
    disk: int | None = None
    space: DiskSpace | None = None

    @property
    def available(self) -> int:
        return min(one for one in (self.most, self.disk) if one is not None)

    @property
    def by_disk(self) -> bool:
        return self.disk is not None and (self.most is None or self.disk < self.most)


class DiskQuota:
    """The room of a data directory's versions.

    Only the event loop uses it, and only the event loop changes the mappings that it iterates over. What
    threads count is in ``usage`` and in each version's ``space``, as running totals with locks of their own.

    Attributes:
        most: bytes that they may take; None for no bound.
        evicting: what may go.
    """

    def __init__(
        self,
        data_dir: DataDir,
        most: int | None,
        complete: CompleteVersions,
        opened: Mapping[int, OpenVersion],
        holds: Holds,
        others: Unlisted,
        aside: AsideVersions,
        usage: DiskUsage,
    ) -> None:
        """``complete``, ``opened`` and ``aside``: the versions in the directory, as they are at any time;
        ``usage``: what they take."""
        self.most = most
        self.evicting = Evicting(data_dir, complete, holds, others, aside, usage)
        self._data_dir = data_dir
        self._complete = complete
        self._open = opened
        self._holds = holds
        self._others = others
        self._aside = aside
        self._usage = usage
        self._claimed: dict[int, int] = {}  # bytes on the disk that versions may take which are published
        self._fetched: dict[int, int] = {}  # bytes that others had on the disk when each fetch began
        self._relieved: dict[int, int] = {}  # bytes that were on the full disk before something went for each
        self._failed: set[tuple[int, bool]] = set()  # what ran out of room, and whether it was listed
        self._claiming = asyncio.Lock()

    # What is taken

    @property
    def used(self) -> int:
        """Bytes on the disk that the versions take, or may take: those that are open claim them before they
        come. At a middle older versions and what was put aside go for bytes that come, so that this can be
        more than ``most`` meanwhile."""
        return self._taken + sum(self._to_come(number) for number in self._open)

    @property
    def _taken(self) -> int:
        """Bytes that are on the disk, or reserved there for shards that are arriving."""
        arriving = sum(one.space.arriving for one in (*self._open.values(), *self._aside.beside.values()))
        return self._usage.total + arriving

    def _to_come(self, number: int) -> int:
        """Return the bytes that an open version may take beside those that it has."""
        opened = self._open[number]
        if number in self._fetched and opened.space.sized:
            return opened.space.lacking
        return max(0, self._claimed.get(number, 0) - opened.space.settled)

    def _promised(self, opened: OpenVersion | None) -> int:
        """Return the bytes that other versions may take beside those that they have."""
        return sum(self._to_come(number) for number, one in self._open.items() if one is not opened)

    def let_go(self, number: int) -> None:
        """A version is not open any more."""
        self._claimed.pop(number, None)
        self._fetched.pop(number, None)

    # A publisher's

    async def claim(self, number: int, size: int) -> None:
        """See to it that a version which is published can have a payload of ``size`` bytes, at the cost of
        older ones that are not pinned.

        Raises:
            NoRoom: it can't.
        """
        opened, before = self._open.get(number), self._claimed.get(number, 0)
        if opened is None:
            return
        self._claimed[number] = opened.space.space_for(size)
        try:
            while self.most is not None and number in self._open:
                async with self._claiming:  # what is in the way may be pinned at any moment
                    coming = self._to_come(number)
                    bounds = _Bounds(self.most - self._taken - self._promised(opened))
                    candidates = [*self.evicting.aside(), *self.evicting.older(number)]
                    facts = await self.evicting.measured(candidates, on_disk=False)
                    decision = decide(Need(coming, coming, whole=False), bounds.available, facts)
                    if isinstance(decision, Fits):
                        return
                    if isinstance(decision, Refuse):
                        raise self._no_room(number, size, bounds, decision.why)
                    await self._remove(decision, facts, "its room is needed")
        except BaseException:
            if number in self._open:
                self._claimed[number] = before
            raise

    # A middle's

    async def check(self, number: int, manifest: Manifest, lacking: int) -> None:
        """
        Raises:
            NoRoom: a version with this manifest, which takes so many bytes, could not be taken.
        """
        async with self._claiming:
            # What is open under its number gives way to it.
            bounds = await self._bounds(self._open.get(number))
            if bounds is None or lacking <= bounds.available:
                return
            failed = (number, True) in self._failed
            need = Need(lacking, lacking, takes_newest=manifest.verifiable, failed=failed)
            candidates = [*self.evicting.aside(), *self.evicting.older(number)]
            why = feasible(need, bounds.available, await self.evicting.measured(candidates, bounds.by_disk))
            if why is not None:
                raise self._no_room(number, manifest.size, bounds, why, lacking)

    async def begin_fetch(self, number: int) -> None:
        """A version begins to be fetched; other users of the disk may not grow by much from now on."""
        self._fetched[number] = self._foreign(await asyncio.to_thread(disk_space, self._data_dir.root))

    def end_fetch(self, number: int) -> None:
        """It is fetched no more, and claims nothing."""
        self._fetched.pop(number, None)

    def ran_out(self, opened: OpenVersion) -> None:
        """Have nothing go again for a version that ran out of room. One that was still being made gets
        another chance when it is listed."""
        self._failed.add((opened.number, self._is_listed(opened)))

    def forget(self) -> None:
        """Forget what ran out of room: the numbers are another line's now."""
        self._failed.clear()
        self._relieved.clear()

    async def reserve(self, opened: OpenVersion, shard: Shard, take: Callable[[], None]) -> bool:
        """Reserve room for the next shard of a version by ``take``, in a thread; False where all of it has
        none, and each part of it asks ``extend``.

        Raises:
            NoRoom: there is none.
            LocalDiskError: the disk failed.
        """
        coming = opened.space.coming(shard)
        if not coming or opened.space.as_it_comes:
            return not opened.space.as_it_comes
        return await self._fit(opened, coming, take=take)

    async def extend(self, opened: OpenVersion, size: int, take: Callable[[], None]) -> None:
        """Take room for bytes that are verified and come now, by ``take``, in a thread.

        Raises:
            NoRoom: there is none.
            LocalDiskError: the disk failed.
        """
        await self._fit(opened, size, whole=False, take=take)

    async def full(self, opened: OpenVersion, size: int, error: OSError) -> bool:
        """Make room since the disk said by an ``error`` that it is full; returns whether to try again.

        Nothing goes where that would be in vain.
        """
        if await self._is_in_vain(opened.number, size, error):
            return False
        try:
            return await self._fit(opened, size, whole=False, full=True)
        except NoRoom:
            return False

    async def full_before(self, number: int, manifest: Manifest, lacking: int, error: OSError) -> bool:
        """Make room for a version of which nothing is here, since not even its manifest could be written;
        returns whether to try again."""
        first = min(len(manifest.raw), max(lacking, 1))
        if await self._is_in_vain(number, first, error):
            return False
        async with self._claiming:
            bounds = await self._bounds(None, full=True)
            assert bounds
            need = Need(
                first, max(lacking, first), whole=False, takes_newest=manifest.verifiable,
                failed=(number, True) in self._failed,
            )  # fmt: skip
            candidates = [*self.evicting.aside(), *self.evicting.older(number)]
            facts = await self.evicting.measured(candidates, on_disk=True)
            decision = decide(need, bounds.available, facts)
            if isinstance(decision, Remove):
                await self._relieve(number, decision, facts)
            return isinstance(decision, Remove)

    async def _is_in_vain(self, number: int, size: int, error: OSError) -> bool:
        """Return whether a removal would not help a version that has no room for ``size`` bytes: the file
        system has room all the same, or, of quotas, of which it says nothing, what went for this version
        already would have been room enough."""
        if error.errno == errno.ENOSPC:
            space = await asyncio.to_thread(disk_space, self._data_dir.root)
            return space.takes_files and space.free - reserve_of(space.size) >= size
        return self._taken + size <= self._relieved.get(number, 0)

    async def _relieve(self, number: int, decision: Remove, facts: list[Removable]) -> None:
        """Remove something since the disk is full."""
        before = self._taken
        await self._remove(decision, facts, "the disk is full")
        self._relieved[number] = max(before, self._relieved.get(number, 0))

    async def _fit(
        self,
        opened: OpenVersion,
        coming: int,
        whole: bool = True,
        full: bool = False,
        take: Callable[[], None] | None = None,
    ) -> bool:
        deadline = asyncio.get_running_loop().time() + HTTP_TIMEOUT
        while True:
            async with self._claiming:
                bounds = await self._bounds(opened, full)
                facts: list[Removable] = []
                decision: Decision = Fits()
                if bounds is not None and self._is_short(opened, coming, whole, bounds):
                    facts = await self._facts(opened, bounds)
                    decision = self._decide(opened, coming, whole, bounds, facts)
                if isinstance(decision, Fits):
                    if take is not None:
                        await in_thread(take)
                    return True
                assert bounds is not None
                if isinstance(decision, Fill):
                    opened.space.as_it_comes = True
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
                    lacking = max(opened.space.lacking, coming)
                    opened.space.refused = self._no_room(
                        opened.number, opened.live.size, bounds, reason, lacking
                    )
                    raise opened.space.refused
            await asyncio.sleep(_LOOK_AGAIN)

    def _is_short(self, opened: OpenVersion, coming: int, whole: bool, bounds: _Bounds) -> bool:
        """Return whether it matters what can go: the next bytes do not fit, or at first all the lacking."""
        first, opened.space.measured = not opened.space.measured, True
        return coming > bounds.available or (first and whole and opened.space.lacking > bounds.available)

    async def _facts(self, opened: OpenVersion, bounds: _Bounds) -> list[Removable]:
        candidates: list[EvictionCandidate] = self.evicting.aside()
        if self._is_received(opened):
            candidates += self.evicting.older(opened.number)
        return await self.evicting.measured(candidates, bounds.by_disk)

    def _decide(
        self, opened: OpenVersion, coming: int, whole: bool, bounds: _Bounds, facts: list[Removable]
    ) -> Decision:
        number, space, manifest = opened.number, bounds.space, opened.live.whole
        known, listed = opened.space.sized and self._is_received(opened), self._is_listed(opened)
        grown = self._foreign(space) - self._fetched[number] if space and number in self._fetched else 0
        need = Need(
            next=coming,
            lacking=max(opened.space.lacking, coming) if known else coming,
            whole=whole,
            takes_newest=known and listed and manifest is not None and manifest.verifiable,
            filled=opened.space.filled,
            failed=(number, listed) in self._failed,
            grown=grown,
            noise=max(NOISE, reserve_of(space.size)) if space else NOISE,
        )
        if coming <= bounds.available:
            return begin(need, bounds.available, facts)
        return decide(need, bounds.available, facts)

    def _is_listed(self, opened: OpenVersion) -> bool:
        """Return whether a version has all of its manifest, and is not made any more."""
        made = opened.being_made and not self._others.is_known(opened.number)
        return opened.live.whole is not None and not made

    def _is_received(self, opened: OpenVersion) -> bool:
        """Return whether a version is received for the current line, not published nor received beside."""
        return self._open.get(opened.number) is opened and not self._others.own_line

    async def _bounds(self, opened: OpenVersion | None, full: bool = False) -> _Bounds | None:
        """Return what a version may take now; None where nothing bounds it. On a disk that is ``full`` it may
        take nothing, whatever else the file system says."""
        promised = self._promised(opened)
        most = None if self.most is None else self.most - self._taken - promised
        if self._others.own_line and not full:
            return None if most is None else _Bounds(most)
        space = await asyncio.to_thread(disk_space, self._data_dir.root)
        if full:
            return _Bounds(None, 0, space)
        return _Bounds(most, space.free - reserve_of(space.size) - promised, space)

    def _foreign(self, space: DiskSpace) -> int:
        """Return the bytes of a disk that others take."""
        return space.used - self._taken

    async def _remove(self, decision: Decision, facts: list[Removable], why: str) -> None:
        assert isinstance(decision, Remove)
        expected = freed(one for one in facts if one.key == decision.key)
        kept = await self.evicting.remove(decision.key, expected, why)
        for number in self._fetched:  # what somebody still has open, or cloned, is not what others filled
            self._fetched[number] += kept

    def to_retire(self, provisional: Collection[int]) -> list[int]:
        """Return the versions to retire until they take no more than they may, provisional ones first."""
        if self.most is None:
            return []
        aside = sum(self._usage.of(one.place.folder) for one in self.evicting.droppable)
        over, held = self._taken - aside - self.most, (self._holds.pinned, self._holds.read())
        firm = self._complete.numbers - set(provisional)
        first = room_for(max(provisional, default=0) + 1, over, self._sizes(provisional), *held)
        left = over - sum(self._sizes(first).values())
        return first + room_for(max(firm, default=0), left, self._sizes(firm), *held)

    def _sizes(self, numbers: Collection[int]) -> dict[int, int]:
        found = {number: self._complete.get(version_name(number)) for number in numbers}
        return {number: self._usage.of(one.place.folder) for number, one in found.items() if one}

    def _no_room(
        self, number: int, size: int, bounds: _Bounds, why: Why, lacking: int | None = None
    ) -> NoRoom:
        version, root, most = version_name(number), self._data_dir.root, self.most or 0
        pinned = ", ".join(map(version_name, sorted(self._holds.pinned)))
        kept = len(list(self._aside)) - len(self.evicting.droppable)
        hint = "nothing older can go;" if why is Why.TOO_LARGE else f"{why.value};"
        if pinned and why is Why.TOO_LARGE and (bounds.by_disk or most >= size):
            hint = f"{pinned} pinned here, `shardcast unpin` some or"
        elif kept and why is Why.TOO_LARGE:
            hint = f"{format_count(kept, 'version')} of another line can't go yet;"
        if not bounds.by_disk or bounds.space is None:
            return NoRoom(
                f"no room for {version} with {format_size(size)}: the versions in {root} may take "
                f"{format_size(most)}; {hint} allow more with --max-bytes"
            )
        stays, missing = reserve_of(bounds.space.size), size if lacking is None else lacking
        return NoRoom(
            f"no room for {version}, of which {format_size(missing)} are missing: the disk of {root} has "
            f"{format_size(max(0, bounds.available))} free beside {format_size(stays)} that stay free; "
            f"{hint} free some space there"
        )
