"""The manifest of an open version on the disk; grows by the lines of its live manifest."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from shardcast.filesystem import append, replace
from shardcast.open_files import sync_file
from shardcast.protocol.manifest import Manifest
from shardcast.store.live_manifest import LiveManifest

_PORTION = 1 << 20
"""Bytes of the file compared at a time."""


class ManifestFile:
    """The manifest's file. Threads append to it, one at a time."""

    def __init__(self, path: Path, live: LiveManifest) -> None:
        """Write nothing yet."""
        self.path = path
        self._live = live
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Write the known lines.

        Raises:
            LocalDiskError: they can't be written.
        """
        replace(self.path, bytes(self._live.raw))

    def append(self, lines: bytes) -> None:
        """Add lines to the live manifest, then to the file.

        Raises:
            ManifestError: they are wrong, and none was written.
            OSError: they can't be written.
        """
        # The last line wakes the task that completes the version; ``commit`` then finds this line in the
        # file.
        with self._lock:
            self._live.add(lines)
            append(self.path, lines)

    def commit(self, manifest: Manifest) -> None:
        """Make the whole manifest durable.

        Raises:
            OSError: the disk failed.
        """
        with self._lock:
            if _holds(self.path, manifest.raw):
                sync_file(self.path)  # its lines were appended as they came
            else:
                replace(self.path, manifest.raw)


def _holds(path: Path, data: bytes) -> bool:
    """Return whether a file has these bytes; both may be a hundred megabytes."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != len(data):
                return False
            return all(
                file.read(_PORTION) == data[at : at + _PORTION] for at in range(0, len(data), _PORTION)
            )
    except FileNotFoundError:
        return False
