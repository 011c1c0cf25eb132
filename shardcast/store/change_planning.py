"""The plan of a change of line: the versions that stay, leave, return whole and return in part."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from shardcast.protocol.distribution import Listing, encode
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.store.aside_place import aside_place, record_of
from shardcast.store.aside_version import AsideVersion
from shardcast.store.completed import CompleteVersion
from shardcast.store.data_dir import DataDir
from shardcast.store.inventory import Inventory
from shardcast.store.line_change import Move, Plan
from shardcast.store.line_record import LineRecord
from shardcast.store.open_version import OpenVersion
from shardcast.store.recovery import check_version
from shardcast.store.version_place import VersionPlace, is_versions_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewLine:
    """The line to change over to.

    Attributes:
        origin: origin id.
        listed: payload digests listed by the line's authority, by number.
        highest: the highest number ever on the line.
    """

    origin: str | None
    listed: Mapping[int, str]
    highest: int


@dataclass(frozen=True)
class Returning:
    """Versions of the new line lying aside.

    Attributes:
        whole: complete versions, with their lines in the new list.
        partial: incomplete versions.
    """

    whole: Sequence[tuple[AsideVersion, Listing]]
    partial: Sequence[AsideVersion]

    @property
    def versions(self) -> list[AsideVersion]:
        """All of them."""
        return [*(version for version, _ in self.whole), *self.partial]

    def only(self, numbers: Iterable[int]) -> Returning:
        """Return those with these numbers."""
        kept = set(numbers)
        whole = [(version, listing) for version, listing in self.whole if version.number in kept]
        return Returning(whole, [version for version in self.partial if version.number in kept])

    def without(self, numbers: Iterable[int]) -> Returning:
        """Return those with other numbers."""
        return self.only({version.number for version in self.versions} - set(numbers))


@dataclass(frozen=True)
class Change:
    """A change of line, and the state after it.

    Attributes:
        plan: steps.
        leaving: later place of each leaving version, by its present place.
        staying: versions of both lines.
        returning: returning versions, in their present places.
    """

    plan: Plan
    leaving: Mapping[VersionPlace, VersionPlace]
    staying: Sequence[CompleteVersion]
    returning: Returning


def record_to_be(inventory: Inventory, line: NewLine) -> LineRecord:
    """Return the record of the new line.

    The remembered record counts up to the first number with another digest by now: the line was restored
    there, and later versions will come anew.
    """
    current = inventory.line
    known = current if current.origin in (None, line.origin) else inventory.aside.record(line.origin)
    parted = min(
        (number for number, digest in line.listed.items() if known.digests.get(number, digest) != digest),
        default=line.highest + 1,
    )
    kept = {number: digest for number, digest in known.digests.items() if number < parted}
    record = replace(known, origin=line.origin, highest=line.highest)
    return record.with_digests({**kept, **line.listed})


def returning(versions: Iterable[AsideVersion], record: LineRecord, listed: Mapping[int, str]) -> Returning:
    """Return the returning versions of the new line; blocks on the disk.

    Args:
        versions: versions of the line lying aside.
        record: the future record of the line.
        listed: payload digests listed by the line's authority, by number.
    """
    whole: dict[int, tuple[AsideVersion, Listing]] = {}
    partial: dict[int, AsideVersion] = {}
    for version in versions:
        number, complete = version.number, version.complete
        digest, manifest = record.digests.get(number), complete.manifest
        withdrawn = record.withdrawal(number, complete.digests) is not None
        if digest is None or digest not in complete.digests or manifest is None or withdrawn:
            continue
        listing = Listing(complete.listing.version, digest, len(manifest.shards), manifest.identity)
        if version.finished and _is_whole(version, listing):
            whole[number] = version, listing
        elif number in listed:
            partial[number] = version
    rest = [version for number, version in partial.items() if number not in whole]
    return Returning(list(whole.values()), rest)


def _is_whole(version: AsideVersion, listing: Listing) -> bool:
    """Return whether all of a version aside is still here and right; blocks on the disk."""
    try:
        return check_version(version.place, listing) is not None
    except (OSError, ManifestError) as error:
        log.warning("%s is not complete any more: %s", version.place.folder, error)
        return False


def stays(inventory: Inventory, complete: CompleteVersion, line: NewLine) -> bool:
    """Return whether a complete version is of the new line too, and stays in its place."""
    if line.listed.get(complete.listing.number) not in complete.digests:
        return False
    if complete.place.folder.parent != inventory.data_dir.root:
        return False
    own = complete.manifest.header.origin if complete.manifest else None
    return line.origin in (None, inventory.line.origin) or own in (None, line.origin)


def stays_open(inventory: Inventory, opened: OpenVersion, line: NewLine) -> bool:
    """Return whether an open version is of the new line too, and goes on."""
    live = opened.live
    own = live.header.origin if live.has_header else None
    if live.manifest:
        of_line = line.origin in (None, inventory.line.origin) or own in (None, line.origin)
        return of_line and line.listed.get(opened.number) in live.manifest.digests.values()
    # The new line's, since this directory was of none so far.
    return inventory.line.origin is None and own == line.origin and opened.number not in line.listed


def leaving(inventory: Inventory, staying: Sequence[CompleteVersion]) -> dict[VersionPlace, VersionPlace]:
    """Return the new place of each leaving version, by its present place.

    Every local version leaves, except open ones and staying ones.
    """
    data_dir = inventory.data_dir
    versions = [*inventory.complete.versions, *inventory.withdrawn.values()]
    here = [(version.listing.number, version.listing.digest, version.place) for version in versions]
    here += [
        (listing.number, listing.digest, data_dir.place(listing.number)) for listing in inventory.untrusted
    ]
    kept = {complete.place for complete in staying}
    origin = inventory.line.origin
    return {
        place: aside_place(data_dir, origin, number, digest)
        for number, digest, place in here
        if place not in kept
    }


class ChangePlanner:
    """Plans the renames of a change of line; blocks on the disk."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._data_dir = inventory.data_dir

    def plan(
        self,
        record: LineRecord,
        leaving: Mapping[VersionPlace, VersionPlace],
        staying: Sequence[CompleteVersion],
        returning: Returning,
    ) -> Change:
        """Return the change to a line, by the line's future record.

        A version does not return to a place with other people's files, and is fetched.
        """
        vacated = self._vacated(returning.versions, leaving)
        returning = returning.only(vacated)
        listings = [*(complete.listing for complete in staying), *(listing for _, listing in returning.whole)]
        back = [(version.place, self._data_dir.place(version.number)) for version in returning.versions]
        plan = Plan(
            aside=self._moves(leaving.items()) + tuple(chain.from_iterable(vacated.values())),
            back=self._moves(back),
            time=time.time(),
            left=self._left(),
            record=record,
            distribution=encode(sorted(listings, key=lambda listing: listing.number)),
        )
        return Change(plan, leaving, staying, returning)

    def _left(self) -> tuple[str, LineRecord] | None:
        """Return the new path of the current line's record, and the record; None for an empty record."""
        line = self._inventory.line
        if line == LineRecord():
            return None
        return _relative(self._data_dir, record_of(self._data_dir, line.origin)), line

    def _vacated(
        self, versions: Iterable[AsideVersion], leaving: Mapping[VersionPlace, VersionPlace]
    ) -> dict[int, list[Move]]:
        """Return the obstacles in the places of returning versions, to be moved to the graves, by number.

        A version whose place has other people's files is not among them.
        """
        found: dict[int, list[Move]] = {}
        for version in versions:
            place = self._data_dir.place(version.number)
            if place in leaving:
                found[version.number] = []
                continue
            if place.folder.exists() and not all(map(is_versions_file, place.folder.iterdir())):
                log.warning("left alone %s, which holds other files; its version is fetched", place.folder)
                continue
            graves = [
                (file, self._data_dir.retired / f"{file.name}-{secrets.token_hex(8)}")
                for file in (place.folder, *place.records)
                if file.exists()
            ]
            found[version.number] = [_move(self._data_dir, file, grave) for file, grave in graves]
        return found

    def _moves(self, places: Iterable[tuple[VersionPlace, VersionPlace]]) -> tuple[Move, ...]:
        """Return the renames for versions from place to place, records last.

        A record missing at the time of planning is not moved: its name may get another version's.
        """
        moves: list[Move] = []
        for source, target in places:
            pairs = ((source.folder, target.folder), *zip(source.records, target.records, strict=True))
            moves += [_move(self._data_dir, old, new) for old, new in pairs if old.exists()]
        return tuple(moves)


def _move(data_dir: DataDir, source: Path, target: Path) -> Move:
    return _relative(data_dir, source), _relative(data_dir, target)


def _relative(data_dir: DataDir, path: Path) -> str:
    return str(path.relative_to(data_dir.root))
