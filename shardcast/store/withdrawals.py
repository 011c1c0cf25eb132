"""Withdrawals of versions by their publisher."""

from __future__ import annotations

import logging

from shardcast.errors import VersionNotOffered
from shardcast.log_fields import about
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import RETIRED, WITHDRAWN
from shardcast.protocol.wire import version_number
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.inventory import Inventory
from shardcast.store.line_record import withdrawn_error
from shardcast.store.retirement import Retirement

log = logging.getLogger(__name__)


class Withdrawals:
    """Withdraws versions of the current line."""

    def __init__(self, inventory: Inventory, writer: DirectoryWriter, retirement: Retirement) -> None:
        self._inventory = inventory
        self._writer = writer
        self._retirement = retirement

    async def withdraw(self, withdrawal: Withdrawal) -> None:
        """Stop offering a version for good: durably in the line's record first, then off the list.

        The files stay until newer versions take the version's place; an open version is aborted.

        Raises:
            LocalDiskError: the withdrawal could not be recorded.
        """
        inventory, number = self._inventory, withdrawal.number
        async with self._writer.exclusive():
            known = inventory.line.withdrawal(number, {withdrawal.digest})
            await self._writer.put_record(inventory.line.withdrawing(withdrawal))
            withdrawal = inventory.line.withdrawn.get(number, withdrawal)
            complete = inventory.complete.get(withdrawal.version)
            taken_off = complete is not None and withdrawal.digest in complete.digests
            if taken_off:
                inventory.withdrawn[number] = await inventory.complete.remove(number)
                inventory.holds.pinned.discard(number)
            listing = inventory.known.get(number)
            was_known = listing is not None and listing.digest == withdrawal.digest
            if was_known:
                del inventory.known[number]
            if taken_off or was_known:
                inventory.events.add(RETIRED, withdrawal.version)  # readers of 0.4.0 know no withdrawals
            if known is None or taken_off:
                withdrawn = Listing(withdrawal.version, withdrawal.digest, None)
                inventory.events.add(WITHDRAWN, withdrawal.version, withdrawn, withdrawal.reason)
                log.warning("%s", withdrawn_error(withdrawal), extra=about(version=withdrawal.version))
            opened = inventory.open.get(number)
            whole = opened.live.manifest if opened else None
            # The digest of a version still being made is unknown; its number is never used again.
            if opened and (whole is None or withdrawal.digest in whole.digests.values()):
                await self._retirement.discard_locked(number, withdrawal)

    async def finish(self) -> None:
        """Take withdrawn versions off the list, if an earlier write of the list failed.

        Raises:
            LocalDiskError: the list could not be written again.
        """
        inventory = self._inventory
        for number, withdrawal in inventory.line.withdrawn.items():
            complete = inventory.complete.get(withdrawal.version)
            listed = complete is not None and inventory.line.withdrawal(number, complete.digests)
            if listed and inventory.held:
                await self.withdraw(withdrawal)

    async def withdraw_own(self, version: str, reason: str = "") -> Withdrawal:
        """Withdraw a version published here, complete or retired by now.

        Returns:
            The withdrawal; for a version already withdrawn, the first one.

        Raises:
            VersionNotOffered: there was no such version.
            LocalDiskError: the withdrawal could not be recorded.
        """
        inventory, number = self._inventory, version_number(version) or 0
        known, complete = inventory.line.withdrawn.get(number), inventory.complete.get(version)
        digest = complete.listing.digest if complete else inventory.line.digests.get(number)
        if known is not None and complete is None and digest in (None, known.digest):
            return known
        if digest is None:
            here = ", ".join(listing.version for listing in inventory.complete.listings) or "nothing"
            raise VersionNotOffered(
                f"{version} was never complete in {inventory.data_dir.root}, which holds {here}"
            )
        await self.withdraw(Withdrawal(version, digest, reason))
        return inventory.line.withdrawn[number]
