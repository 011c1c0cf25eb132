"""The loading of a data directory's versions at the start of the node."""

from __future__ import annotations

import logging
from dataclasses import replace as replace_fields

from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError
from shardcast.filesystem import replace
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.protocol.wire import version_name
from shardcast.sizes import format_count
from shardcast.store.aside_loading import load_aside
from shardcast.store.completed import read_complete
from shardcast.store.filled import FilledVersions
from shardcast.store.inventory import Inventory
from shardcast.store.line_change import AfterStep, finish_change
from shardcast.store.line_record import LineRecord, origin_words, read_record
from shardcast.store.pins import pinned
from shardcast.store.recovery import check_version, read_list, read_open_manifest
from shardcast.store.verified import VerificationRecord
from shardcast.store.version_place import is_versions_file, remove_version
from shardcast.temporary_files import PART

log = logging.getLogger(__name__)


class Loader:
    """A loader of an inventory from the disk, before the event loop runs."""

    def __init__(self, inventory: Inventory, filled: FilledVersions) -> None:
        self._inventory = inventory
        self._filled = filled

    def load(self, resume: bool, after_step: AfterStep) -> list[str]:
        """Load the contents of the directory; blocks on the disk.

        Args:
            resume: whether versions open at the node's end go on (a middle) or are aborted (an origin).
            after_step: called after each step of a change of line finished here.

        Returns:
            Messages for the log.

        Raises:
            LocalDiskError: the directory can't be read or written.
        """
        messages: list[str] = []
        inventory, data_dir = self._inventory, self._inventory.data_dir
        inventory.own_line = not resume
        with disk_errors("could not take up", data_dir.root):
            changed_to = finish_change(data_dir, after_step)
            if changed_to is not None:
                messages.append(f"finished the change to the versions of {changed_to}")
            data_dir.clear_leftovers()
            messages += load_aside(inventory)
            record = read_record(data_dir.line)
            inventory.line = record or LineRecord()
            listings = read_list(data_dir)
            numbers = {
                *data_dir.numbers(),
                *(listing.number for listing in listings),
                *inventory.line.withdrawn,
            }
            # Before any removal: a folder removed now was a version with its number.
            data_dir.mark_used(max(inventory.line.highest, *numbers, 0))
            for listing in listings:
                messages += self._take_up_listed(listing)
            taken = inventory.complete.numbers | {listing.number for listing in inventory.untrusted}
            for number in data_dir.numbers():
                if number not in taken:
                    messages += self._take_up_unlisted(number)
            messages += self._settle_line(listings, first=record is None)
            inventory.complete.write_list()
            inventory.holds.pinned = pinned(data_dir) & taken
        return messages

    def _take_up_listed(self, listing: Listing) -> list[str]:
        """Load a listed version; return messages for the log."""
        inventory = self._inventory
        place = inventory.data_dir.place(listing.number)
        try:
            manifest = check_version(place, listing)
        except (LocalDiskError, ManifestError) as error:
            return [f"{listing.version} is not complete here any more: {error}"]
        if manifest is None and not inventory.own_line:
            inventory.untrusted.append(listing)
            return []
        complete = read_complete(place, listing, manifest)
        if inventory.line.withdrawal(listing.number, complete.digests):
            # A kill came between the record of the withdrawal and the list.
            inventory.withdrawn[listing.number] = complete
        else:
            inventory.complete.take_up(complete)
        inventory.usage.measure(place.folder)
        for part in place.folder.glob(f"*{PART}"):
            part.unlink()
        return []

    def _take_up_unlisted(self, number: int) -> list[str]:
        """Load a version's folder missing from the list, or remove it.

        Returns:
            Messages for the log.
        """
        inventory = self._inventory
        place, version = inventory.data_dir.place(number), version_name(number)
        if number in inventory.withdrawn or self._take_up_withdrawn(number):
            return []
        if not inventory.own_line and place.manifest.exists() and number not in inventory.line.withdrawn:
            try:
                self._resume(number)
                return []
            except ManifestError:
                pass  # the folder goes, and the version is fetched anew
        if all(is_versions_file(entry) for entry in place.folder.iterdir()):
            remove_version(place.folder)
            VerificationRecord(place.verified).remove()
            return [f"discarded {version}, which was not complete"]
        return [f"left alone {place.folder}, which is not listed and holds other files"]

    def _resume(self, number: int) -> None:
        """Continue a version left open by the last run.

        Raises:
            ManifestError: the manifest is malformed.
        """
        inventory, version = self._inventory, version_name(number)
        opened = self._filled.open(number, read_open_manifest(inventory.data_dir.place(number), version))
        whole = opened.live.manifest
        is_whole = whole is not None and len(opened.verified_shards) == len(whole.shards)
        if whole and is_whole and inventory.is_provisional(number, set(whole.digests.values())):
            inventory.hidden.add(number)
        log.info("continuing %s with %s here", version, format_count(len(opened.verified_shards), "shard"))

    def _take_up_withdrawn(self, number: int) -> bool:
        """Keep the files of a withdrawn version; return whether all of them are here."""
        inventory = self._inventory
        withdrawal, place = inventory.line.withdrawn.get(number), inventory.data_dir.place(number)
        if withdrawal is None or not place.manifest.exists():
            return False
        listing = Listing(withdrawal.version, withdrawal.digest, None)
        try:
            inventory.withdrawn[number] = read_complete(place, listing, check_version(place, listing))
            inventory.usage.measure(place.folder)
        except (LocalDiskError, ManifestError):
            return False
        return True

    def _settle_line(self, listings: tuple[Listing, ...], *, first: bool) -> list[str]:
        """Make the record of the line agree with the local versions; return messages for the log.

        They differ in a directory without a record (``first``), after writes by an older shardcast, and when
        an origin takes a middle's directory.
        """
        messages: list[str] = []
        inventory, data_dir = self._inventory, self._inventory.data_dir
        manifests = [complete.manifest for complete in inventory.complete.versions if complete.manifest]
        newest = manifests[-1].header.origin if manifests else None
        origin = newest if first else inventory.line.origin or newest
        record = replace_fields(inventory.line, origin=origin)
        if first or inventory.own_line:
            here = {
                listing.number: listing.digest
                for listing in listings
                if listing.number not in record.withdrawn
            }
            kept = {number: digest for number, digest in record.digests.items() if number not in here}
            record = record.with_digests(kept).listing(listings)
            record = record.listing((), data_dir.next - 1)
        if inventory.own_line:
            if origin not in (None, data_dir.origin_id):
                assert origin
                data_dir.adopt_origin_id(origin)
                messages.append(
                    f"the versions in {data_dir.root} are those of {origin_words(origin)}; "
                    "publishing goes on under that id"
                )
            record = replace_fields(record, origin=data_dir.origin_id)
        if record != inventory.line or first:
            replace(data_dir.line, record.to_bytes())
            inventory.line = record
        return messages
