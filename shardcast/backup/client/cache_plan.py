"""The plan of the next cache: nothing is written while the folder is unchanged."""

from __future__ import annotations

from collections.abc import Callable

from shardcast.backup.client.folder_cache import CachedFolder, FolderCache, FolderCacheWriter


class CachePlan:
    """Ranges of the last cache to keep, copied into the next one only before something new is written."""

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
        """The writer of the next cache; None while equal to the last one."""
        return self._written

    def mark(self) -> int:
        """Return a mark of the ranges kept so far, for ``keep``."""
        return len(self._kept)

    def keep(self, folder: CachedFolder, mark: int) -> int:
        """Keep the range of an unchanged folder, and return the bytes of the range.

        Args:
            folder: the folder.
            mark: made before the subfolders; their ranges are replaced by the folder's.
        """
        del self._kept[mark:]
        self._kept.append(folder)
        return folder.end - folder.start

    def writer(self) -> FolderCacheWriter:
        """Return the writer of the next cache, after copying all kept ranges.

        Raises:
            OSError: the cache cannot be written.
        """
        if self._written is None:
            self._written = self._make_writer()
        for folder in self._kept:
            assert self._cache is not None
            self._written.copy(self._cache, folder)
        self._kept.clear()
        return self._written
