"""The version folders of a data directory: the parts of its store put together for nodes."""

from __future__ import annotations

import time
from collections.abc import Callable

from shardcast.constants import MAX_DISTRIBUTION_FOLDERS
from shardcast.protocol.distribution import Listing
from shardcast.store.aside import AsideVersions
from shardcast.store.beside import BesideVersions
from shardcast.store.changing import LineChanger
from shardcast.store.data_dir import DataDir
from shardcast.store.directory_writer import DirectoryWriter
from shardcast.store.filled import FilledVersions
from shardcast.store.holds import Holds
from shardcast.store.inventory import Inventory
from shardcast.store.line_change import AfterStep
from shardcast.store.line_record import LineRecord
from shardcast.store.line_versions import LineVersions
from shardcast.store.loading import Loader
from shardcast.store.open_version import OpenVersion
from shardcast.store.payload_checks import PayloadChecks
from shardcast.store.quota import DiskQuota
from shardcast.store.retirement import Retirement
from shardcast.store.served import ServedVersions
from shardcast.store.space_ledger import SpaceLedger
from shardcast.store.version_retention import VersionRetention
from shardcast.store.withdrawals import Withdrawals


class VersionFolders(ServedVersions):
    """The versions of a data directory, served and filled one by one.

    A Shelf, and beside it the operations of the parts, as attributes: this class has no logic of its own. All
    parts share one ``Inventory``; each uses only parts made earlier.

    ============================ =====================================================================
    part                         operations
    ============================ =====================================================================
    ``Loader``                   ``load``
    ``FilledVersions``           ``begin_version``, ``open``, ``keep_survey``, ``check_room``, ``make_room``
    ``Retirement``               ``discard``, ``retire``, ``drop_aside``
    ``VersionRetention``         ``pin``, ``unpin``, ``tidy``, ``try_tidy``, ``keep``
    ``LineVersions``             ``record_listed``, ``unlist``, ``set_known``
    ``Withdrawals``              ``withdraw``, ``withdraw_own``
    ``BesideVersions``           ``has_of_line``, ``begin_beside``
    ``LineChanger``              ``change_line``, ``after_step``
    ============================ =====================================================================

    Attributes:
        data_dir: the directory.
        inventory: the versions, by their state.
        holds: the holds on each version.
        aside: versions of other lines.
        quota: the bytes taken by and allowed to the versions.
    """

    def __init__(
        self,
        data_dir: DataDir,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int | None = None,
    ) -> None:
        """Put the parts together; ``load`` reads the directory.

        Args:
            data_dir: the directory, held by this process.
            keep: number of versions to keep.
            clock: seconds, for ages and holds.
            max_bytes: maximum bytes of all versions; None for no bound.
        """
        inventory = Inventory(data_dir, clock)
        writer = DirectoryWriter(inventory)
        ledger = SpaceLedger(inventory)
        retirement = Retirement(inventory, writer, ledger)
        quota = DiskQuota(inventory, ledger, retirement, max_bytes)
        filled = FilledVersions(
            inventory, writer, quota=quota, retirement=retirement, tidy=lambda: self._retention.try_tidy()
        )
        checks = PayloadChecks(inventory, writer, retirement)
        lines = LineVersions(inventory, writer, filled, retirement)
        withdrawals = Withdrawals(inventory, writer, retirement)
        beside = BesideVersions(inventory, writer, filled)
        self._changer = LineChanger(inventory, writer, filled=filled, beside=beside, retirement=retirement)
        self._loader = Loader(inventory, filled)
        self._retention = VersionRetention(
            inventory, writer, keep=keep, quota=quota,
            retirement=retirement, withdrawals=withdrawals, beside=beside, checks=checks,
        )  # fmt: skip
        super().__init__(inventory, checks)

        self.data_dir: DataDir = data_dir
        self.inventory: Inventory = inventory
        self.holds: Holds = inventory.holds
        self.aside: AsideVersions = inventory.aside
        self.quota: DiskQuota = quota

        self.begin_version, self.open, self.keep_survey = filled.begin, filled.open, filled.surveyed
        self.check_room, self.make_room = filled.check_room, filled.make_room
        self.discard, self.retire, self.drop_aside = (
            retirement.discard,
            retirement.retire,
            retirement.drop_aside,
        )
        self.pin, self.unpin = self._retention.pin, self._retention.unpin
        self.tidy, self.try_tidy = self._retention.tidy, self._retention.try_tidy
        self.record_listed, self.unlist, self.set_known = (
            lines.record_listed,
            lines.unlist,
            lines.set_known,
        )
        self.withdraw, self.withdraw_own = withdrawals.withdraw, withdrawals.withdraw_own
        self.has_of_line, self.begin_beside = beside.has_of, beside.begin_beside
        self.change_line = self._changer.change_line

    def load(self, resume: bool) -> list[str]:
        """Load the versions of the directory; blocks on the disk.

        Args:
            resume: whether versions left open by the last run are continued (a middle) or aborted (an
                origin).

        Returns:
            Messages for the log.

        Raises:
            LocalDiskError: the directory can't be read or written.
        """
        return self._loader.load(resume, self.after_step)

    @property
    def after_step(self) -> AfterStep:
        """Called after each step of a change of line, with its name; a test's place to kill the node."""
        return self._changer.after_step

    @after_step.setter
    def after_step(self, after_step: AfterStep) -> None:
        self._changer.after_step = after_step

    @property
    def keep(self) -> int:
        """How many versions to keep; older ones retire."""
        return self._retention.keep

    @property
    def unready_reason(self) -> str | None:
        """Why the directory is unusable, for ``/ready``; None for a usable one."""
        return None if self.held else self.data_dir.lost_reason

    @property
    def line(self) -> LineRecord:
        """The record of the present line."""
        return self.inventory.line

    @property
    def untrusted(self) -> list[Listing]:
        """Unverified versions left here by an old middle; not served."""
        return self.inventory.untrusted

    @property
    def provisional(self) -> set[int]:
        """The complete versions taken on the word of another server than the authority."""
        return self.inventory.provisional

    @property
    def hidden_numbers(self) -> set[int]:
        """The versions here, complete or in part, that are not listed by the authority."""
        return set(self.inventory.hidden)

    def opened(self, number: int) -> OpenVersion | None:
        """Return the version under way with this number, hidden or not."""
        return self.inventory.open.get(number)
