"""What following asks of its folder and tells whoever follows, in coroutines."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shardcast.concurrency import cancel
from shardcast.nodes.outputs import OutputFolder, resume_point
from shardcast.nodes.release import Release, origin_name
from shardcast.peer.server import Peer
from shardcast.policy.standing import Standing
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.wire import version_name

log = logging.getLogger(__name__)

OnWithdrawn = Callable[[Withdrawal], Awaitable[None] | None]

_ASKING = 5.0
"""Seconds that servers have to say of which line their newest version is; without an answer it counts as one
of nodes without an origin id."""


class FollowedFolder:
    """The folder that versions are followed into.

    Attributes:
        outputs: the records in it.
    """

    def __init__(self, outputs: OutputFolder, on_withdrawn: OnWithdrawn | None = None) -> None:
        self.outputs = outputs
        self._on_withdrawn = on_withdrawn

    @classmethod
    async def of(cls, folder: Path, on_withdrawn: OnWithdrawn | None = None) -> FollowedFolder:
        """Return the followed folder at a path."""
        return cls(await asyncio.to_thread(OutputFolder, folder), on_withdrawn)

    async def remembered(self) -> tuple[str | None, dict[int, str]]:
        """Return the origin id of the line that was followed here last, and the digests that it listed.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        return await asyncio.to_thread(self.outputs.lines.remembered)

    async def enter(
        self, origin: str | None, listings: Sequence[Listing], firm: Collection[int]
    ) -> int | None:
        """Note that a line is followed from now on, and return its resume point (``resume_point``). Only the
        ``firm`` numbers among its ``listings`` are what the line itself lists.

        Files without a record are hashed here, once, and known by their digests.

        Raises:
            LocalDiskError: the folder can't be read or written.
        """
        stop = threading.Event()

        def look() -> int | None:
            self.outputs.lines.see(origin, {one.number: one.digest for one in listings if one.number in firm})
            self.outputs.identify(listings, origin, stop.is_set)
            return resume_point(self.outputs, origin)

        try:
            return await asyncio.to_thread(look)
        finally:
            stop.set()

    async def had(self, origin: str | None) -> set[int]:
        """Return the versions of a line whose files are here.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        return set(await asyncio.to_thread(self.outputs.had, origin))

    async def is_here(self, origin: str | None, number: int) -> bool:
        """Return whether the file of a version is here, and good.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        return number in dict(await asyncio.to_thread(self.outputs.good, origin))

    async def received(self, release: Release, file: os.stat_result | None) -> Release:
        """Record a version whose file has its name; return the release, which tells whether its line is new.

        Raises:
            LocalDiskError: the record can't be written.
        """
        origin, number, digest = release.origin, release.number, release.digest

        def record() -> bool:
            self.outputs.add(release.path, origin, number, digest, file=file)
            self.outputs.lines.see(origin, {number: digest})
            return self.outputs.lines.is_new_line(origin)

        if not await asyncio.to_thread(record):
            return release
        log.warning(
            "%s is of another line of versions than those before it (origin id %s): its publisher began anew",
            release.version,
            origin_name(origin),
        )
        return replace(release, new_line=True)

    async def announced(self, release: Release) -> None:
        """Note that whoever follows has had a version.

        Raises:
            LocalDiskError: the note can't be written.
        """
        await asyncio.to_thread(
            self.outputs.lines.mark_announced, release.origin, release.number, release.digest
        )

    async def withdrawn(self, origin: str | None, withdrawal: Withdrawal) -> None:
        """Note that the publisher took a version of a line back. Whoever follows is told of each version that
        is here or was announced here, once; again when a kill cut that off.

        Raises:
            LocalDiskError: the note can't be written.
        """
        number, digest = withdrawal.number, withdrawal.digest
        if not await asyncio.to_thread(self.outputs.lines.mark_withdrawn, origin, number, digest):
            return
        known = await asyncio.to_thread(self.outputs.knows, origin, number, digest)
        if known and self._on_withdrawn:
            told = self._on_withdrawn(withdrawal)
            if inspect.isawaitable(told):
                await told
        await asyncio.to_thread(self.outputs.lines.mark_told, origin, number, digest)


async def line_origin(standing: Standing, peers: Mapping[str, Peer]) -> str | None:
    """Return the origin id of a line whose servers tell none, as the manifest of its newest version says
    (static servers); None where that has none either."""
    number = max(standing.group.complete, default=None)
    if number is None:
        return None
    servers = standing.group.complete[number]
    asking = [asyncio.ensure_future(peers[url].header(version_name(number))) for url in servers]
    try:
        await asyncio.wait(asking, timeout=_ASKING)
        answered = [one.result() for one in asking if one.done() and not one.exception()]
        return next((header.origin for header in answered if header and header.origin), None)
    finally:
        await cancel(asking)
