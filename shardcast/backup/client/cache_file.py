"""Files of a folder's cache: the last cache, the next one, and the rename of the next to the last."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from shardcast.backup.client.folder_cache import FolderCache, FolderCacheWriter, renew
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError
from shardcast.open_files import close
from shardcast.temporary_files import create_private, temporary_name

_PRIVATE_FOLDER = 0o700


def cache_path(url: str, client: str, folder: bytes) -> Path:
    """Return the path of the cache for a folder, a server and a client."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(
        b"\0".join((url.encode(), client.encode("utf-8", "surrogatepass"), folder))
    ).hexdigest()
    return Path(base, "shardcast", "backup", name[:32])


class CacheFile:
    """The cache of one folder during a backup; used in a ``with`` block."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Open nothing yet.

        Args:
            path: the file.
            key: the key of ids.
        """
        self._path = path
        self._key = key
        self._parts: list[tuple[Path, int]] = []
        self._open: list[FolderCache] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for cache in self._open:
            cache.close()
        for part, descriptor in self._parts:
            close(descriptor)
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def last(self) -> FolderCache | None:
        """Return the cache of the last backup; None if missing, damaged, or made with another key."""
        return self._opened(self._path)

    def begin(self) -> FolderCacheWriter:
        """Begin the next cache in a temporary file, and return the writer.

        Raises:
            LocalDiskError: the file cannot be made.
        """
        with disk_errors("could not write", self._path):
            self._path.parent.mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)
            part = temporary_name(self._path)
            self._parts.append((part, create_private(part)))
        return FolderCacheWriter(self._parts[-1][1], self._key, self._path)

    def end(self, writer: FolderCacheWriter) -> FolderCache:
        """Finish the next cache, and return the cache for reading.

        Raises:
            LocalDiskError: the file cannot be written.
        """
        part = self._parts[-1][0]
        with disk_errors("could not write", part):
            writer.finish("")
            if (found := self._opened(part)) is not None:
                return found
            raise LocalDiskError(f"could not read {part}: another program changed it; back up again")

    def keep(self, snapshot: str) -> None:
        """Write a snapshot's id into the newest cache, and give the cache the name of the last one.

        If no next cache was begun, the last one gets the id.

        Raises:
            LocalDiskError: the file cannot be written or renamed.
        """
        with disk_errors(f"made snapshot {snapshot}, but could not write its cache", self._path):
            newest = self._parts[-1][0] if self._parts else self._path
            renew(newest, snapshot)
            # Not synced: a torn cache shows by its digests, and costs one backup that reads all.
            newest.replace(self._path)

    def _opened(self, path: Path) -> FolderCache | None:
        found = FolderCache.open(path, self._key)
        if found is not None:
            self._open.append(found)
        return found
