"""A long-running client: downloads each new version of a line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardcast.concurrency import cancel
from shardcast.constants import CHECK_INTERVAL, STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    AccessDenied,
    LocalDiskError,
    NoServerReachable,
    ShardcastError,
    TransferFailed,
    VersionAborted,
    VersionWithdrawn,
)
from shardcast.log_fields import about
from shardcast.nodes.download import Destination, Downloads, Watch
from shardcast.nodes.followed_folder import FollowedFolder
from shardcast.nodes.output_template import OutputTemplate
from shardcast.nodes.release import Release
from shardcast.peer.server import Peer
from shardcast.policy.fetch_order import FetchQueue
from shardcast.policy.standing import LineChange, LineMemory, Standing
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import version_name
from shardcast.transfer.workers import Transfer
from shardcast.upstream.abandon import NoProgress, run_unless
from shardcast.upstream.denials import DenialLog
from shardcast.upstream.follow import Following
from shardcast.upstream.offers import offered_versions
from shardcast.waits import Wait

log = logging.getLogger(__name__)

_HEADER_TIMEOUT = 5.0
"""Maximum seconds to wait for the header of the newest version; without an answer the line counts as one of
nodes without an origin id."""


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """The settings of a run of ``Client.follow``.

    Attributes:
        first: the number to begin with; None for the newest.
        every: whether each version is downloaded; else only the newest of several new ones.
        check_interval: seconds until failed versions are tried again, and servers without a feed are asked.
        watch: called with each transfer at its beginning.
        resume: whether to begin after the last version announced in the folder.
        accepted: the only valid origin id; None for any.
        template: template of the outputs' names; None for the usual ones.
    """

    first: int | None = None
    every: bool = False
    check_interval: float = CHECK_INTERVAL
    watch: Watch | None = None
    resume: bool = False
    accepted: str | None = None
    template: OutputTemplate | None = None


class Follow:
    """A run of ``Client.follow``.

    Attributes:
        memory: the memory of the followed line.
        following: the servers, to be entered around ``releases``.
    """

    def __init__(self, downloads: Downloads, folder: FollowedFolder, settings: FollowSettings) -> None:
        self.memory = LineMemory()
        self.following = Following(
            list(downloads.peers.values()),
            settings.check_interval,
            memory=self.memory,
            accepted=settings.accepted,
        )
        self._downloads = downloads
        self._folder = folder
        self._settings = settings
        self._resume = settings.resume
        first = settings.first
        self._queue = FetchQueue(None if first is None else first - 1, settings.every)
        # Both are tuples of one id, since None is an origin id too: the one of a line of 0.1.0.
        self._entered: tuple[str | None] | None = None  # the line whose resume point is known
        self._entered_origin: tuple[str | None] | None = None  # its id, where only its manifests name it
        self._local: dict[int, Path] = {}  # outputs of this line that are, or were, in the folder
        self._downloaded: dict[int, str] = {}  # digests of the versions of this line that this run downloaded
        self._withdrawn: set[Withdrawal] = set()
        self._warned = ""
        self._idle_since: float | None = None  # since when there is no version to fetch
        self._denials = DenialLog()

    async def remember(self) -> None:
        """With ``resume``, load the line last followed here, before the servers are followed.

        Otherwise the first server to answer after a restart could make this folder change over at once.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        if self._resume:
            self.memory.origin, self.memory.digests = await self._folder.remembered()

    @property
    def origin(self) -> str | None:
        """The origin id of the followed line; None while unknown, and for a line of 0.1.0."""
        return self._entered_origin[0] if self._entered_origin else self.memory.origin

    def here(self) -> list[str]:
        """Return the versions of the followed line with files here, oldest first."""
        return [version_name(number) for number, path in sorted(self._local.items()) if path.exists()]

    @property
    def wait(self) -> Wait | None:
        """The wait for the next version; None while one is fetched or announced."""
        if self._idle_since is None:
            return None
        newest, first = self.following.standing().newest, self._settings.first
        what = "the next version" if first is None else f"v{first}, or the next version after it,"
        servers = ", ".join(follower.peer.url for follower in self.following.followers)
        offered = f"the newest on offer is {newest.version}" if newest else "none is on offer yet"
        seconds = asyncio.get_running_loop().time() - self._idle_since
        return Wait(seconds, f"{what} at {servers}; {offered}", is_idle=True)

    async def releases(self) -> AsyncGenerator[Release, None]:
        """Yield each version as soon as its file has a name; for ever.

        Raises:
            LocalDiskError: a file can't be written.
        """
        loop = asyncio.get_running_loop()
        retry_at = loop.time() + self._settings.check_interval
        await self.following.wait_until_settled()
        while True:
            changes, number = self.following.changes, None
            try:
                standing, complete, opened = offered_versions(self.following)
                if standing.change:
                    self._change_line(standing.change)
                    continue
                self.memory.remember(standing)
                if complete or opened:
                    await self._enter(standing)
                self._forget_replaced(standing)
                number = self._queue.next(complete, opened)
                if number is not None:
                    self._idle_since = None
                    release = await self._fetch(number, standing, complete, opened)
                    self._warned = ""
                    self._queue.mark_fetched(number)
                    self._local[number] = release.path
                    self._downloaded[number] = release.digest
                    if await self._folder.start_announcing(release):
                        yield release
                        await self._folder.finish_announcing(release)
                    continue
            except LocalDiskError:
                raise
            except ShardcastError as error:
                if number is not None or not isinstance(error, AccessDenied):  # else DenialLog has it
                    self._warn(error)
                if number is not None:
                    continue  # another version may succeed
                self._queue.retry_all()
            self._idle_since = self._idle_since or loop.time()
            try:
                async with asyncio.timeout_at(retry_at):
                    await self.following.wait_for_change(changes)
            except TimeoutError:
                retry_at = loop.time() + self._settings.check_interval
                self._queue.retry_all()

    async def _enter(self, standing: Standing) -> None:
        """Find out, once for each line, the versions in the folder before this run.

        With ``resume``, begin after the last one announced, and share its folder.
        """
        if self._entered == (standing.origin,):
            return
        origin = standing.origin or await _manifest_origin(standing, self._downloads.peers)
        listings = [listing for _, listing in sorted(standing.listed.items())]
        last = await self._folder.enter(origin, listings, standing.firm)
        self._local |= await self._folder.versions(origin)
        if last is not None and self._resume:
            self._queue = FetchQueue(last, self._settings.every)
            await self._share_kept(standing, last)
        self._entered, self._entered_origin, self._resume = (standing.origin,), (origin,), False

    async def _share_kept(self, standing: Standing, number: int) -> None:
        """Share the folder of the last run's last version here, if still on offer."""
        listing, servers = standing.listed.get(number), standing.group.complete.get(number, ())
        if listing and servers and number in self._local:
            peers = [self._downloads.peers[url] for url in servers]
            await self._downloads.share_kept(listing, peers, self._local[number])

    def _forget_replaced(self, standing: Standing) -> None:
        """Queue versions again whose digest, taken from a stand-in, differs from the authority's."""
        for number, digest in list(self._downloaded.items()):
            if number in standing.firm and standing.listed[number].digest != digest:
                version = version_name(number)
                log.warning(
                    "%s is replaced: the first-named server has another one",
                    version,
                    extra=about(version=version),
                )
                del self._downloaded[number]
                self._queue.forget_withdrawn(number, number)

    def _change_line(self, change: LineChange) -> None:
        """Begin with another line: the newest version is next, unless already in the folder."""
        left, unnamed = self.memory.origin, "one without an origin id"
        log.warning(
            "%s publishes another line of versions now: %s instead of %s",
            change.server, change.origin or unnamed, left or unnamed,
        extra=about(server=change.server))  # fmt: skip
        self.memory.change(change)
        self.following.change_line(left)
        self._local, self._entered, self._entered_origin, self._resume = {}, None, None, True
        self._downloaded = {}
        self._queue = FetchQueue(None, self._settings.every)

    async def watch_servers(self) -> None:
        """Report withdrawn versions, and log refusals, also while the caller is busy; for ever.

        After a withdrawal the newest good version is next, unless its file is here.
        """
        while True:
            changes = self.following.changes
            self._denials.note(self.following.followers)
            standing = self.following.standing()
            for withdrawal in sorted(set(standing.withdrawals.values()) - self._withdrawn, key=_by_number):
                self._withdrawn.add(withdrawal)
                try:
                    await self._folder.note_withdrawal(standing.origin, withdrawal)
                    await self._go_back(standing, withdrawal.number)
                except LocalDiskError as error:
                    log.error(
                        "%s was withdrawn, and the folder can't be changed: %s",
                        withdrawal.version,
                        error,
                        extra=about(version=withdrawal.version),
                    )
            await self.following.wait_for_change(changes)

    async def _go_back(self, standing: Standing, number: int) -> None:
        """After the withdrawal of a downloaded version, have the newest good version fetched."""
        if not self._queue.was_fetched(number):
            return
        good = max((n for n in standing.listed if n < number or self._queue.was_fetched(n)), default=None)
        local = good is not None and await self._folder.has_good(standing.origin, good)
        if self.memory.origin != standing.origin:
            return  # the line changed while the folder was read
        self._queue.forget_withdrawn(number, None if local else good)
        self._local.pop(number, None)
        self.following.notify()  # wakes releases()

    def _warn(self, error: ShardcastError) -> None:
        """Log a failure, unless the last logged one was the same."""
        if str(error) != self._warned:
            self._warned = str(error)
            again = "" if isinstance(error, (VersionAborted, VersionWithdrawn)) else "; it is tried again"
            log.warning("%s%s", self._warned, again)

    async def _fetch(
        self,
        number: int,
        standing: Standing,
        complete: Mapping[int, Sequence[str]],
        opened: Mapping[int, Sequence[str]],
    ) -> Release:
        """Download the next version of the queue; note a failure in the queue."""
        version, transfers = version_name(number), list[Transfer]()

        def watch(transfer: Transfer) -> None:
            transfers.append(transfer)
            if self._settings.watch:
                self._settings.watch(transfer)

        def abandon() -> ShardcastError | None:
            """Return why to abandon the version: no progress, while others offer a different version."""
            if any(transfer.progress.done for transfer in transfers):
                return None
            with contextlib.suppress(
                NoServerReachable, TransferFailed, AccessDenied
            ):  # no server tells anything now
                now, complete, opened = offered_versions(self.following)
                if now.change or self._queue.next_elsewhere(complete, opened, servers) is not None:
                    return NoProgress(
                        f"nothing of {version} comes from {', '.join(servers)}, and other servers have other "
                        "versions"
                    )
            return None

        is_complete = number in complete
        servers = complete[number] if is_complete else opened[number]
        peers = [self._downloads.peers[url] for url in servers]
        outputs = self._folder.outputs.folder
        destination = Destination(outputs, watch=watch, folder=self._folder, template=self._settings.template)
        if is_complete:
            listing = standing.listed[number]
            fetching = self._downloads.fetch(
                listing, peers, destination, self.following, origin=standing.origin
            )
        else:
            fetching = self._downloads.fetch_open(version, peers, destination, self.following)
        try:
            return await run_unless(abandon, fetching, self.following, STALL_WHEN_OTHERS_CAN)
        except ShardcastError as error:
            if not isinstance(error, (VersionAborted, VersionWithdrawn)):
                self._queue.mark_suspect(servers)
            if not isinstance(error, NoProgress):
                self._queue.mark_failed(number, is_complete)
            raise


def _by_number(withdrawal: Withdrawal) -> int:
    return withdrawal.number


async def _manifest_origin(standing: Standing, peers: Mapping[str, Peer]) -> str | None:
    """Return the origin id in the manifest of a line's newest version; None if none comes within 5 s.

    Servers without a feed (static ones) report no origin id themselves.
    """
    number = max(standing.group.complete, default=None)
    if number is None:
        return None
    servers = standing.group.complete[number]
    requests = [asyncio.ensure_future(peers[url].manifest_header(version_name(number))) for url in servers]
    try:
        await asyncio.wait(requests, timeout=_HEADER_TIMEOUT)
        headers = [request.result() for request in requests if request.done() and not request.exception()]
        return next((header.origin for header in headers if header and header.origin), None)
    finally:
        await cancel(requests)
