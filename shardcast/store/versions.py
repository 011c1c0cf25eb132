"""The version folders of a data directory: taken up when its node starts."""

from __future__ import annotations

import logging
from dataclasses import replace as replace_fields

from shardcast.errors import LocalDiskError
from shardcast.filesystem import PART, disk_errors, replace
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.protocol.wire import version_name
from shardcast.sizes import format_count
from shardcast.store.changing import ChangingVersions
from shardcast.store.completed import read_complete
from shardcast.store.line_change import finish_change
from shardcast.store.line_record import LineRecord, origin_words, read_record
from shardcast.store.pins import pinned
from shardcast.store.recovery import check, lines_of, listed
from shardcast.store.verified import VerificationRecord
from shardcast.store.version_place import is_versions_file, remove_version

log = logging.getLogger(__name__)


class VersionFolders(ChangingVersions):
    """What a data directory holds, served as it is and filled version by version."""

    def load(self, resume: bool) -> list[str]:
        """Take up what the directory holds; blocks on the disk. Returns what is worth telling.

        What was open when the node ended goes on (``resume``, a middle) or is given up (an origin).

        Raises:
            LocalDiskError: the directory can't be read or written.
        """
        told: list[str] = []
        self.own_line = not resume
        with disk_errors("could not take up", self.data_dir.root):
            changed_to = finish_change(self.data_dir, self.after_step)
            if changed_to is not None:
                told.append(f"finished the change to the versions of {changed_to}")
            self.data_dir.clear_leftovers()
            told += self.aside.load()
            record = read_record(self.data_dir.line)
            self.line = record or LineRecord()
            listings = listed(self.data_dir)
            numbers = {*self.data_dir.numbers(), *(one.number for one in listings), *self.line.withdrawn}
            # Before anything is given up: a folder that goes now was a version that had its number.
            self.data_dir.never_again(max(self.line.highest, *numbers, 0))
            for listing in listings:
                told += self._take_up_listed(listing)
            for number in self.data_dir.numbers():
                if number not in self._complete and all(number != one.number for one in self.untrusted):
                    told += self._take_up_unlisted(number)
            told += self._settle_line(listings, first=record is None)
            self._complete.write_list()
            here = self.complete_numbers | {one.number for one in self.untrusted}
            self.holds.pinned = pinned(self.data_dir) & here
        return told

    def _take_up_listed(self, listing: Listing) -> list[str]:
        place = self.data_dir.place(listing.number)
        try:
            manifest = check(place, listing)
        except (LocalDiskError, ManifestError) as error:
            return [f"{listing.version} is not complete here any more: {error}"]
        if manifest is None and not self.own_line:
            self.untrusted.append(listing)
            return []
        complete = read_complete(place, listing, manifest)
        if self.line.withdrawal(listing.number, complete.digests):  # a kill came before the list was written
            self._withdrawn[listing.number] = complete
        else:
            self._complete.take_up(complete)
        self.usage.measure(place.folder)
        for part in place.folder.glob(f"*{PART}"):
            part.unlink()
        return []

    def _take_up_unlisted(self, number: int) -> list[str]:
        place, version = self.data_dir.place(number), version_name(number)
        if number in self._withdrawn or self._take_up_withdrawn(number):
            return []
        if not self.own_line and place.manifest.exists() and number not in self.line.withdrawn:
            try:
                opened = self.open(number, lines_of(place, version))
            except ManifestError:
                pass  # it is asked for again
            else:
                whole = opened.live.whole
                if (
                    whole
                    and len(opened.had) == len(whole.shards)
                    and self._is_provisional(number, set(whole.digests.values()))
                ):
                    self._hidden.add(number)
                return [f"going on with {version}: {format_count(len(opened.had), 'shard')} here"]
        if all(is_versions_file(entry) for entry in place.folder.iterdir()):
            remove_version(place.folder)
            VerificationRecord(place.verified).remove()
            return [f"gave up {version}, which was not complete"]
        return [f"left alone {place.folder}, which is not listed and holds other files"]

    def _take_up_withdrawn(self, number: int) -> bool:
        """Keep the files of a withdrawn version, if they are all here."""
        withdrawal, place = self.line.withdrawn.get(number), self.data_dir.place(number)
        if withdrawal is None or not place.manifest.exists():
            return False
        listing = Listing(withdrawal.version, withdrawal.digest, None)
        try:
            self._withdrawn[number] = read_complete(place, listing, check(place, listing))
            self.usage.measure(place.folder)
        except (LocalDiskError, ManifestError):
            return False
        return True

    def _settle_line(self, listings: tuple[Listing, ...], first: bool) -> list[str]:
        """Make the record agree with the versions here. They differ in a directory without a record
        (``first``), in one that an older shardcast wrote to since, and where an origin takes a middle's."""
        told: list[str] = []
        manifests = [one for listing in self.listings if (one := self.manifest_of(listing.version))]
        newest = manifests[-1].header.origin if manifests else None
        origin = newest if first else self.line.origin or newest
        record = replace_fields(self.line, origin=origin)
        if first or self.own_line:
            here = {one.number: one.digest for one in listings if one.number not in record.withdrawn}
            kept = {number: digest for number, digest in record.digests.items() if number not in here}
            record = record.with_digests(kept).listing(listings)
            record = record.listing((), self.data_dir.next - 1)
        if self.own_line:
            if origin not in (None, self.data_dir.origin_id):
                assert origin
                self.data_dir.adopt_origin_id(origin)
                told.append(
                    f"the versions in {self.data_dir.root} are those of {origin_words(origin)}; "
                    "publishing goes on under that id"
                )
            record = replace_fields(record, origin=self.data_dir.origin_id)
        if record != self.line or first:
            replace(self.data_dir.line, record.to_bytes())
            self.line = record
        return told
