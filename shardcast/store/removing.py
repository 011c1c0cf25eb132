"""Removing what a retired version left in its data directory."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil

from shardcast.store.data_dir import DataDir
from shardcast.store.verified import Verified
from shardcast.wire import version_name

log = logging.getLogger(__name__)


class Removing:
    """Removes the folders of versions that are off the list, and what was written down of them."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._left: set[int] = set()

    async def remove(self, number: int) -> None:
        """Remove one. What can't be removed now is kept in mind for ``again``."""
        try:
            await asyncio.to_thread(self._remove, number)
            self._left.discard(number)
        except OSError as error:
            if number not in self._left:
                log.error("could not remove the retired %s, and try again: %s", version_name(number), error)
            self._left.add(number)

    async def again(self) -> None:
        """Try once more to remove what couldn't be."""
        for number in list(self._left):
            await self.remove(number)

    def _remove(self, number: int) -> None:
        folder, version = self._data_dir.folder(number), version_name(number)
        if folder.exists():
            grave = self._data_dir.retired / f"{version}-{secrets.token_hex(4)}"
            folder.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)
        (self._data_dir.linked / version).unlink(missing_ok=True)
        (self._data_dir.pinned / version).unlink(missing_ok=True)
        Verified(self._data_dir.verified / version).remove()
