"""The facts of a version in need of room, and the decision: the versions to remove, or why none."""

from __future__ import annotations

from shardcast.errors import NoRoom
from shardcast.policy.eviction import (
    NOISE,
    Decision,
    Removable,
    RoomNeed,
    Why,
    decide,
    decide_start,
    reserve_of,
)
from shardcast.store.eviction_candidates import EvictionCandidates
from shardcast.store.inventory import Inventory
from shardcast.store.open_version import OpenVersion
from shardcast.store.room_bounds import RoomBounds, RoomShortage, bounds_of
from shardcast.store.space_ledger import SpaceLedger


class EvictionDecisions:
    """Measurements for ``policy.eviction``, and its decisions, without removals. For the event loop only."""

    def __init__(
        self,
        inventory: Inventory,
        ledger: SpaceLedger,
        candidates: EvictionCandidates,
        max_bytes: int | None,
    ) -> None:
        self._inventory = inventory
        self._ledger = ledger
        self._candidates = candidates
        self._max_bytes = max_bytes
        self._failed: dict[tuple[int, bool], Why] = {}  # by number, and whether the version was listed

    # Versions without enough room

    def ran_out(self, opened: OpenVersion) -> None:
        """Record that a version ran out of room: from now on no other version is removed for it."""
        space = opened.space
        listed = space.refused_as_listed if space.refused else self.is_listed(opened)
        # A person can mend this one; other reasons may no longer hold by the next try.
        others = space.refused is not None and space.refused_why is Why.OTHERS_FILL
        self._failed[opened.number, listed] = Why.OTHERS_FILL if others else Why.FAILED_BEFORE

    def failed_why(self, number: int, *, listed: bool) -> Why | None:
        """Return why nothing goes for a version, as a ``listed`` one or not; None until it runs out."""
        return self._failed.get((number, listed))

    def forget(self) -> None:
        """Forget all versions out of room."""
        self._failed.clear()

    def is_listed(self, opened: OpenVersion) -> bool:
        """Return whether a version's manifest is complete, and its publisher no longer makes the version.

        A version fetched while being made counts only once the authority lists the number.
        """
        made = opened.still_published and not self._inventory.is_known(opened.number)
        return opened.live.manifest is not None and not made

    # Facts

    async def bounds(self, opened: OpenVersion | None, *, full: bool = False) -> RoomBounds | None:
        """Return the bytes a version may take now, as ``bounds_of`` does."""
        return await bounds_of(self._ledger, self._inventory, opened, max_bytes=self._max_bytes, full=full)

    async def facts(self, number: int, bounds: RoomBounds) -> list[Removable]:
        """Return the removable versions for another, measured: those put aside, then older ones."""
        candidates = [*self._candidates.aside(), *self._candidates.older(number)]
        return await self._candidates.measured(candidates, on_disk=bounds.by_disk)

    async def facts_for(self, opened: OpenVersion, bounds: RoomBounds) -> list[Removable]:
        """Return the removable versions for an open one, measured.

        For a version outside the current line, these are only those put aside.
        """
        if self._is_received(opened):
            return await self.facts(opened.number, bounds)
        return await self._candidates.measured(self._candidates.aside(), on_disk=bounds.by_disk)

    def is_short(self, opened: OpenVersion, coming: int, whole: bool, bounds: RoomBounds) -> bool:
        """Return whether candidates matter: the next bytes do not fit, or at the first call all missing ones.

        Marks the version as measured.
        """
        first, opened.space.measured = not opened.space.measured, True
        return coming > bounds.available or (
            first and whole and opened.space.missing_space > bounds.available
        )

    # Decisions

    def decide(
        self, opened: OpenVersion, coming: int, whole: bool, bounds: RoomBounds, *, facts: list[Removable]
    ) -> Decision:
        """Return the decision for the next bytes of an open version.

        Args:
            opened: the version.
            coming: number of the next bytes.
            whole: whether room is reserved for them before they come.
            bounds: the bytes available to the version now.
            facts: the removable versions.
        """
        need = self._need(opened, coming, whole, bounds)
        return (decide_start if coming <= bounds.available else decide)(need, bounds.available, facts)

    def error(self, shortage: RoomShortage) -> NoRoom:
        """Return the error of a version without room."""
        return shortage.error(self._inventory, self._candidates, self._max_bytes)

    def _need(self, opened: OpenVersion, coming: int, whole: bool, bounds: RoomBounds) -> RoomNeed:
        number, space, manifest = opened.number, bounds.space, opened.live.manifest
        known, listed = opened.space.is_size_known and self._is_received(opened), self.is_listed(opened)
        return RoomNeed(
            next=coming,
            lacking=max(opened.space.missing_space, coming) if known else coming,
            whole=whole,
            takes_newest=known and listed and manifest is not None and manifest.verifiable,
            filled=opened.space.is_filled,
            failed=self.failed_why(number, listed=listed),
            grown=self._ledger.grown(number, space),
            noise=max(NOISE, reserve_of(space.size)) if space else NOISE,
        )

    def _is_received(self, opened: OpenVersion) -> bool:
        """Return whether a version is received for the current line, not published nor received beside."""
        return self._inventory.open.get(opened.number) is opened and not self._inventory.own_line
