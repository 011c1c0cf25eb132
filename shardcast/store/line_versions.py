"""What the authority of a line says of its versions, and what follows for those that are here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from shardcast.concurrency import in_thread
from shardcast.errors import VersionNotOffered
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import KNOWN, RETIRED, WITHDRAWN
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.completed import Complete, read_complete
from shardcast.store.disk_usage import space_of
from shardcast.store.filled import FilledVersions, withdrawn_error
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion

log = logging.getLogger(__name__)


class LineVersions(FilledVersions):
    """The versions of a line, as its authority lists, knows and withdraws them."""

    # What the authority lists

    async def record_listed(
        self, listings: Iterable[Listing], highest: int | None = None, origin: str | None = None
    ) -> None:
        """Remember, durably, that the authority lists these, and the highest number that it tells of. What is
        here already and was not listed for want of its word is listed now. A line without an origin id, of
        0.1.0, goes on under ``origin``.

        Raises:
            LocalDiskError: it could not be written down.
        """
        async with self._exclusive():
            record = self.line.listing(listings, highest, origin)
            if record is self.line:
                return
            await self._put_record(record)
            for number in sorted(self._hidden):
                await self._reveal(number)

    async def _reveal(self, number: int) -> None:
        """List or tell of a hidden version, now that the authority lists it; under the lock."""
        opened = self._open.get(number)
        manifest = opened.live.whole if opened else None
        if opened is None or manifest is None:
            return
        digest = manifest.digests[opened.listed]
        if self._is_provisional(number, {digest}) or self.line.withdrawal(number, {digest}):
            return
        if opened.finished:
            listing = Listing(manifest.version, digest, len(manifest.shards), manifest.identity)
            await self._list(await asyncio.to_thread(read_complete, opened.place, listing, manifest))
        else:
            self._reveal_open(number)

    async def unlist(self, number: int) -> None:
        """Take a provisional version off the list. What there is of it stays as an open version that is told
        of to nobody, so that nothing is fetched again if the authority lists it later.

        Raises:
            LocalDiskError: the list could not be written.
        """
        async with self._exclusive():
            if number not in self.provisional:
                return
            complete = await self._complete.remove(number)
            self.holds.pinned.discard(number)
            self.events.tell(RETIRED, version_name(number))
            if complete.manifest is not None and complete.looks is None:
                opened = await in_thread(self._make_hidden, complete, undo=self._hide)
                self._hide(opened)
            else:  # an old node's, whose single shards can't be verified
                await self._removing.remove(complete.place)
                self._let_go(number)
        await self._removing.empty()

    def _make_hidden(self, complete: Complete) -> OpenVersion:
        """Return an open version of a complete one; blocks on the disk."""
        manifest, number = complete.manifest, complete.listing.number
        assert manifest
        listed = next(name for name, one in manifest.digests.items() if one == complete.listing.digest)
        opened = self._make(number, LiveManifest.of(manifest), listed)
        opened.finished = len(opened.had) == len(manifest.shards)
        return opened

    def _hide(self, opened: OpenVersion) -> None:
        self._begin_open(opened)
        self._hidden.add(opened.number)

    def set_known(self, listings: Mapping[int, Listing]) -> None:
        """Tell of the versions that the authority lists and that are not complete here."""
        known = {
            number: listing
            for number, listing in listings.items()
            if number not in self._complete and self.line.withdrawal(number, {listing.digest}) is None
        }
        before, self.known = self.known, known
        for number in sorted(before.keys() - known.keys() - self._complete.numbers):
            self.events.tell(RETIRED, version_name(number))
        for number, listing in sorted(known.items()):
            if before.get(number) != listing:
                self.events.tell(KNOWN, listing.version, listing)

    # Room for what is to be received

    async def check_room(self, manifest: Manifest) -> None:
        """Look whether a version can be taken, before anything of it is.

        Raises:
            NoRoom: it can't.
        """
        lacking = await asyncio.to_thread(self._lacking, manifest)
        await self.room.check(version_number(manifest.version) or 0, manifest, lacking)

    async def make_room(self, manifest: Manifest, error: OSError) -> bool:
        """Make room for a version that can't be begun, since the disk said by an ``error`` that it is full;
        returns whether to try again.

        Raises:
            LocalDiskError: what was to go can't be removed.
        """
        lacking = await asyncio.to_thread(self._lacking, manifest)
        return await self.room.full_before(version_number(manifest.version) or 0, manifest, lacking, error)

    def _lacking(self, manifest: Manifest) -> int:
        """Return the bytes on the disk that a version would take beside what can be linked; blocks."""
        shards = (one for one in manifest.shards if one.sha256 is None or self._find(one.sha256) is None)
        return sum(space_of(one.size) for one in shards)

    # What its publisher took back

    async def withdraw(self, withdrawal: Withdrawal) -> None:
        """Stop offering a version for good: durably in the line's record first, then off the list. Its files
        stay until newer versions take its place.

        Raises:
            LocalDiskError: it could not be written down.
        """
        number = withdrawal.number
        async with self._exclusive():
            known = self.line.withdrawal(number, {withdrawal.digest})
            await self._put_record(self.line.withdrawing(withdrawal))
            withdrawal = self.line.withdrawn.get(number, withdrawal)
            complete = self._complete.get(withdrawal.version)
            taken_off = complete is not None and withdrawal.digest in complete.digests
            if taken_off:
                self._withdrawn[number] = await self._complete.remove(number)
                self.holds.pinned.discard(number)
            listing = self.known.get(number)
            unknown = listing is not None and listing.digest == withdrawal.digest
            if unknown:
                del self.known[number]
            if taken_off or unknown:
                self.events.tell(RETIRED, withdrawal.version)  # readers of 0.4.0 know no withdrawals
            if known is None or taken_off:
                told = Listing(withdrawal.version, withdrawal.digest, None)
                self.events.tell(WITHDRAWN, withdrawal.version, told, withdrawal.reason)
                log.warning("%s", withdrawn_error(withdrawal))
            opened = self._open.get(number)
            whole = opened.live.whole if opened else None
            # The digest of a version that is being made is not known yet; its number is never used again.
            if opened and (whole is None or withdrawal.digest in whole.digests.values()):
                await self._discard(number, withdrawal)

    async def tidy(self) -> None:
        await self._finish_withdrawals()
        await super().tidy()

    async def _finish_withdrawals(self) -> None:
        """Take off the list what was withdrawn and is still on it, because the list could not be written."""
        for number, withdrawal in self.line.withdrawn.items():
            complete = self._complete.get(withdrawal.version)
            if complete is not None and self.line.withdrawal(number, complete.digests) and self.held:
                await self.withdraw(withdrawal)

    async def withdraw_own(self, version: str, reason: str = "") -> Withdrawal:
        """Withdraw a version that was published here, complete or retired by now.

        Raises:
            VersionNotOffered: there was no such version.
            LocalDiskError: it could not be written down.
        """
        number = version_number(version) or 0
        known, complete = self.line.withdrawn.get(number), self._complete.get(version)
        digest = complete.listing.digest if complete else self.line.digests.get(number)
        if known is not None and complete is None and digest in (None, known.digest):
            return known
        if digest is None:
            here = ", ".join(one.version for one in self.listings) or "nothing"
            raise VersionNotOffered(
                f"{version} was never complete in {self.data_dir.root}, which holds {here}"
            )
        await self.withdraw(Withdrawal(version, digest, reason))
        return self.line.withdrawn[number]
