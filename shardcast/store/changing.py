"""The change of a data directory from one line of versions to another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from shardcast.concurrency import in_thread
from shardcast.directories import remove_tree
from shardcast.filesystem import replace as replace_file
from shardcast.protocol.feed import OPEN
from shardcast.protocol.wire import version_name
from shardcast.sizes import format_count
from shardcast.store.aside_place import line_name, open_mark
from shardcast.store.aside_version import AsideVersion, read_aside
from shardcast.store.beside import BesideVersions
from shardcast.store.change_planning import (
    Change,
    ChangePlanner,
    NewLine,
    leaving,
    record_to_be,
    returning,
    stays,
    stays_open,
)
from shardcast.store.completed import CompleteVersion, read_complete
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.filled import FilledVersions
from shardcast.store.inventory import Inventory
from shardcast.store.line_change import AfterStep, bring_back, empty_graves, put_aside, write_plan
from shardcast.store.line_record import LineRecord, origin_words
from shardcast.store.open_version import OpenVersion
from shardcast.store.recovery import read_open_manifest
from shardcast.store.removing import bury
from shardcast.store.retirement import Retirement
from shardcast.store.version_place import VersionPlace

log = logging.getLogger(__name__)


class LineChanger:
    """A changer of lines: puts the versions of a line aside for those of another line, and brings them back.

    Attributes:
        after_step: called after each step of a change with the step's name; a test's place to kill the node.
    """

    def __init__(
        self,
        inventory: Inventory,
        writer: DirectoryWriter,
        *,
        filled: FilledVersions,
        beside: BesideVersions,
        retirement: Retirement,
    ) -> None:
        self.after_step: AfterStep = lambda step: None
        self._inventory = inventory
        self._writer = writer
        self._filled = filled
        self._beside = beside
        self._retirement = retirement
        self._unfinished: Change | None = None
        writer.finish_change = self.finish

    async def change_line(self, origin: str | None, listed: Mapping[int, str], highest: int) -> None:
        """Change over to another line.

        Local versions listed by the new authority stay. The others are put aside, and those of the new line
        put aside before, or received beside, are complete here at once.

        Readers see the change as one step. After a kill the next start finishes the change.

        Args:
            origin: the origin id of the new line.
            listed: payload digests listed by the new authority, by number.
            highest: the highest number ever on the line, as told by the new authority.

        Raises:
            LocalDiskError: the disk failed. The change is finished before anything else is written.
        """
        async with self._writer.exclusive():
            await self._beside.end_line(origin)
            change = await self._plan(NewLine(origin, listed, highest))
            await in_thread(write_plan, self._inventory.data_dir, change.plan)
            self._unfinished = change
            self.after_step("planned")
            await self.finish()

    # The plan

    async def _plan(self, line: NewLine) -> Change:
        inventory = self._inventory
        record = record_to_be(inventory, line)
        aside = inventory.aside.of_line(record.origin)
        coming = await asyncio.to_thread(returning, aside, record, line.listed)
        await self._discard_others(line, {version.number for version, _ in coming.whole})
        staying = [complete for complete in inventory.complete.versions if stays(inventory, complete, line)]
        coming = coming.without({complete.listing.number for complete in staying} | inventory.open.keys())
        targets = leaving(inventory, staying)
        await asyncio.to_thread(self._clear_targets, targets)
        planner = ChangePlanner(inventory)
        return await asyncio.to_thread(planner.plan, record, targets, staying, coming)

    async def _discard_others(self, line: NewLine, coming: Collection[int]) -> None:
        """Discard the open versions of other lines, and those about to return complete."""
        for number, opened in list(self._inventory.open.items()):
            if not stays_open(self._inventory, opened, line) or number in coming:
                await self._retirement.discard_locked(number)
                self.after_step(f"discarded {version_name(number)}")

    def _clear_targets(self, targets: Mapping[VersionPlace, VersionPlace]) -> None:
        """Clear the targets of moves of the same versions, put aside earlier; their pins are kept."""
        inventory = self._inventory
        for place, target in targets.items():
            if target.folder.exists():
                if target.pinned.exists():
                    replace_file(place.pinned, b"")
                inventory.data_dir.check_held()
                for grave in bury(target, inventory.data_dir.retired):
                    remove_tree(grave)
                inventory.aside.remove(target)
                inventory.usage.drop(target.folder)
                self.after_step(f"removed the other {place.folder.name}")
            for file in (*target.records, open_mark(target)):
                file.unlink(missing_ok=True)

    # Steps

    async def finish(self) -> None:
        """Carry out the rest of a planned change; under the lock.

        Raises:
            LocalDiskError: the disk failed; the next call carries out the rest.
        """
        change = self._unfinished
        if change is None:
            return
        data_dir, usage = self._inventory.data_dir, self._inventory.usage
        try:
            await in_thread(put_aside, data_dir, change.plan, self.after_step)
        finally:
            # Before any new file gets the name of an old line's version: a reader of the old version gets the
            # file put aside, or none, never another version's.
            self._point_to(await asyncio.to_thread(_moved, change.leaving))
        await in_thread(bring_back, data_dir, change.plan, self.after_step)
        for source, target in (*change.plan.aside, *change.plan.back):
            usage.move(data_dir.root / source, data_dir.root / target)
        came, left = await in_thread(self._read_changed, change)
        self._switch(change, came, left)
        self._unfinished = None
        for version in change.returning.partial:
            opened = await in_thread(self._make_resumed, version, undo=self._filled.register)
            self._filled.register(opened)
            self._inventory.events.add(OPEN, version.complete.listing.version)
        await asyncio.to_thread(empty_graves, data_dir, change.plan)
        for _, target in change.plan.aside:
            if (data_dir.root / target).parent == data_dir.retired:
                usage.drop(data_dir.root / target)

    def _point_to(self, places: Mapping[VersionPlace, VersionPlace]) -> None:
        """Have versions put aside read in their present places."""
        for complete in self._inventory.complete.versions:
            if complete.place in places:
                self._inventory.complete.take_up(replace(complete, place=places[complete.place]))

    def _read_changed(self, change: Change) -> tuple[list[CompleteVersion], list[AsideVersion]]:
        """Return the versions come, and those gone, in their present places; blocks on the disk."""
        data_dir = self._inventory.data_dir
        came = [
            read_complete(data_dir.place(listing.number), listing, version.complete.manifest)
            for version, listing in change.returning.whole
        ]
        record = change.plan.left[1] if change.plan.left else LineRecord()
        now = self._inventory.clock()
        left = [read_aside(place, record, now) for place in change.leaving.values() if place.folder.exists()]
        return came, left

    def _switch(self, change: Change, came: Sequence[CompleteVersion], left: Sequence[AsideVersion]) -> None:
        """Make the new line current for all readers, log the change and begin a new feed.

        One step for the readers: the loop runs nothing else meanwhile.
        """
        inventory, plan, before = self._inventory, change.plan, self._inventory.line.origin
        here = [*change.staying, *came]
        inventory.complete.take_up_all(here, plan.distribution)
        inventory.line = plan.record
        inventory.known, inventory.untrusted = {}, []
        inventory.withdrawn.clear()
        if plan.left is not None:
            inventory.aside.records[line_name(before)] = plan.left[1]
        for version in change.returning.versions:
            inventory.aside.remove(version.place)
        for version in left:
            inventory.aside.add(version)
            inventory.holds.forget(version.number)
        inventory.holds.pinned = {
            complete.listing.number for complete in here if complete.place.pinned.exists()
        }
        log.warning(
            "changed over to the versions of %s: %s here, %s put aside",
            origin_words(inventory.line.origin),
            format_count(len(here), "version"),
            format_count(len(left), "version"),
        )
        inventory.events.begin_feed()

    def _make_resumed(self, version: AsideVersion) -> OpenVersion:
        """Return an incomplete version come back, ready to be continued; blocks on the disk."""
        listing = version.complete.listing
        live = read_open_manifest(self._inventory.data_dir.place(version.number), listing.version)
        assert live.manifest
        digests = live.manifest.digests.items()
        listed = next(name for name, digest in digests if digest == listing.digest)
        return self._filled.make(version.number, live, listed)


def _moved(leaving: Mapping[VersionPlace, VersionPlace]) -> dict[VersionPlace, VersionPlace]:
    """Return the present places of moved versions; blocks on the disk."""
    return {place: target for place, target in leaving.items() if target.folder.exists()}
