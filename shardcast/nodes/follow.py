"""A client that stays and downloads each new version of its line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    LocalDiskError,
    NoServerReachable,
    ShardcastError,
    TransferFailed,
    VersionAborted,
    VersionWithdrawn,
)
from shardcast.nodes.download import Downloads, Watch
from shardcast.nodes.followed import FollowedFolder, line_origin
from shardcast.nodes.output_names import output_name
from shardcast.nodes.release import Release
from shardcast.policy.fetch_order import FetchQueue
from shardcast.policy.standing import LineChange, LineMemory, Standing
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import version_name
from shardcast.transfer.workers import Transfer
from shardcast.upstream.abandon import NoProgress, unless
from shardcast.upstream.follow import Following
from shardcast.upstream.offers import offered

log = logging.getLogger(__name__)


class Follow:
    """A run of ``Client.follow``.

    Attributes:
        memory: what it remembers of its line.
    """

    def __init__(
        self,
        downloads: Downloads,
        followed: FollowedFolder,
        first: int | None,
        every: bool,
        check_interval: float,
        watch: Watch | None,
        resume: bool = False,
        accepted: str | None = None,
    ) -> None:
        """``first``: the number to begin with; None for the newest. ``resume``: whether to begin after the
        last version that was announced in the folder. ``accepted``: the only origin id that counts."""
        self.memory = LineMemory()
        self.following = Following(
            list(downloads.peers.values()), check_interval, memory=self.memory, accepted=accepted
        )
        self._downloads = downloads
        self._followed = followed
        self._folder = followed.outputs.folder
        self._every = every
        self._interval = check_interval
        self._watch = watch
        self._resume = resume
        self._agenda = FetchQueue(None if first is None else first - 1, every)
        self._entered_for: tuple[str | None] | None = None  # the line whose resume point is known
        self._entered: tuple[str | None] | None = None  # and its id, where only manifests name it
        self._had: set[int] = set()  # of this line, and perhaps here
        self._digests: dict[int, str] = {}  # of the versions of this line that this run downloaded
        self._withdrawn: set[Withdrawal] = set()
        self._told = ""

    async def remember(self) -> None:
        """Take up, before the servers are followed, the line that was followed here last: else whoever
        answers first after a restart could have this folder change over at once.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        if self._resume:
            self.memory.origin, self.memory.digests = await self._followed.remembered()

    @property
    def origin(self) -> str | None:
        """The origin id of its line; None while that is not known, and for a line of 0.1.0."""
        return self._entered[0] if self._entered else self.memory.origin

    def here(self) -> list[str]:
        """Return the versions of its line whose files are here, oldest first."""
        return [version_name(number) for number in sorted(self._had) if self._output(number).exists()]

    async def releases(self) -> AsyncGenerator[Release, None]:
        """Yield each version once its file has its name; for ever.

        Raises:
            LocalDiskError: a file can't be written.
        """
        loop = asyncio.get_running_loop()
        again_at = loop.time() + self._interval
        await self.following.settled()
        while True:
            seen, number = self.following.changes, None
            try:
                standing, complete, opened = offered(self.following)
                if standing.change:
                    self._change_line(standing.change)
                    continue
                self.memory.learn(standing)
                if complete or opened:
                    await self._enter(standing)
                self._forget_replaced(standing)
                number = self._agenda.next(complete, opened)
                if number is not None:
                    release = await self._fetch(number, standing, complete, opened)
                    self._told = ""
                    self._agenda.had(number)
                    self._had.add(number)
                    self._digests[number] = release.digest
                    yield release
                    await self._followed.announced(release)
                    continue
            except LocalDiskError:
                raise
            except ShardcastError as error:
                self._say(error)
                if number is not None:
                    continue  # another version may be right
                self._agenda.try_again()
            try:
                await asyncio.wait_for(self.following.change(seen), again_at - loop.time())
            except TimeoutError:
                again_at = loop.time() + self._interval
                self._agenda.try_again()

    async def _enter(self, standing: Standing) -> None:
        """Find out, once for each line, which of its versions were had in the folder before."""
        if self._entered_for == (standing.origin,):
            return
        origin = standing.origin or await line_origin(standing, self._downloads.peers)
        listings = [one for _, one in sorted(standing.listed.items())]
        last = await self._followed.enter(origin, listings, standing.firm)
        if last is not None and self._resume:
            self._agenda = FetchQueue(last, self._every)
        self._had |= await self._followed.had(origin)
        self._entered_for, self._entered, self._resume = (standing.origin,), (origin,), False

    def _forget_replaced(self, standing: Standing) -> None:
        """Fetch again what was downloaded on a stand-in's word, where the authority has another version."""
        for number, digest in list(self._digests.items()):
            if number in standing.firm and standing.listed[number].digest != digest:
                log.warning("v%d is replaced: the first-named server has another one", number)
                del self._digests[number]
                self._agenda.withdrawn(number, number)

    def _change_line(self, change: LineChange) -> None:
        """Begin with another line: its newest version is next, unless that was had already."""
        left, unnamed = self.memory.origin, "one without an origin id"
        log.warning(
            "%s publishes another line of versions now: %s instead of %s",
            change.server, change.origin or unnamed, left or unnamed,
        )  # fmt: skip
        self.memory.change(change)
        self.following.changed(left)
        self._had, self._entered_for, self._entered, self._resume = set(), None, None, True
        self._digests = {}
        self._agenda = FetchQueue(None, self._every)

    async def watch_withdrawals(self) -> None:
        """Tell of versions that are withdrawn, also while the caller works on a release; for ever. The newest
        good one is next, unless its file is here."""
        while True:
            seen = self.following.changes
            standing = self.following.standing()
            for withdrawal in sorted(set(standing.withdrawals.values()) - self._withdrawn, key=_by_number):
                self._withdrawn.add(withdrawal)
                try:
                    await self._followed.withdrawn(standing.origin, withdrawal)
                    await self._go_back(standing, withdrawal.number)
                except LocalDiskError as error:
                    log.error(
                        "%s was withdrawn, and the folder can't be changed: %s", withdrawal.version, error
                    )
            await self.following.change(seen)

    async def _go_back(self, standing: Standing, number: int) -> None:
        if not self._agenda.has_had(number):
            return
        good = max(
            (one for one in standing.listed if one < number or self._agenda.has_had(one)), default=None
        )
        here = good is not None and await self._followed.is_here(standing.origin, good)
        if self.memory.origin != standing.origin:
            return  # the line changed meanwhile
        self._agenda.withdrawn(number, None if here else good)
        self._had.discard(number)
        self.following.tell()

    def _say(self, error: ShardcastError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            again = "" if isinstance(error, (VersionAborted, VersionWithdrawn)) else "; it is tried again"
            log.warning("%s%s", self._told, again)

    def _output(self, number: int) -> Path:
        return self._folder / output_name(version_name(number))

    async def _fetch(
        self,
        number: int,
        standing: Standing,
        complete: Mapping[int, Sequence[str]],
        opened: Mapping[int, Sequence[str]],
    ) -> Release:
        """Download what is next on the agenda, and note there when it fails."""
        version, transfers = version_name(number), list[Transfer]()

        def watching(transfer: Transfer) -> None:
            transfers.append(transfer)
            if self._watch:
                self._watch(transfer)

        def leave() -> ShardcastError | None:
            if any(one.progress.done for one in transfers):
                return None
            with contextlib.suppress(NoServerReachable, TransferFailed):  # no server tells anything now
                now, complete, opened = offered(self.following)
                if now.change or self._agenda.next_elsewhere(complete, opened, servers) is not None:
                    return NoProgress(f"nothing of {version} comes, and others have other versions")
            return None

        whole, peers = number in complete, self._downloads.peers
        servers = complete[number] if whole else opened[number]
        some, output = [peers[url] for url in servers], self._output(number)
        if whole:
            fetching = self._downloads.fetch(
                standing.listed[number],
                some,
                output,
                watching,
                self.following,
                standing.origin,
                self._followed,
            )
        else:
            fetching = self._downloads.fetch_open(
                version, some, output, watching, self.following, self._followed
            )
        try:
            return await unless(leave, fetching, self.following, STALL_WHEN_OTHERS_CAN)
        except ShardcastError as error:
            if not isinstance(error, (VersionAborted, VersionWithdrawn)):
                self._agenda.doubt(servers)
            if not isinstance(error, NoProgress):
                self._agenda.failed(number, whole)
            raise


def _by_number(withdrawal: Withdrawal) -> int:
    return withdrawal.number
