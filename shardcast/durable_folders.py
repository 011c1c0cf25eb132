"""Folders below a root, made durably."""

from __future__ import annotations

from pathlib import Path

from shardcast.filesystem import new_folders, sync_name


class DurableFolders:
    """Makes folders below a root, durably; threads may share it.

    The name of each is synced once, whoever made it: another process may have been killed before it came to
    that, or be about to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._certain = {root}

    def make(self, folder: Path) -> None:
        """Make a folder, and those above it that are missing.

        Raises:
            OSError: a folder can't be made.
        """
        above = [one for one in (folder, *folder.parents) if one.is_relative_to(self._root)]
        missing = new_folders(folder)
        for one in above:
            if one in missing or one not in self._certain:
                sync_name(one)
                self._certain.add(one)
