"""Reuse of seeds for an arriving folder: local files are taken before a shard is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from shardcast.folders.kept import MANIFEST
from shardcast.folders.layout import FolderShard
from shardcast.folders.places import FileShard, FolderPlaces
from shardcast.folders.seeds import FolderSeeds, open_seed
from shardcast.open_files import close, write_all
from shardcast.protocol.manifest import Shard

_NEWEST = 3
"""Number of folders beside the output used as seeds: the newest ones, in addition to the output itself."""
_CHUNK = 1 << 20


def seed_folders(output: Path, named: Iterable[Path] = ()) -> list[Path]:
    """Return the folders that may have files of a version: named ones, the output, and outputs beside it.

    Outputs beside it are folders with a manifest beside them, the newest three, newest first.
    """
    beside: list[tuple[int, Path]] = []
    try:
        entries = list(os.scandir(output.parent))
    except OSError:
        entries = []
    for entry in entries:
        name = entry.name
        if name.startswith(".") and name.endswith(MANIFEST):
            folder = output.with_name(name[1 : -len(MANIFEST)])
            if folder != output and folder.is_dir() and not folder.is_symlink():
                beside.append((entry.stat(follow_symlinks=False).st_mtime_ns, folder))
    newest = [folder for _, folder in sorted(beside, reverse=True)[:_NEWEST]]
    return list(dict.fromkeys([*(path.absolute() for path in named), output, *newest]))


class FolderReuse:
    """The seeds of one arriving folder; for one thread at a time."""

    def __init__(self, places: FolderPlaces, seeds: FolderSeeds, *, links: bool) -> None:
        """Take nothing yet; ``links``: whether files may be linked."""
        self._places = places
        self._seeds = seeds
        self._links = links

    def is_useful(self) -> bool:
        """Return whether any file of the folder may be in a seed."""
        if not self._seeds:
            return False
        table = self._places.layout.table
        return any(
            self._seeds.find_small(table.digest(index), size) or self._seeds.find_alike(table[index])
            for index, size in enumerate(table.sizes)
            if size
        )

    def take_small(self, start: int, end: int) -> None:
        """Take the small files with bytes from ``start`` to ``end`` of the payload.

        Raises:
            OSError: they can't be written.
        """
        table = self._places.layout.table
        for index in self._places.layout.files_between(start, end):
            if self._places.lacks(index) and self._places.selection.has_bytes_of(index):
                digest, size = table.digest(index), table.size(index)
                found = self._seeds.find_small(digest, size)
                if found and digest:
                    parts = [FileShard(0, size, digest.hex())]
                    self._places.take(index, found, parts, links=self._links)
                elif alike := self._seeds.find_alike(table[index]):
                    self._places.take(index, alike, (), links=False)

    def take_large(self, index: int, shards: Sequence[tuple[FolderShard, Shard]]) -> None:
        """Take a large file from a seed with all its shards.

        Args:
            index: of the file.
            shards: all shards of the file.

        Raises:
            OSError: the file can't be written.
        """
        if not self._places.lacks(index) or not shards:
            return
        first = self._seeds.find_shard(shards[0][1].sha256)
        if first is None or first.offset or first.size != self._places.layout.table.size(index):
            return
        parts = []
        for placed, shard in shards:
            found = self._seeds.find_shard(shard.sha256)
            here = found and (found.seed, found.index, found.offset)
            if not shard.sha256 or here != (first.seed, first.index, placed.file_offset):
                return
            parts.append(FileShard(placed.file_offset, placed.size, shard.sha256))
        self._places.take(index, first, parts, links=self._links)

    def copy_shard(self, shard: Shard, descriptor: int, offset: int) -> bool:
        """Copy a whole shard, unverified, from a seed into an open file; return whether a seed had it.

        Raises:
            OSError: they can't be written.
        """
        found = self._seeds.find_shard(shard.sha256)
        source = open_seed(found) if found else None
        if found is None or source is None:
            return False
        try:
            for start in range(0, shard.size, _CHUNK):
                data = os.pread(source, min(_CHUNK, shard.size - start), found.offset + start)
                os.lseek(descriptor, offset + start, os.SEEK_SET)
                write_all(descriptor, data)
        finally:
            close(source)
        return True

    def close(self) -> None:
        """Close the seeds.

        Raises:
            LocalDiskError: the record of linked files can't be renewed.
        """
        self._seeds.close()
