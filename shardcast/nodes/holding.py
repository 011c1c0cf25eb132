"""A data directory in the hands of a node: taken, tidied, let go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shardcast.concurrency import cancel
from shardcast.filesystem import disk_errors
from shardcast.store.data_dir import DataDir
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)

_TIDY_INTERVAL = 2.0
"""Seconds between two looks at which versions can be retired, and whether the directory is still there."""


@asynccontextmanager
async def holding(
    data_dir: Path, role: str, keep: int | None = None, max_bytes: int | None = None, resume: bool = False
) -> AsyncIterator[VersionFolders]:
    """The version folders of a data directory, held by this process and tidied as time goes by. ``keep`` and
    ``max_bytes`` are remembered there; without ``keep`` both are as they were the last time.

    Raises:
        DataDirInUse: another process holds it.
        LocalDiskError: it can't be used.
    """
    held = await asyncio.to_thread(DataDir, data_dir, role)
    try:
        with disk_errors("could not take up", data_dir):
            bound = await asyncio.to_thread(held.bounded, max_bytes, keep is not None)
            folders = VersionFolders(held, await asyncio.to_thread(held.kept, keep), max_bytes=bound)
            for line in await asyncio.to_thread(folders.load, resume):
                log.warning("%s", line)
        await folders.try_tidy()
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
        await folders.try_tidy()


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended; an error of its own is raised."""
    await cancel([task])
    if not task.cancelled():
        task.result()
