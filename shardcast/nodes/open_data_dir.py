"""A data directory in the hands of a node: locked, loaded, tidied and closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shardcast.concurrency import cancel
from shardcast.disk_errors import disk_errors
from shardcast.store.data_dir import DataDir
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)

_TIDY_INTERVAL = 2.0
"""Seconds between two checks for versions to retire and for the presence of the directory."""


@asynccontextmanager
async def open_data_dir(
    data_dir: Path, role: str, *, keep: int | None = None, max_bytes: int | None = None, resume: bool = False
) -> AsyncIterator[VersionFolders]:
    """Yield the version folders of a data directory, locked by this process and tidied every 2 s.

    Args:
        data_dir: the directory, made if missing.
        role: of this process, named in the error of another process.
        keep: complete versions to keep; None for as many as the last time. Remembered in the directory.
        max_bytes: for all versions together; None for no bound, or without ``keep`` for the bound of the last
            time. Remembered too.
        resume: whether partly fetched versions are kept and continued.

    Raises:
        DataDirInUse: another process holds the directory.
        LocalDiskError: the directory can't be used.
    """
    directory = await asyncio.to_thread(DataDir, data_dir, role)
    try:
        with disk_errors("could not take up", data_dir):
            bound = await asyncio.to_thread(directory.remembered_max_bytes, max_bytes, keep is not None)
            kept = await asyncio.to_thread(directory.remembered_keep, keep)
            folders = VersionFolders(directory, kept, max_bytes=bound)
            for line in await asyncio.to_thread(folders.load, resume):
                log.warning("%s", line)
        await folders.try_tidy()
        tidying = asyncio.ensure_future(_tidy(folders))
        try:
            yield folders
        finally:
            await cancel_and_raise(tidying)
    finally:
        directory.close()


async def _tidy(folders: VersionFolders) -> None:
    """Retire versions as soon as allowed: look every 2 s, for ever."""
    while True:
        await asyncio.sleep(_TIDY_INTERVAL)
        await folders.try_tidy()


async def cancel_and_raise(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end; raise the task's own error, if any."""
    await cancel([task])
    if not task.cancelled():
        task.result()
