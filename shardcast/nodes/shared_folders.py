"""The versions shared by a middle: one for each of its memberships in swarms."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from shardcast.concurrency import background_task, cancel
from shardcast.nodes.memberships import Memberships
from shardcast.nodes.shared_pieces import SharedFolder
from shardcast.nodes.shared_version import SharedVersion
from shardcast.nodes.sharing import Sharing
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from shardcast.transfer.workers import Transfer
from shardcast.upstream.announcer import Membership

log = logging.getLogger(__name__)

_BEGUN_SECONDS = 0.1
"""Seconds for a fetch to wait until its version is shared, and then for a first answer: bytes fetched from
the servers before that are fetched by the other members too."""
_MIN_SIZE = 4 << 20
"""Bytes of a version below which the fetch starts at once."""
_LOOK = 0.25
"""Seconds between two looks at the versions to share, in the absence of a notification."""


class SharedFolders:
    """The shared versions of a middle's folders, each as long as its membership lasts."""

    def __init__(self, folders: VersionFolders, sharing: Sharing, memberships: Memberships) -> None:
        """Share nothing yet.

        Args:
            folders: the versions.
            sharing: shares them.
            memberships: of their swarms.
        """
        self._folders = folders
        self._sharing = sharing
        self._memberships = memberships
        self._shared: dict[Membership, tuple[SharedVersion, LiveManifest]] = {}
        self._tasks: dict[Membership, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Share the versions of all memberships, until this is cancelled."""
        try:
            while True:
                self._follow_memberships()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._memberships.changed.change()
        finally:
            await cancel(list(self._tasks.values()))

    def _follow_memberships(self) -> None:
        """Begin to share versions with a membership, and end those without one."""
        open_ = set(self._memberships.open)
        for membership, task in list(self._tasks.items()):
            if membership not in open_ or task.done():
                task.cancel()
                if task.done():
                    del self._tasks[membership]
        for shared, of in self._shared.values():
            if not shared.is_complete and self._folders.manifest_of(of.version):
                shared.complete()
        for membership in open_ - self._tasks.keys():
            live = self._live(membership)
            if live is not None:
                self._tasks[membership] = asyncio.ensure_future(self._share(membership, live))

    def _live(self, membership: Membership) -> LiveManifest | None:
        """Return the manifest of a membership's version; None where the version is not here (any more)."""
        name = version_name(membership.version.number)
        manifest = self._folders.manifest_of(name)
        live = LiveManifest.of(manifest) if manifest else self._folders.live(name)
        if live is None or not live.has_header or live.header.origin != membership.version.origin:
            return None
        return live

    async def _share(self, membership: Membership, live: LiveManifest) -> None:
        """Share a version until this is cancelled."""
        pieces = SharedFolder(self._folders, live.version)
        async with self._sharing.sharing(live, pieces, membership) as shared:
            exchange = shared.exchange
            if self._folders.manifest_of(live.version):
                shared.complete()
            self._shared[membership] = shared, live
            try:
                await shared.over.wait()
            finally:
                del self._shared[membership]
        if exchange.failure is not None:
            await asyncio.Event().wait()  # until the membership ends: it would fail again

    def handed(self, version: str) -> int | None:
        """Return the number of pieces of a version handed to this middle by servers; None for all it has."""
        for shared, live in self._shared.values():
            if live.version == version and not shared.is_complete:
                return shared.exchange.receipts.handed or None
        return None

    @asynccontextmanager
    async def helping(
        self, transfer: Transfer, sources: Iterable[str]
    ) -> AsyncIterator[SharedVersion | None]:
        """Let the neighbours help a fetch inside the block.

        Args:
            transfer: the fetch.
            sources: the URLs of the servers asked by the fetch.

        Yields:
            The shared version; None for a version not shared.
        """
        size = transfer.manifest.header.size
        found = await self._wait_for(transfer.manifest) if size is None or size >= _MIN_SIZE else None
        if found is None:
            yield None
            return
        membership, shared = found
        await self._sharing.first_answer(membership, _BEGUN_SECONDS)
        async with background_task(shared.help(transfer, sources, membership)):
            yield shared

    async def _wait_for(self, live: LiveManifest) -> tuple[Membership, SharedVersion] | None:
        """Return the shared version of a manifest; None if the version is not shared in time."""
        until = asyncio.get_running_loop().time() + _BEGUN_SECONDS
        self._memberships.look()
        while True:
            for membership, (shared, of) in self._shared.items():
                number = version_number(live.version)
                if membership.version.number == number and of.header == live.header:
                    return membership, shared
            if asyncio.get_running_loop().time() >= until:
                return None
            self._follow_memberships()
            await asyncio.sleep(0.01)
