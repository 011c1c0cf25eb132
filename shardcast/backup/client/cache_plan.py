"""The next cache of a backup, of which nothing is written while everything is as it was."""

from __future__ import annotations

from collections.abc import Callable

from shardcast.backup.client.folder_cache import CachedFolder, FolderCache, FolderCacheWriter


class CachePlan:
    """Ranges of the last cache that the next one keeps, copied only before something else is written."""

    def __init__(self, cache: FolderCache | None, make_writer: Callable[[], FolderCacheWriter]) -> None:
        """Write nothing yet.

        Args:
            cache: the last cache; None for none.
            make_writer: begins the next one.
        """
        self._cache = cache
        self._make_writer = make_writer
        self._written: FolderCacheWriter | None = None
        self._kept: list[CachedFolder] = []

    @property
    def written(self) -> FolderCacheWriter | None:
        """The next cache; None while it would be as the last one."""
        return self._written

    def mark(self) -> int:
        """Return a mark of the ranges that are kept so far, for ``keep``."""
        return len(self._kept)

    def keep(self, folder: CachedFolder, mark: int) -> int:
        """Keep the range of an unchanged folder, and return its size.

        Args:
            folder: the folder.
            mark: made before its subfolders: their ranges are parts of it.
        """
        del self._kept[mark:]
        self._kept.append(folder)
        return folder.end - folder.start

    def writer(self) -> FolderCacheWriter:
        """Return the next cache, with all that is kept so far.

        Raises:
            OSError: it can't be written.
        """
        if self._written is None:
            self._written = self._make_writer()
        for folder in self._kept:
            assert self._cache is not None
            self._written.copy(self._cache, folder)
        self._kept.clear()
        return self._written
