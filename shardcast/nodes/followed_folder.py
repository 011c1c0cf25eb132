"""The folder of a following client, in coroutines: records, notes, and the callback for withdrawals."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from shardcast.log_fields import about
from shardcast.nodes.local_versions import keep_manifest
from shardcast.nodes.outputs import OutputFolder, resume_point
from shardcast.nodes.release import Release, origin_name
from shardcast.nodes.release_folder import finish_announcing, restore_latest, start_announcing
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.manifest import Header
from shardcast.protocol.wire import version_number

log = logging.getLogger(__name__)

OnWithdrawn = Callable[[Withdrawal], Awaitable[None] | None]
"""The follower's callback for a withdrawal; a coroutine is awaited."""


class FollowedFolder:
    """A folder into which versions are followed.

    Attributes:
        outputs: the records in the folder.
    """

    def __init__(
        self,
        outputs: OutputFolder,
        on_withdrawn: OnWithdrawn | None = None,
        *,
        links: bool = False,
        keep: int | None = None,
    ) -> None:
        self.outputs = outputs
        self._on_withdrawn = on_withdrawn
        self._links = links
        self._keep = keep

    @classmethod
    async def open(
        cls,
        folder: Path,
        on_withdrawn: OnWithdrawn | None = None,
        *,
        links: bool = False,
        keep: int | None = None,
    ) -> FollowedFolder:
        """Return the followed folder at a path.

        Args:
            folder: the path.
            on_withdrawn: the follower's callback for a withdrawal.
            links: whether the link ``latest`` is kept here, not by the follower itself.
            keep: number of versions of a line to keep; None for all.
        """
        outputs = await asyncio.to_thread(OutputFolder, folder)
        return cls(outputs, on_withdrawn, links=links, keep=keep)

    async def remembered(self) -> tuple[str | None, dict[int, str]]:
        """Return the origin id of the line followed here last, and the digests listed by this line.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        return await asyncio.to_thread(self.outputs.lines.last_line)

    async def enter(
        self, origin: str | None, listings: Sequence[Listing], firm: Collection[int]
    ) -> int | None:
        """Note that a line is followed from now on, and return its resume point (``resume_point``).

        Files without a record are hashed here, once, and known by their digests.

        Args:
            origin: the origin id of the line.
            listings: the versions of the line.
            firm: the numbers listed by the line itself; only these are noted.

        Raises:
            LocalDiskError: the folder can't be read or written.
        """
        stop = threading.Event()

        def identify() -> int | None:
            firm_digests = {listing.number: listing.digest for listing in listings if listing.number in firm}
            self.outputs.lines.note_listed(origin, firm_digests)
            self.outputs.identify(listings, origin, stop.is_set)
            return resume_point(self.outputs, origin)

        try:
            return await asyncio.to_thread(identify)
        finally:
            stop.set()  # the thread goes on when this is cancelled; hashing takes minutes for large files

    async def versions(self, origin: str | None) -> dict[int, Path]:
        """Return the outputs here of a line's versions, by number.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        return await asyncio.to_thread(self.outputs.paths, origin)

    async def has_good(self, origin: str | None, number: int) -> bool:
        """Return whether the file of a version is here, and the version not withdrawn.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        return number in dict(await asyncio.to_thread(self.outputs.good_versions, origin))

    async def begin(self, output: Path, header: Header) -> None:
        """Record that an output is under way (``OutputFolder.begin``).

        Raises:
            LocalDiskError: the record can't be written.
        """
        number = version_number(header.version) or 0
        await asyncio.to_thread(self.outputs.begin, output, header.origin, number)

    async def forget(self, output: Path) -> None:
        """Remove the record of an output without a name, begun and given up (``OutputFolder.forget``).

        Raises:
            LocalDiskError: the folder can't be written.
        """
        await asyncio.to_thread(self.outputs.forget, output)

    async def record(self, release: Release, file: os.stat_result | None) -> Release:
        """Record a version whose file has its name.

        Args:
            release: the version.
            file: the state of the verified file (``OutputFolder.record``).

        Returns:
            The release, with a mark when its line is new in this folder.

        Raises:
            LocalDiskError: the record can't be written.
        """
        origin, number, digest = release.origin, release.number, release.digest

        def record() -> bool:
            self.outputs.record(release.path, origin, number, digest, file=file)
            keep_manifest(self.outputs.folder, release.path, release.manifest)
            self.outputs.lines.note_listed(origin, {number: digest})
            return self.outputs.lines.is_new_line(origin)

        if not await asyncio.to_thread(record):
            return release
        log.warning(
            "%s is of another line of versions than those before it (origin id %s): its publisher began anew",
            release.version,
            origin_name(origin),
            extra=about(version=release.version),
        )
        return replace(release, new_line=True)

    async def start_announcing(self, release: Release) -> bool:
        """With ``links``, point ``latest`` at the version now handed to the follower.

        Returns:
            False, with nothing done, when the publisher withdrew the version meanwhile; without ``links``
            always True.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        if not self._links:
            return True
        return await asyncio.to_thread(start_announcing, self.outputs, release)

    async def finish_announcing(self, release: Release) -> None:
        """Note that the follower has taken a version, and remove older ones beyond ``keep``.

        Raises:
            LocalDiskError: the note can't be written, or a version can't be removed.
        """
        await asyncio.to_thread(finish_announcing, self.outputs, release, self._keep, links=self._links)

    async def note_withdrawal(self, origin: str | None, withdrawal: Withdrawal) -> None:
        """Note that the publisher of a line withdrew a version, point ``latest`` back, and tell the follower.

        The follower is told once of each version that is here or was announced here; again if a kill
        interrupted the callback.

        Raises:
            LocalDiskError: the note can't be written.
        """
        number, digest, lines = withdrawal.number, withdrawal.digest, self.outputs.lines
        if not await asyncio.to_thread(lines.mark_withdrawn, origin, number, digest):
            return
        if self._links:
            await asyncio.to_thread(restore_latest, self.outputs, withdrawal)
        known = await asyncio.to_thread(self.outputs.knows, origin, number, digest)
        if known and self._on_withdrawn:
            result = self._on_withdrawn(withdrawal)
            if inspect.isawaitable(result):
                await result
        await asyncio.to_thread(lines.mark_withdrawal_told, origin, number, digest)
