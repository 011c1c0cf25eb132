"""How long the versions of a data directory stay: retention, pins, and tidying as time goes by."""

from __future__ import annotations

import asyncio
import logging

from shardcast.log_fields import about
from shardcast.policy.retention import surplus
from shardcast.protocol.wire import version_name
from shardcast.store.beside import BesideVersions
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.inventory import Inventory
from shardcast.store.payload_checks import PayloadChecks
from shardcast.store.pins import pin, unpin
from shardcast.store.quota import DiskQuota
from shardcast.store.retirement import Retirement
from shardcast.store.withdrawals import Withdrawals

log = logging.getLogger(__name__)


class VersionRetention:
    """Retires and removes versions whose time is up.

    Attributes:
        keep: how many versions to keep; older ones retire.
    """

    def __init__(
        self, inventory: Inventory, writer: DirectoryWriter, *, keep: int, quota: DiskQuota,
        retirement: Retirement, withdrawals: Withdrawals, beside: BesideVersions, checks: PayloadChecks,
    ) -> None:  # fmt: skip
        self.keep = keep
        self._inventory = inventory
        self._writer = writer
        self._quota = quota
        self._retirement = retirement
        self._withdrawals = withdrawals
        self._beside = beside
        self._checks = checks

    async def pin(self, version: str) -> None:
        """Keep a version until it is unpinned; also over restarts.

        Raises:
            VersionNotOffered: the version is not here, or not complete.
            LocalDiskError: the pin could not be recorded.
        """
        async with self._writer.exclusive():
            number = await asyncio.to_thread(pin, self._inventory.data_dir, version)
            self._inventory.holds.pinned.add(number)

    async def unpin(self, version: str) -> None:
        """Subject a version to retention again.

        Raises:
            VersionNotOffered: the version is not pinned.
            LocalDiskError: the change could not be recorded.
        """
        async with self._writer.exclusive():
            number = await asyncio.to_thread(unpin, self._inventory.data_dir, version)
            self._inventory.holds.pinned.discard(number)
        await self.try_tidy()

    async def try_tidy(self) -> None:
        """Tidy without raising: a failure is logged, and tried again later."""
        try:
            await self.tidy()
        except OSError as error:
            log.error("could not tidy the versions here, and will try again: %s", error)

    async def tidy(self) -> None:
        """Retire and remove versions whose time is up.

        Also end receptions without progress, finish withdrawals, repeat failed removals, and begin to hash
        changed payloads.

        Raises:
            OSError: the disk failed, or the directory at the path is another one.
        """
        await self._beside.end_abandoned()
        await self._withdrawals.finish()
        inventory = self._inventory
        if not inventory.held:
            return
        await self._retire_surplus()
        for number in self._beyond_keep({*inventory.withdrawn, *inventory.hidden}):
            await self._retirement.drop_unlisted(number)
        for version in inventory.aside.expired(bool(inventory.complete.numbers)):
            await self._retirement.drop_aside(version, "a day has passed")
        async with self._writer.exclusive():
            numbers = inventory.complete.numbers | inventory.open.keys()
            await self._retirement.remove_again([inventory.data_dir.place(number) for number in numbers])
        await self._retirement.empty()
        if not inventory.own_line:
            await asyncio.to_thread(self._writer.spare.keep)
        self._checks.start_changed()

    async def _retire_surplus(self) -> None:
        """Retire versions beyond retention without holds.

        Provisional ones take no place from others.
        """
        inventory = self._inventory
        provisional = inventory.provisional
        free = inventory.complete.numbers - inventory.holds.pinned
        beyond = surplus(free - provisional, self.keep) + surplus(free & provisional, self.keep)
        for number in inventory.holds.retirable(sorted(beyond)):
            log.info(
                "retired %s: newer versions took its place",
                version_name(number),
                extra=about(version=version_name(number)),
            )
            await self._retirement.retire(number)
        for number in self._quota.surplus_versions(provisional & inventory.complete.numbers):
            log.info(
                "retired %s: the versions here take more than --max-bytes",
                version_name(number),
                extra=about(version=version_name(number)),
            )
            await self._retirement.retire(number)

    def _beyond_keep(self, numbers: set[int]) -> list[int]:
        """Return those numbers with at least ``keep`` newer listed versions."""
        listed = self._inventory.complete.numbers
        newer = {number: sum(other > number for other in listed) for number in numbers}
        return [number for number in sorted(numbers) if newer[number] >= self.keep]
