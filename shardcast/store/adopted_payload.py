"""The payload, or the large files of a folder, published without a copy: clones or hard links."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace as replace_fields
from pathlib import Path

from shardcast.errors import PayloadChanged
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace
from shardcast.open_files import sync_file
from shardcast.protocol.manifest import Shard
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.interfaces import Span
from shardcast.store.linked_files import WHOLE, LinkedFile, LinkedFiles, linked_name
from shardcast.store.version_place import VersionPlace


class AdoptedPayload:
    """Files in a version's folder shared with the publisher.

    All are adopted before the first line of the manifest, and so before any look-up by another thread.
    """

    def __init__(self, place: VersionPlace, usage: DiskUsage) -> None:
        """Adopt nothing yet."""
        self._place = place
        self._usage = usage
        self._linked = LinkedFiles()
        self._shards: set[int] = set()

    @property
    def present(self) -> bool:
        """Whether any shards are parts of adopted files."""
        return bool(self._linked)

    @property
    def path(self) -> Path:
        """The path of a payload adopted as one file."""
        return self._place.payload

    def has(self, shard: int) -> bool:
        """Return whether a shard is a part of an adopted file."""
        return shard in self._shards or (self.present and self._linked.files[0].first == WHOLE)

    def span(self, shard: int, shards: Sequence[Shard]) -> Span | None:
        """Return the place of a shard in an adopted file; None for other shards."""
        found = self._linked.find(shard, shards) if self.has(shard) else None
        return (
            Span(found[0].path, found[1], shards[shard - 1].size, shards[shard - 1].sha256) if found else None
        )

    def adopt(self, payload: Path) -> bool:
        """Clone a payload, or else hard-link it; return False if the file system supports neither.

        For a symbolic link, the file at the end is adopted.

        Raises:
            OSError: the payload can't be read.
        """
        adopted = self._place.adopt(payload)
        if adopted:
            self._note(WHOLE, self.path)
        return adopted

    def adopt_part(self, shards: range, descriptor: int, name: bytes, folder: int) -> Path | None:
        """Adopt a large file of a folder, and return the new path; None if cloning and linking fail.

        Args:
            shards: the numbers of the file's shards.
            descriptor: the file, open for reading.
            name: the file's name in its folder.
            folder: the folder's descriptor.

        Raises:
            OSError: the file can't be read, or has lost its name.
        """
        path = self._place.folder / linked_name(shards.start)
        if not self._place.adopt_open(descriptor, name, folder, path):
            return None
        self._note(shards.start, path)
        self._shards.update(shards)
        return path

    def _note(self, first: int, path: Path) -> None:
        """Count an adopted file's bytes on the disk, and keep its path and present identity."""
        found = path.stat()
        self._usage.add(self._place.folder, found)
        file = LinkedFile(first, path, FileIdentity.from_stat(found).recorded)
        self._linked = self._linked.replaced([file])

    def note_hashed(self, found: os.stat_result) -> None:
        """Have ``commit`` record the payload's identity at its hashing; ``found`` is its state then."""
        identity = FileIdentity.from_stat(found).recorded
        files = tuple(replace_fields(file, identity=identity) for file in self._linked.files)
        self._linked = LinkedFiles(files)

    def commit(self) -> None:
        """Make the files durable, and record their identities, so that later starts need not hash them.

        Raises:
            PayloadChanged: a file was written to or replaced since its hashing.
            OSError: the disk failed.
        """
        for file in self._linked.files:
            sync_file(file.path)  # the publisher may not have synced it, and its identity vouches for it now
            if file.is_changed:
                raise PayloadChanged(f"{file.path} was changed or replaced since its hashing")
        replace(self._place.linked, self._linked.text.encode())
