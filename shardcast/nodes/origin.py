"""The origin: publishes payloads and serves them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS, SHARD_SIZE
from shardcast.nodes.adopting import adopt
from shardcast.nodes.publishing import Broadcast, Publisher
from shardcast.nodes.status import describe_versions
from shardcast.server.doors.feed import add_feed
from shardcast.server.doors.health import add_health
from shardcast.server.doors.publish import add_publish
from shardcast.server.doors.versions import add_versions
from shardcast.server.listening import application, listening, listening_on_socket
from shardcast.store.data_dir import DataDir
from shardcast.store.tasks import cancel
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)

_TIDY_INTERVAL = 5.0
"""Seconds between two looks at which versions can be retired."""

DIGESTS = {"sha256": ("sha256",), "blake3": ("sha256", "blake3")}
"""The whole digests that manifests carry, by the one that the distribution list shows."""


@asynccontextmanager
async def holding(
    data_dir: Path, role: str, keep: int | None, resume: bool = False
) -> AsyncIterator[VersionFolders]:
    """The version folders of a data directory, held by this process and tidied as time goes by.

    Raises:
        DataDirInUse: another process holds it.
        LocalDiskError: it can't be used.
    """
    held = await asyncio.to_thread(DataDir, data_dir, role)
    try:
        folders = VersionFolders(held, await asyncio.to_thread(held.kept, keep))
        for line in await asyncio.to_thread(folders.load, resume):
            log.warning("%s", line)
        await folders.tidy()
        tidying = asyncio.ensure_future(_tidy(folders))
        try:
            yield folders
        finally:
            await end(tidying)
    finally:
        held.close()


async def _tidy(folders: VersionFolders) -> None:
    while True:
        await asyncio.sleep(_TIDY_INTERVAL)
        try:
            await folders.tidy()
        except OSError as error:
            log.error("could not retire old versions: %s", error)


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended; an error of its own is raised."""
    await cancel([task])
    if not task.cancelled():
        task.result()


@asynccontextmanager
async def publishing(data_dir: Path) -> AsyncIterator[Publisher]:
    """Publish into a data directory on which no origin runs; it keeps as many versions as the last one did.

    Raises:
        DataDirInUse: another process holds it.
        LocalDiskError: it can't be used.
    """
    async with holding(data_dir, "broadcast", keep=None) as folders:
        publisher = Publisher(folders)
        try:
            yield publisher
        finally:
            await publisher.close()


class Origin:
    """An origin that runs.

    Attributes:
        url: where it listens.
        folders: what it serves.
    """

    def __init__(self, url: str, folders: VersionFolders, publisher: Publisher) -> None:
        self.url = url
        self.folders = folders
        self._publisher = publisher

    async def publish(
        self,
        path: Path,
        shard_size: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        copy: bool = True,
    ) -> Broadcast:
        """Begin to broadcast a payload, behind those that were begun before; see ``Publisher.publish``."""
        return await self._publisher.publish(path, shard_size, metadata, copy)

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        data_dir: Path,
        host: str = "0.0.0.0",
        port: int = HTTP_PORT,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        shard_size: int = SHARD_SIZE,
        first_version: int = 1,
        listed_digest: str = "sha256",
    ) -> AsyncIterator[Origin]:
        """Run an origin.

        Raises:
            DataDirInUse: another process holds the data directory.
            LocalDiskError: it can't be used.
            NodeFailed: the address can't be bound.
        """
        async with AsyncExitStack() as stack:
            folders = await stack.enter_async_context(holding(data_dir, "origin", keep))
            publisher = Publisher(folders, shard_size, first_version, DIGESTS[listed_digest])
            node_id, held = secrets.token_hex(8), folders.data_dir

            def status() -> dict[str, Any]:
                return {
                    "role": "origin",
                    "node": node_id,
                    "origin": folders.data_dir.origin_id,
                    "versions": describe_versions(folders),
                }

            doors = (
                partial(add_versions, shelf=folders),
                partial(add_feed, shelf=folders, node_id=node_id, place=lambda: (held.origin_id, 0)),
                partial(add_health, status=status, behind=lambda: None),
            )
            url = await stack.enter_async_context(listening(application(node_id, *doors), host, port))
            control = application(node_id, partial(add_publish, publisher=publisher))
            await stack.enter_async_context(listening_on_socket(control, folders.data_dir.root))
            adopting = asyncio.ensure_future(adopt(folders, folders.unsurveyed))
            stack.push_async_callback(end, adopting)
            stack.push_async_callback(publisher.close)
            yield cls(url, folders, publisher)
