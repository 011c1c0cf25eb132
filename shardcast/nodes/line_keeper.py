"""The line of versions kept by a middle: news of the authority, and the change to another line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from shardcast.errors import NoRoom, ShardcastError
from shardcast.log_fields import about
from shardcast.nodes.fetching import VersionFetcher
from shardcast.peer.server import Peer
from shardcast.policy.standing import LineChange, Standing
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.feed import Position
from shardcast.store.versions import VersionFolders
from shardcast.upstream.abandon import NoProgress, run_unless
from shardcast.upstream.follow import Following

log = logging.getLogger(__name__)

_UNNAMED = "without an origin id"


class LineOnDisk:
    """The current memory of a data directory about its line (``policy.standing.Memory``)."""

    def __init__(self, folders: VersionFolders) -> None:
        self._folders = folders

    @property
    def origin(self) -> str | None:
        """The line's origin id; None for a line of 0.1.0, and before there is a line."""
        return self._folders.line.origin

    @property
    def highest(self) -> int:
        """The highest version number ever used by the line."""
        return self._folders.line.highest

    @property
    def digests(self) -> Mapping[int, str]:
        """Payload digests of the numbers listed by an authority."""
        return self._folders.line.digests

    @property
    def withdrawn(self) -> Mapping[int, Withdrawal]:
        """The line's withdrawn versions, by number."""
        return self._folders.line.withdrawn


class LineKeeper:
    """The keeper of a middle's line of versions: keeps it the same as the authority's."""

    def __init__(
        self,
        folders: VersionFolders,
        following: Following,
        fetcher: VersionFetcher,
        peers: Mapping[str, Peer],
        *,
        stop_open: Callable[[], Awaitable[None]],
    ) -> None:
        """Keep the line of ``folders``.

        Args:
            folders: the version folders of the middle.
            following: follows the upstreams.
            fetcher: fetches the newest version of another line.
            peers: the upstreams by URL.
            stop_open: ends the transfers of open versions.
        """
        self._position = Position(silent=True)
        self._folders = folders
        self._following = following
        self._fetcher = fetcher
        self._peers = peers
        self._stop_open = stop_open
        self._lock = asyncio.Lock()

    @property
    def place(self) -> Position:
        """The middle's position. Its line is that of the version folders, so that both change in one step."""
        line = self._folders.line
        return replace(self._position, origin=line.origin, highest=line.highest)

    async def believe(self) -> Standing:
        """Take over the authority's news of the middle's line, and return the new beliefs.

        Raises:
            LocalDiskError: the news can't be recorded.
        """
        folders = self._folders
        async with self._lock:
            # Only under the lock: while this waited, the line may have changed, and beliefs about the old
            # line must not get into the new line's record.
            standing = self._following.standing()
            firm = [standing.listed[number] for number in sorted(standing.firm)]
            await folders.record_listed(firm, standing.highest, standing.origin)
            for number, withdrawal in standing.withdrawals.items():
                known = folders.line.withdrawn.get(number)
                if known is None or known.digest != withdrawal.digest:
                    log.warning(
                        "%s was withdrawn by its publisher: %s",
                        withdrawal.version,
                        withdrawal.reason,
                        extra=about(version=withdrawal.version),
                    )
                    await folders.withdraw(withdrawal)
            await self._check_provisional(standing)
            coming = sorted(standing.listed)[-folders.keep :]
            folders.set_known({number: standing.listed[number] for number in coming})
            folders.quota.candidates.offered = standing.group.complete.keys()
            self._update_position(standing)
            return standing

    async def _check_provisional(self, standing: Standing) -> None:
        """Drop versions taken on another server's word and not listed by the authority."""
        folders = self._folders
        for listing in folders.listings:
            number, believed = listing.number, standing.listed.get(listing.number)
            if number not in folders.provisional:
                continue
            if believed and believed.digest != listing.digest and number in standing.firm:
                log.warning(
                    "%s is replaced: the first-named server has another one",
                    listing.version,
                    extra=about(version=listing.version),
                )
                await folders.retire(number, even_pinned=True)
            elif not believed and standing.settled:
                log.warning(
                    "%s is taken off the list: the first-named server does not have it",
                    listing.version,
                    extra=about(version=listing.version),
                )
                await folders.unlist(number)

    def _update_position(self, standing: Standing) -> None:
        """Note the middle's position, and wake the feeds of the nodes below after a change."""
        # Versions here on a stand-in's word alone must not look firm to the nodes below.
        doubtful = not self._folders.provisional <= standing.firm
        place = replace(standing.place, silent=standing.place.silent or doubtful)
        if place != self._position:
            self._position = place
            self._folders.events.wake_readers()

    async def change(self, change: LineChange) -> bool:
        """Fetch the newest version of another line beside this one, and change over as soon as it is here.

        Returns:
            Whether to look at the upstreams again at once; False after a failed fetch.
        """
        listing = change.listed[max(change.complete)]
        if not self._folders.has_of_line(change.origin, listing):
            if listing.number in self._fetcher.failures.failed:
                return False
            peers = [self._peers[url] for url in change.complete[listing.number] if url in self._peers]
            fetching = self._fetcher.fetch_beside(listing, peers, change.origin)
            try:
                if not await run_unless(self._if_undone(change), fetching, self._following):
                    return False
            except NoProgress as error:
                log.warning("%s", error)
                return True
            except NoRoom as error:
                log.warning(
                    "%s; changing over before %s is here",
                    error,
                    listing.version,
                    extra=about(version=listing.version),
                )
        now = self._following.standing().change
        if now is not None and now.origin == change.origin:
            await self._change_over(now)
        return True

    def _if_undone(self, change: LineChange) -> Callable[[], ShardcastError | None]:
        """Return a function that gives the reason to stop when the other line is no longer offered."""

        def undone() -> ShardcastError | None:
            now = self._following.standing().change
            if now is not None and now.origin == change.origin:
                return None
            return NoProgress(f"the line {change.origin or _UNNAMED} is not offered any more")

        return undone

    async def _change_over(self, change: LineChange) -> None:
        """Put the versions of the old line aside, and list those of the new one."""
        left = self._folders.line.origin
        await self._stop_open()
        async with self._lock:
            listed = {number: listing.digest for number, listing in change.listed.items()}
            await self._folders.change_line(change.origin, listed, change.highest)
            self._following.change_line(left)
        self._fetcher.forget()
        log.warning(
            "changed over to the line %s; the line %s is put aside in %s for a day",
            change.origin or _UNNAMED, left or _UNNAMED, self._folders.data_dir.own / "lines",
        )  # fmt: skip
