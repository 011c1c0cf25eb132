"""Removing what a retired version left in its data directory."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from pathlib import Path

from shardcast.store.data_dir import DataDir
from shardcast.store.version_place import VersionPlace

log = logging.getLogger(__name__)


class Removing:
    """Removes the folders and records of versions that are off the list."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._left: set[VersionPlace] = set()

    async def remove(self, place: VersionPlace) -> None:
        """Remove a version. What can't be removed now is kept in mind for ``again``."""
        try:
            await asyncio.to_thread(bury, place, self._data_dir.retired)
            self._left.discard(place)
        except OSError as error:
            if place not in self._left:
                log.error("could not remove the retired %s, and try again: %s", place.folder.name, error)
            self._left.add(place)

    async def again(self) -> None:
        """Try once more to remove what couldn't be."""
        for place in list(self._left):
            await self.remove(place)


def bury(place: VersionPlace, graves: Path) -> None:
    """Remove a version's folder in one rename, then its records; blocks on the disk. A kill in between
    leaves records without a folder, which the next start removes; never a folder without its pin.

    Raises:
        OSError: the folder can't be moved, or a record not be removed.
    """
    if place.folder.exists():
        grave = graves / f"{place.folder.name}-{secrets.token_hex(4)}"
        place.folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)
    for record in place.records:
        record.unlink(missing_ok=True)
