"""The versions of a data directory as they are served: a Shelf."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import COMPLETE, KNOWN, OPEN, WITHDRAWN, Event
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.completed import unsurveyed_spans
from shardcast.store.events import Events
from shardcast.store.holds import LEASE, READ, Reader
from shardcast.store.interfaces import Span
from shardcast.store.inventory import Inventory
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.payload_checks import PayloadChecks


class ServedVersions:
    """A Shelf over an inventory.

    Nothing here changes a version; a payload found changed at a request for a shard is handed to the payload
    checks.
    """

    def __init__(self, inventory: Inventory, payload_checks: PayloadChecks) -> None:
        self._inventory = inventory
        self._payload_checks = payload_checks

    @property
    def events(self) -> Events:
        """The events of the versions."""
        return self._inventory.events

    @property
    def held(self) -> bool:
        """Whether the directory at the path is the held one; nothing is served otherwise."""
        return self._inventory.held

    # The versions

    @property
    def listings(self) -> tuple[Listing, ...]:
        """The complete versions, oldest first."""
        return self._inventory.complete.listings

    @property
    def complete_numbers(self) -> set[int]:
        """The numbers of the complete versions."""
        return self._inventory.complete.numbers

    @property
    def open_numbers(self) -> set[int]:
        """The versions being published or received, without hidden ones."""
        return self._inventory.open.keys() - self._inventory.hidden

    @property
    def unsurveyed(self) -> list[Listing]:
        """Versions whose manifest is still to be made, newest first."""
        return [listing for listing in reversed(self.listings) if self.manifest_of(listing.version) is None]

    def distribution(self) -> bytes:
        """Return the bytes of the distribution list."""
        return self._inventory.complete.distribution if self.held else b""

    def versions_now(self) -> list[Event]:
        """Return an event for every local, known or withdrawn version."""
        if not self.held:
            return []
        inventory, seq = self._inventory, self.events.seq
        events = [Event(seq, COMPLETE, listing.version, listing) for listing in self.listings]
        events += [Event(seq, KNOWN, known.version, known) for _, known in sorted(inventory.known.items())]
        events += [Event(seq, OPEN, version_name(number)) for number in sorted(self.open_numbers)]
        for _, withdrawal in sorted(inventory.line.withdrawn.items()):
            version = withdrawal.version
            listing = Listing(version, withdrawal.digest, None)
            events.append(Event(seq, WITHDRAWN, version, listing, withdrawal.reason))
        return events

    def has(self, version: str) -> bool:
        """Return whether the version is here, complete or open."""
        return self._inventory.number_of(version) is not None

    def verified_counts(self, version: str) -> tuple[int, int]:
        """Return how many shards and bytes of a version are here, verified."""
        opened, complete = self._opened(version), self._inventory.complete.get(version)
        if opened:
            return len(opened.verified_shards), opened.verified_bytes
        return (complete.listing.shards or 0, complete.size) if complete else (0, 0)

    def in_doubt(self, version: str) -> bool:
        """Return whether a version's payload is being hashed now; its shards are not served meanwhile."""
        return self._payload_checks.in_doubt(version)

    # Manifests

    def live(self, version: str) -> LiveManifest | None:
        """Return the manifest of an open version with verifiable single shards; None for others."""
        opened = self._opened(version)
        return opened.live if opened and (opened.live.raw or not opened.live.has_header) else None

    def manifest_of(self, version: str) -> Manifest | None:
        """Return the manifest of a complete version; None where there is none."""
        complete = self._inventory.complete.get(version)
        return complete.manifest if complete else None

    def manifest(self, version: str) -> bytes | None:
        """Return a complete version's manifest, verbatim; None where there is none."""
        manifest = self.manifest_of(version) if self.held else None
        return manifest.raw if manifest else None

    # Shards

    def shard(self, version: str, number: int) -> Span | None:
        """Return the place of a whole and verified shard; None where there is none (yet)."""
        if not self.held:
            return None
        opened = self._opened(version)
        if opened:
            return opened.shard(number)
        complete = self._inventory.complete.get(version)
        if complete is None:
            return None
        span = complete.shard(number)
        if span is None and complete.payload_changed:
            self._payload_checks.start(complete.listing.number)
        return span

    def shard_of_another_line(self, version: str, number: int, if_match: str) -> Span | None:
        """Return the place of the shard named by an ``If-Match``, of a version of another line."""
        return self._inventory.aside.shard(version, number, if_match) if self.held else None

    def spans(self, listing: Listing) -> list[Span]:
        """Return the shards' files of a version without a manifest."""
        return unsurveyed_spans(self._inventory.data_dir.place(listing.number), listing)

    def landing(self, version: str, number: int) -> Landing | None:
        """Return an arriving shard; None for others."""
        return self.landings(version).get(number)

    def landings(self, version: str) -> Mapping[int, Landing]:
        """Return the arriving shards of an open version, by their numbers."""
        opened = self._opened(version)
        return opened.landings if opened else {}

    async def wait_for_shard(self, version: str, number: int) -> None:
        """Have a shard of an open version fetched next, and wait until it is here or begins to arrive.

        Returns at once for a version that is not open.
        """
        opened = self._opened(version)
        if opened:
            await opened.wait_for_shard(number)

    def _opened(self, version: str) -> OpenVersion | None:
        return self._inventory.open.get(version_number(version) or 0)

    # Readers

    def reading(self, version: str, client: str) -> contextlib.AbstractContextManager[Reader]:
        """Enter a read of a version, and so keep the version; the reader counts the bytes."""
        number = self._inventory.number_of(version)
        if number is None:
            return contextlib.nullcontext(Reader(READ, client))
        return self._inventory.holds.held(number, READ, client)

    @contextlib.contextmanager
    def leased(self, version: str, client: str) -> Iterator[bool]:
        """Enter a lease on a version, and so keep the version; False for a missing one."""
        number = self._inventory.number_of(version)
        if number is None:
            yield False
        else:
            with self._inventory.holds.held(number, LEASE, client):
                yield True
