"""The change of a data directory from one line of versions to another."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.filesystem import remove_tree
from shardcast.filesystem import replace as replace_file
from shardcast.protocol.distribution import Listing, write
from shardcast.protocol.feed import OPEN
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.protocol.wire import version_name
from shardcast.sizes import format_count
from shardcast.store.aside import (
    AsideVersion,
    aside_place,
    line_name,
    open_mark,
    read_aside,
    record_of,
)
from shardcast.store.beside import BesideVersions
from shardcast.store.completed import Complete, read_complete
from shardcast.store.line_change import (
    AfterStep,
    Move,
    Plan,
    bring_back,
    empty_graves,
    put_aside,
    write_plan,
)
from shardcast.store.line_record import LineRecord, origin_words
from shardcast.store.open_version import OpenVersion
from shardcast.store.recovery import check, lines_of
from shardcast.store.removing import bury
from shardcast.store.version_place import VersionPlace, is_versions_file

log = logging.getLogger(__name__)


@dataclass
class _Change:
    """A change of line, and what is so once it is carried out.

    Attributes:
        plan: its steps.
        leaving: where each version that leaves lies then, by where it lies now.
        staying: versions that are of both lines.
        coming: complete versions that come back, as they lie now.
        resumed: the numbers of versions that come back, and of which not all is here.
    """

    plan: Plan
    leaving: dict[VersionPlace, VersionPlace] = field(default_factory=dict)
    staying: list[Complete] = field(default_factory=list)
    coming: list[tuple[AsideVersion, Listing]] = field(default_factory=list)
    resumed: list[AsideVersion] = field(default_factory=list)


class ChangingVersions(BesideVersions):
    """The versions of a line, put aside for those of another one and brought back."""

    after_step: AfterStep = staticmethod(lambda step: None)
    """Called after each step of a change."""
    _unfinished: _Change | None = None

    # The change

    async def change_line(self, origin: str | None, listed: Mapping[int, str], highest: int) -> None:
        """Change over to the line of an origin id, whose authority lists payload digests by number, and tells
        the highest number that the line had. Versions here that it lists stay. The others are put aside, and
        those of the new line that were put aside before, or received beside, are complete here at once.

        It happens in one step for whoever reads, and is finished at the next start after a kill.

        Raises:
            LocalDiskError: the disk failed. What was done then is finished before anything else is written.
        """
        async with self._exclusive():
            for place in [one for one in self.aside.beside if one.folder.parent.name == line_name(origin)]:
                await self._end_beside(place)
            change = await self._plan_change(origin, listed, highest)
            await in_thread(write_plan, self.data_dir, change.plan)
            self._unfinished = change
            self.after_step("planned")
            await self._finish_change()

    async def _finish_change(self) -> None:
        change = self._unfinished
        if change is None:
            return
        try:
            await in_thread(put_aside, self.data_dir, change.plan, self.after_step)
        finally:
            # Before anything gets a name that a version of the old line had: who asks for that version by now
            # is sent the file that was put aside, or none, and never another one.
            self._point_to(await asyncio.to_thread(_lying, change.leaving))
        await in_thread(bring_back, self.data_dir, change.plan, self.after_step)
        for source, target in (*change.plan.aside, *change.plan.back):
            self.usage.move(self.data_dir.root / source, self.data_dir.root / target)
        coming, left = await in_thread(self._read_changed, change)
        self._switch(change, coming, left)
        self._unfinished = None
        for one in change.resumed:
            self._begin_open(await in_thread(self._make_resumed, one, undo=self._begin_open))
            self.events.tell(OPEN, one.complete.listing.version)
        await asyncio.to_thread(empty_graves, self.data_dir, change.plan)
        for _, target in change.plan.aside:
            if (self.data_dir.root / target).parent == self.data_dir.retired:
                self.usage.drop(self.data_dir.root / target)

    def _point_to(self, places: Mapping[VersionPlace, VersionPlace]) -> None:
        """Have versions that were put aside read where they lie now."""
        for listing in self.listings:
            complete = self._complete.get(listing.version)
            if complete is not None and complete.place in places:
                self._complete.take_up(replace(complete, place=places[complete.place]))

    def _read_changed(self, change: _Change) -> tuple[list[Complete], list[AsideVersion]]:
        """Return the versions that came, and those that left, as they lie now; blocks on the disk."""
        coming = [
            read_complete(self.data_dir.place(listing.number), listing, aside.complete.manifest)
            for aside, listing in change.coming
        ]
        record = change.plan.left[1] if change.plan.left else LineRecord()
        now = self._clock()
        left = [read_aside(place, record, now) for place in change.leaving.values() if place.folder.exists()]
        return coming, left

    def _switch(self, change: _Change, coming: Sequence[Complete], left: Sequence[AsideVersion]) -> None:
        """Have everybody see the new line, in one step."""
        plan, before = change.plan, self.line.origin
        here = [*change.staying, *coming]
        self._complete.take_up_all(here, plan.distribution)
        self.line = plan.record
        self.known, self.untrusted = {}, []
        self._withdrawn.clear()
        if plan.left is not None:
            self.aside.records[line_name(before)] = plan.left[1]
        for aside, _ in change.coming:
            self.aside.take(aside.place)
        for aside in change.resumed:
            self.aside.take(aside.place)
        for aside in left:
            self.aside.put(aside)
            self.holds.forget(aside.number)
        self.holds.pinned = {one.listing.number for one in here if one.place.pinned.exists()}
        log.warning(
            "changed over to the versions of %s: %s here, %s put aside",
            origin_words(self.line.origin),
            format_count(len(here), "version"),
            format_count(len(left), "version"),
        )
        self.events.restart()

    def _make_resumed(self, one: AsideVersion) -> OpenVersion:
        """Return a version to go on with that came back in part; blocks on the disk."""
        version, digest = one.complete.listing.version, one.complete.listing.digest
        live = lines_of(self.data_dir.place(one.number), version)
        assert live.whole
        listed = next(name for name, known in live.whole.digests.items() if known == digest)
        return self._make(one.number, live, listed)

    # What changes

    async def _plan_change(self, origin: str | None, listed: Mapping[int, str], highest: int) -> _Change:
        record = self._record_to_be(origin, listed, highest)
        coming, resumed = await asyncio.to_thread(self._comers, record, listed)
        await self._discard_others(origin, listed, {one.number for one, _ in coming})
        staying = [one for one in self._all_complete() if self._stays(one, origin, listed)]
        taken = {one.listing.number for one in staying} | self._open.keys()
        coming = [one for one in coming if one[0].number not in taken]
        resumed = [one for one in resumed if one.number not in taken]
        kept = {one.place for one in staying}
        leaving = {
            place: aside_place(self.data_dir, self.line.origin, number, digest)
            for number, digest, place in self._here_in_all()
            if place not in kept
        }
        await asyncio.to_thread(self._clear_targets, leaving)
        moved_away = [*leaving]
        vacated = await asyncio.to_thread(self._vacated, [*(one for one, _ in coming), *resumed], moved_away)
        coming = [one for one in coming if one[0].number in vacated]
        resumed = [one for one in resumed if one.number in vacated]
        listings = [*(one.listing for one in staying), *(listing for _, listing in coming)]
        plan = Plan(
            aside=self._moves([*leaving.items()]) + tuple(chain.from_iterable(vacated.values())),
            back=self._moves(
                (one.place, self.data_dir.place(one.number))
                for one in [*(one for one, _ in coming), *resumed]
            ),
            time=time.time(),
            left=self._left(),
            record=record,
            distribution=write(sorted(listings, key=lambda one: one.number)),
        )
        return _Change(plan, leaving, staying, coming, resumed)

    def _left(self) -> tuple[str, LineRecord] | None:
        """Return where the record of the current line goes; None where nothing was ever of it."""
        if self.line == LineRecord():
            return None
        return self._relative(record_of(self.data_dir, self.line.origin)), self.line

    def _record_to_be(self, origin: str | None, listed: Mapping[int, str], highest: int) -> LineRecord:
        """Return the record of the new line. What is remembered of it counts up to the first number that it
        has otherwise by now: it was restored there, and what came later will come anew."""
        known = self.line if origin == self.line.origin or self.line.origin is None else None
        known = known or self.aside.record(origin)
        parted = min(
            (number for number, one in listed.items() if known.digests.get(number, one) != one),
            default=highest + 1,
        )
        kept = {number: one for number, one in known.digests.items() if number < parted}
        record = replace(known, origin=origin, highest=highest)
        return record.with_digests({**kept, **listed})

    def _all_complete(self) -> list[Complete]:
        found = (self._complete.get(one.version) for one in self.listings)
        return [one for one in found if one is not None]

    def _here_in_all(self) -> list[tuple[int, str, VersionPlace]]:
        """Return number, payload digest and place of everything here that is not open."""
        versions = [*self._all_complete(), *self._withdrawn.values()]
        here = [(one.listing.number, one.listing.digest, one.place) for one in versions]
        return here + [(one.number, one.digest, self.data_dir.place(one.number)) for one in self.untrusted]

    def _stays(self, one: Complete, origin: str | None, listed: Mapping[int, str]) -> bool:
        if listed.get(one.listing.number) not in one.digests or one.place.folder.parent != self.data_dir.root:
            return False
        own = one.manifest.header.origin if one.manifest else None
        return origin in (None, self.line.origin) or own in (None, origin)

    async def _discard_others(
        self, origin: str | None, listed: Mapping[int, str], coming: Collection[int]
    ) -> None:
        """Discard the open versions that are not of the new line, or come back complete."""
        for number, opened in list(self._open.items()):
            live = opened.live
            own = live.header.origin if live.begun else None
            right = origin in (None, self.line.origin) or own in (None, origin)
            if live.whole:
                right = right and listed.get(number) in live.whole.digests.values()
            else:  # the new line's, since this directory was of none so far
                right = self.line.origin is None and own == origin and number not in listed
            if not right or number in coming:
                await self._discard(number)
                self.after_step(f"discarded {version_name(number)}")

    def _comers(
        self, record: LineRecord, listed: Mapping[int, str]
    ) -> tuple[list[tuple[AsideVersion, Listing]], list[AsideVersion]]:
        """Return the versions of the new line that lie aside, whole and in part; blocks on the disk."""
        coming: dict[int, tuple[AsideVersion, Listing]] = {}
        resumed: dict[int, AsideVersion] = {}
        for one in self.aside.of_line(record.origin):
            digest, manifest = record.digests.get(one.number), one.complete.manifest
            withdrawn = record.withdrawal(one.number, one.complete.digests) is not None
            if digest is None or digest not in one.complete.digests or manifest is None or withdrawn:
                continue
            listing = Listing(one.complete.listing.version, digest, len(manifest.shards), manifest.identity)
            if one.finished and _is_whole(one, listing):
                coming[one.number] = one, listing
            elif one.number in listed:
                resumed[one.number] = one
        return list(coming.values()), [one for number, one in resumed.items() if number not in coming]

    def _clear_targets(self, leaving: Mapping[VersionPlace, VersionPlace]) -> None:
        """Remove what lies where versions go: the same versions, put aside earlier; their pins are kept."""
        for place, target in leaving.items():
            if target.folder.exists():
                if target.pinned.exists():
                    replace_file(place.pinned, b"")
                self.data_dir.check_held()
                for grave in bury(target, self.data_dir.retired):
                    remove_tree(grave)
                self.aside.take(target)
                self.usage.drop(target.folder)
                self.after_step(f"removed the other {place.folder.name}")
            for file in (*target.records, open_mark(target)):
                file.unlink(missing_ok=True)

    def _vacated(
        self, versions: Iterable[AsideVersion], leaving: Collection[VersionPlace]
    ) -> dict[int, list[Move]]:
        """Return what is in the way of versions that come back, and goes to the graves, by number. A version
        whose place has other people's files is not among them."""
        found: dict[int, list[Move]] = {}
        for one in versions:
            place = self.data_dir.place(one.number)
            if place in leaving:
                found[one.number] = []
                continue
            if place.folder.exists() and not all(map(is_versions_file, place.folder.iterdir())):
                log.warning("left alone %s, which holds other files; its version is fetched", place.folder)
                continue
            graves = [
                (file, self.data_dir.retired / f"{file.name}-{secrets.token_hex(8)}")
                for file in (place.folder, *place.records)
                if file.exists()
            ]
            found[one.number] = [(self._relative(file), self._relative(grave)) for file, grave in graves]
        return found

    def _moves(self, places: Iterable[tuple[VersionPlace, VersionPlace]]) -> tuple[Move, ...]:
        """Return the renames that bring versions from place to place, records last. A record that is not
        there when this is planned is not moved: its name may get another version's."""
        moves: list[Move] = []
        for source, target in places:
            pairs = ((source.folder, target.folder), *zip(source.records, target.records, strict=True))
            moves += [(self._relative(one), self._relative(other)) for one, other in pairs if one.exists()]
        return tuple(moves)

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.data_dir.root))


def _is_whole(one: AsideVersion, listing: Listing) -> bool:
    try:
        return check(one.place, listing) is not None
    except (OSError, ManifestError) as error:
        log.warning("%s is not complete any more: %s", one.place.folder, error)
        return False


def _lying(leaving: Mapping[VersionPlace, VersionPlace]) -> dict[VersionPlace, VersionPlace]:
    """Return where those versions lie that have left their places; blocks on the disk."""
    return {place: target for place, target in leaving.items() if target.folder.exists()}
