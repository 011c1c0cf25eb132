"""The fetch loop of a middle: decide when to fetch which versions from the upstreams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from functools import partial

from shardcast.concurrency import background_task, cancel
from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    AccessDenied,
    NoServerReachable,
    ShardcastError,
    TransferFailed,
    VersionWithdrawn,
)
from shardcast.log_fields import about
from shardcast.nodes.fetching import VersionFetcher
from shardcast.nodes.legacy_import import import_legacy_versions
from shardcast.nodes.line_keeper import LineKeeper
from shardcast.peer.server import Peer
from shardcast.policy.fetch_order import missing_versions, versions_to_fetch, versions_to_start
from shardcast.policy.standing import Standing
from shardcast.protocol.feed import Position
from shardcast.protocol.wire import version_name
from shardcast.store.versions import VersionFolders
from shardcast.upstream.abandon import NoProgress, if_withdrawn, run_unless
from shardcast.upstream.denials import DenialLog
from shardcast.upstream.follow import Following
from shardcast.upstream.offers import open_versions

log = logging.getLogger(__name__)

_MAX_OPEN = 3
"""Maximum open versions fetched at once."""


class OpenFetches:
    """The open versions under way, beside everything else."""

    def __init__(self, folders: VersionFolders, following: Following, fetcher: VersionFetcher) -> None:
        self._folders = folders
        self._following = following
        self._fetcher = fetcher
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._servers: dict[int, list[str]] = {}  # from which upstreams each is fetched

    @property
    def numbers(self) -> Collection[int]:
        """The numbers of the versions under way."""
        return self._tasks.keys()

    def start(self, standing: Standing, *, several: bool) -> None:
        """Start to fetch open versions.

        Args:
            standing: the present beliefs.
            several: whether there are several upstreams; then the versions of one of them take no more than
                all places but one.
        """
        failures, distance = self._fetcher.failures, standing.place.distance or 0
        passed_over = failures.aborted | failures.failed | failures.no_room.keys()
        opened = open_versions(self._following, distance)
        servers = {n: [peer.url for peer in peers] for n, peers in opened.items() if n not in passed_over}
        for number in versions_to_start(
            servers,
            _offers(standing),
            here=self._folders.complete_numbers,
            fetching=self._servers,
            places=_MAX_OPEN,
            share=_MAX_OPEN - 1 if several else _MAX_OPEN,
        ):
            task = asyncio.ensure_future(self._fetcher.fetch_open(number, opened[number], distance))
            self._tasks[number], self._servers[number] = task, servers[number]
            task.add_done_callback(partial(self._done, number))

    async def stop(self) -> None:
        """End all of these transfers."""
        await cancel(list(self._tasks.values()))

    def _done(self, number: int, task: asyncio.Task[None]) -> None:
        """Free the place of a version, log an unforeseen error, and have the middle look again."""
        del self._tasks[number], self._servers[number]
        if not task.cancelled() and task.exception():
            log.error(
                "fetching %s failed",
                version_name(number),
                exc_info=task.exception(),
                extra=about(version=version_name(number)),
            )
        self._following.notify()


class FetchLoop:
    """The loop of one middle: complete versions one after the other, and beside them open ones.

    Attributes:
        fetcher: fetches single versions, and knows the failed ones.
        suspect: URLs of upstreams with an offered but unserved version; their versions come last until
            everything is tried again.
    """

    def __init__(
        self, folders: VersionFolders, following: Following, peers: Sequence[Peer], node_id: str
    ) -> None:
        """Make a loop for the node ``node_id``.

        Args:
            folders: where versions are fetched into.
            following: follows the upstreams.
            peers: the upstreams.
            node_id: this node's id.
        """
        self._folders = folders
        self._following = following
        self._peers = {peer.url: peer for peer in peers}
        self._node_id = node_id
        self.fetcher = VersionFetcher(folders, following)
        self._open = OpenFetches(folders, following, self.fetcher)
        self._line = LineKeeper(folders, following, self.fetcher, self._peers, stop_open=self.stop)
        self.suspect: set[str] = set()
        self._logged: set[str] = set()
        self._denials = DenialLog()

    @property
    def place(self) -> Position:
        """Where the middle stands, as far as is known."""
        return self._line.place

    async def run(self, interval: float) -> None:
        """Fetch the upstreams' versions, for as long as ``following`` is entered; for ever.

        ``interval``: seconds until failed versions are tried again.
        """
        following = self._following
        async with background_task(self._keep_up()):
            await following.wait_until_settled()
            tried_at = time.monotonic()
            while True:
                changes = following.changes
                try:
                    await import_legacy_versions(self._folders, list(self._folders.untrusted))
                    while await self._fetch_next():
                        await following.refresh()
                        changes = following.changes
                except AccessDenied:
                    pass  # DenialLog has it
                except (NoServerReachable, TransferFailed) as error:
                    self._warn_once(f"what is here is served on, and the upstreams are asked again: {error}")
                except ShardcastError as error:
                    log.error("%s", error)
                except Exception:
                    log.exception("a look at the upstreams failed")
                try:
                    async with asyncio.timeout(tried_at + interval - time.monotonic()):
                        await following.wait_for_change(changes)
                except TimeoutError:
                    tried_at = time.monotonic()
                    self.fetcher.failures.failed.clear()
                    self.suspect.clear()

    async def stop(self) -> None:
        """End the transfers of open versions."""
        await self._open.stop()

    def behind(self) -> str | None:
        """Return in words why the middle has not caught up: versions to come, no news, or a change of line.

        Returns:
            None when the middle has caught up. Versions without room, or served by no upstream, are not
            waited for.
        """
        try:
            standing = self._following.standing_or_error()
        except ShardcastError as error:
            return f"no news of what there is: {error}"
        if standing.change:
            return f"changing over to the line {standing.change.origin or 'without an origin id'}"
        failures, keep = self.fetcher.failures, self._folders.keep
        newest = sorted(standing.listed)[-keep:]
        local = self._folders.complete_numbers
        # Versions without room beside newer ones are not waited for.
        passed_over = {number for number in failures.no_room if number < max(local, default=0)}
        # Nor are listed but unserved versions, until another upstream offers them or they come.
        unserved = {n for n, servers in _offers(standing).items() if failures.is_unserved(n, servers)}
        missing = sorted(set(missing_versions(newest, local, (), keep)) - passed_over - unserved)
        if not missing:
            return None
        reasons = (f": {failures.no_room[n]}" for n in reversed(missing) if n in failures.no_room)
        return f"{', '.join(map(version_name, missing))} not here yet{next(reasons, '')}"

    # Beside the fetches: news and open versions

    async def _keep_up(self) -> None:
        """Take over withdrawals and new numbers, and start open versions, beside other fetches; for ever.

        Log refusing upstreams, too.
        """
        while True:
            changes = self._following.changes
            self._denials.note(self._following.followers)
            try:
                if self._folders.held:
                    standing = await self._line.believe()  # also while none tells: then this node is silent
                    if not standing.change:
                        self._open.start(standing, several=len(self._peers) > 1)
            except ShardcastError as error:
                log.error("%s", error)
            except Exception:
                log.exception("looking at the upstreams' offers failed")
            await self._following.wait_for_change(changes)

    # Complete versions, one after the other

    async def _fetch_next(self) -> bool:
        """Fetch the first wanted version on offer, or change over to another line.

        Returns:
            Whether to look for a next version at once; False when there is nothing to do now.

        Raises:
            NoServerReachable, TransferFailed, AccessDenied: no server tells anything.
            LocalDiskError: the servers' news can't be recorded.
        """
        if not self._folders.held:
            return False
        await self._drop_self()
        self._following.standing_or_error()
        standing = await self._line.believe()
        if standing.change:
            return await self._line.change(standing.change)
        window = self._window(standing)
        self.fetcher.failures.keep_no_room_of({*window, *standing.opened})
        self._open.start(standing, several=len(self._peers) > 1)
        await self._discard_unwanted(window, standing)
        for number in self._complete_to_fetch(standing):
            await self._fetch_or_abandon(number, standing)
            return True
        return False

    async def _drop_self(self) -> None:
        """Stop following an upstream recognised as this very node."""
        for url, peer in list(self._peers.items()):
            if peer.node_id == self._node_id:
                log.warning("%s is this very middle, and is not asked", url, extra=about(server=url))
                del self._peers[url]
                await self._following.remove_server(url)

    async def _discard_unwanted(self, window: Sequence[int], standing: Standing) -> None:
        """Discard half-fetched versions that are no longer wanted: aborted, too old, or passed over."""
        folders, opened, offers = self._folders, open_versions(self._following), _offers(standing)
        oldest = max(folders.complete_numbers, default=0) - folders.keep
        for number in folders.open_numbers - {*window, *self._open.numbers}:
            version = folders.opened(number)
            aborted = version and not version.live.manifest and number not in opened
            if aborted or number < oldest or number in offers:
                await folders.discard(number)

    def _window(self, standing: Standing) -> list[int]:
        """Return the wanted, missing complete versions, the first one first."""
        folders = self._folders
        return versions_to_fetch(
            _offers(standing),
            folders.complete_numbers,
            folders.open_numbers,
            keep=folders.keep,
            suspect=self.suspect,
        )

    def _complete_to_fetch(self, standing: Standing) -> list[int]:
        """Return the complete versions to fetch now, the first one first."""
        passed_over = {*self._open.numbers, *self.fetcher.failures.failed}
        return [number for number in self._window(standing) if number not in passed_over]

    async def _fetch_or_abandon(self, number: int, standing: Standing) -> None:
        """Fetch a complete version, until it is withdrawn, or makes no progress while others have another.

        A failure is logged and recorded, not raised.
        """
        servers, listing = _offers(standing)[number], standing.listed[number]

        def abandon() -> ShardcastError | None:
            """Return why to abandon the version: no progress, and another version on offer elsewhere."""
            opened = self._folders.opened(number)
            if opened and opened.verified_bytes:
                return None
            now, without = self._following.standing(), {*servers, *self.suspect}
            offers = _offers(now)
            if now.change or any(not without.issuperset(offers[n]) for n in self._complete_to_fetch(now)):
                return NoProgress(
                    f"nothing of {listing.version} comes from {', '.join(servers)}, and other servers have "
                    "other versions; those are fetched first"
                )
            return None

        withdrawn = if_withdrawn(self._following, number, listing.digest)
        fetching = self.fetcher.fetch(listing, [self._peers[url] for url in servers], standing.origin)
        patient = run_unless(abandon, fetching, self._following, STALL_WHEN_OTHERS_CAN)
        try:
            await run_unless(withdrawn, patient, self._following)
        except NoProgress as error:
            self.suspect.update(servers)
            log.warning("%s", error, extra=about(version=listing.version))
        except VersionWithdrawn as error:
            await self._folders.discard(number)
            log.warning("%s", error, extra=about(version=listing.version))
        if number in self.fetcher.failures.failed - self.fetcher.failures.local:
            self.suspect.update(servers)
        self._note_served(number, servers)

    def _note_served(self, number: int, servers: Sequence[str]) -> None:
        """Record, after a request for a version, whether the servers have it.

        Unreachable servers are not recorded: they may have the version all the same.
        """
        failures = self.fetcher.failures
        if number in self._folders.complete_numbers:
            failures.unserved.pop(number, None)
        elif self.suspect.issuperset(servers) and number not in failures.no_room:
            followers = [follower for follower in self._following.followers if follower.peer.url in servers]
            if any(follower.versions_known for follower in followers):
                failures.note_unserved(number, servers)

    def _warn_once(self, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            log.warning("%s", message)


def _offers(standing: Standing) -> dict[int, tuple[str, ...]]:
    """Return the servers of each of the line's versions, whole there."""
    return {n: servers for n, servers in standing.group.complete.items() if n in standing.listed}
