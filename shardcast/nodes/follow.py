"""A client that stays and downloads each new version of its line."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.distribution import Withdrawal
from shardcast.errors import LocalDiskError, ShardcastError, VersionAborted, VersionWithdrawn
from shardcast.nodes.announcing import output_name
from shardcast.nodes.download import Downloads, Release, Watch
from shardcast.nodes.leaving import NothingComes, if_withdrawn, offered, unless
from shardcast.policy.due import Agenda
from shardcast.policy.standing import LineChange, LineMemory, Standing
from shardcast.store.output import clear_abandoned
from shardcast.transfer.following import Following
from shardcast.transfer.transfer import Transfer
from shardcast.wire import version_name

log = logging.getLogger(__name__)

OnWithdrawn = Callable[[Withdrawal], Awaitable[None] | None]
"""Told of each version that was downloaded and then withdrawn."""


class Follow:
    """One run of ``Client.follow``.

    Attributes:
        memory: what it remembers of its line.
    """

    def __init__(
        self,
        downloads: Downloads,
        output_dir: Path,
        first: int | None,
        every: bool,
        check_interval: float,
        watch: Watch | None,
        on_withdrawn: OnWithdrawn | None,
        accepted: str | None = None,
    ) -> None:
        """``first``: the number to begin with; None for the newest."""
        self.memory = LineMemory()
        self.following = Following(
            list(downloads.peers.values()), check_interval, memory=self.memory, accepted=accepted
        )
        self._downloads = downloads
        self._output_dir = output_dir
        self._every = every
        self._interval = check_interval
        self._watch = watch
        self._on_withdrawn = on_withdrawn
        self._agenda = Agenda(None if first is None else first - 1, every)
        self._had: dict[int, str] = {}  # payload digests of this line's versions that were downloaded
        self._new_line = False
        self._told = ""

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
                await self._tell_withdrawn(standing)
                number = self._agenda.next(complete, opened)
                if number is not None:
                    release = await self._fetch(number, standing, complete, opened)
                    self._told = ""
                    yield self._note(release)
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
            except asyncio.TimeoutError:
                again_at = loop.time() + self._interval
                self._agenda.try_again()

    def _change_line(self, change: LineChange) -> None:
        """Begin with another line: none of its versions was downloaded yet, whatever their numbers, but for
        those that both lines have."""
        left, unnamed = self.memory.origin, "one without an origin id"
        log.warning(
            "%s publishes another line of versions now: %s instead of %s",
            change.servers[0], change.origin or unnamed, left or unnamed,
        )  # fmt: skip
        same = {
            number: digest
            for number, digest in self._had.items()
            if change.origin == left and number in change.listed and change.listed[number].digest == digest
        }
        self.memory.change(change)
        self.following.changed(left)
        self._had, self._new_line = same, True
        self._agenda = Agenda(None, self._every, same)

    def _note(self, release: Release) -> Release:
        """Take a release into account, and say whether it is the first of a line."""
        self._agenda.had(release.number)
        self._had[release.number] = release.manifest.digests.get("sha256", "")
        new_line, self._new_line = self._new_line, False
        return replace(release, new_line=new_line)

    async def _tell_withdrawn(self, standing: Standing) -> None:
        """Tell of versions that were downloaded and are withdrawn now; the newest good one is next, unless
        its file is here."""
        for number, withdrawal in sorted(standing.withdrawals.items()):
            if self._had.get(number) != withdrawal.digest:
                continue
            del self._had[number]
            good = max((one for one in standing.listed if one < number or one in self._had), default=None)
            here = good is not None and good in self._had and self._output(good).exists()
            self._agenda.withdrawn(number, None if here else good)
            log.warning(
                "%s was withdrawn by its publisher%s",
                withdrawal.version, f": {withdrawal.reason}" if withdrawal.reason else "",
            )  # fmt: skip
            if self._on_withdrawn:
                waiting = self._on_withdrawn(withdrawal)
                if inspect.isawaitable(waiting):
                    await waiting

    def _say(self, error: ShardcastError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            again = "" if isinstance(error, (VersionAborted, VersionWithdrawn)) else "; it is tried again"
            log.warning("%s%s", self._told, again)

    def _output(self, number: int) -> Path:
        return self._output_dir / output_name(version_name(number))

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
            now, complete, opened = offered(self.following)
            elsewhere = self._agenda.next_elsewhere(complete, opened, servers)
            if elsewhere is None and now.change is None:
                return None
            return NothingComes(f"nothing of {version} comes, and others have other versions")

        whole, peers = number in complete, self._downloads.peers
        servers = complete[number] if whole else opened[number]
        some, output = [peers[url] for url in servers], self._output(number)
        if whole:
            listing = standing.listed[number]
            digest: str | None = listing.digest
            fetching = self._downloads.fetch(listing, some, output, watching, self.following, standing.origin)
        else:
            digest = None
            fetching = self._downloads.fetch_open(version, some, output, watching, self.following)
        patient = unless(leave, fetching, self.following, STALL_WHEN_OTHERS_CAN)
        try:
            return await unless(if_withdrawn(self.following, number, digest), patient, self.following)
        except VersionWithdrawn:
            await asyncio.to_thread(clear_abandoned, output)
            raise
        except ShardcastError as error:
            if not isinstance(error, VersionAborted):
                self._agenda.doubt(servers)
            if not isinstance(error, NothingComes):
                self._agenda.failed(number, whole)
            raise
