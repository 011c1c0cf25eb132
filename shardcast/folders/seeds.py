"""Downloaded folders of the reader, and the files in them with bytes of a new version.

A file is found by SHA-256, from the manifest beside its folder: a small file by its own digest, a large file
by those of its shards. The manifest's digest of a file counts only after hashing the file here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from shardcast.folders.contents import folder_layout
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.file_states import FileStates
from shardcast.folders.kept import keep_states, kept_selection, kept_states, read_kept
from shardcast.folders.layout import FolderLayout
from shardcast.folders.table import FolderTable
from shardcast.folders.tree import OpenTree
from shardcast.open_files import close
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import ManifestError

MAX_SEEDS = 8
"""Maximum folders used at once; each has its list in memory."""


class SeedFolder:
    """A folder with reusable files.

    Attributes:
        path: the folder.
        layout: the folder's entries, by the manifest of its version.
        states: the recorded states of the files, with marks for hashed ones; None if unknown.
    """

    def __init__(
        self, path: Path, tree: OpenTree, layout: FolderLayout, manifest: Manifest, states: FileStates | None
    ) -> None:
        self.path = path
        self.layout = layout
        self.states = states
        self.manifest = manifest
        self._tree = tree
        self._linked: set[int] = set()

    @classmethod
    def open(cls, path: Path) -> SeedFolder | None:
        """Open a folder with the manifest beside it; None without a readable manifest."""
        manifest = read_kept(path)
        if manifest is None:
            return None
        try:
            layout = folder_layout(manifest)
            tree = OpenTree.at(path)
        except (ManifestError, OSError):
            return None
        if layout is None:
            tree.close()
            return None
        identity = sha256(manifest.raw).hexdigest()
        return cls(
            path, tree, layout, manifest, FileStates.load(kept_states(path), identity, len(layout.table))
        )

    def open_file(self, index: int) -> int:
        """Open a file of the folder, and return the descriptor.

        Raises:
            OSError: the file can't be opened.
        """
        return self._tree.open_file(self.layout.table.path(index))

    def place(self, index: int) -> tuple[int, bytes]:
        """Return the descriptor of a file's parent folder, and the file's name there.

        Raises:
            OSError: the parent folder can't be opened.
        """
        return self._tree.parent(self.layout.table.path(index))

    def note_link(self, index: int) -> None:
        """Note a file linked by this process, since linking changes its ctime."""
        self._linked.add(index)

    def close(self) -> None:
        """Renew the record of the linked files, and close the folder.

        Raises:
            LocalDiskError: the record can't be written; the folder stays open.
        """
        if self.states is not None and self._linked:
            table = self.layout.table
            firsts = {table.path(index) for index in self._linked}
            hard_links = (each for each in table.links.items() if table.kind(each[0]) is EntryKind.HARD_LINK)
            others = {index for index, link in hard_links if link in firsts}
            for index in sorted(self._linked | others):
                self.states.renew(index, self._tree, table.path(index))
            selection = kept_selection(self.path, self.manifest, table)
            keep_states(self.path, self.manifest, self.states, selection)
            self._linked.clear()
        self._tree.close()


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A file of a seed, and the offset of the wanted bytes in it.

    Attributes:
        seed: the folder.
        index: of the file in the seed's table.
        offset: of the first byte.
    """

    seed: SeedFolder
    index: int
    offset: int = 0

    @property
    def size(self) -> int:
        """The size of the file in its own version."""
        return self.seed.layout.table.size(self.index)

    def has_looks_of(self, table: FolderTable, index: int) -> bool:
        """Return whether mode and time are those of a file in another table."""
        here, at = self.seed.layout.table, self.index
        return here.mode(at) == table.mode(index) and here.mtime(at) == table.mtime(index)

    def look(self) -> os.stat_result | None:
        """Return the state of the file, or of the link in its place; None if unreadable."""
        try:
            folder, name = self.seed.place(self.index)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None

    def is_known(self, state: os.stat_result) -> bool:
        """Return whether the file with this state was hashed on arrival and is untouched since."""
        return self.seed.states is not None and self.seed.states.is_known(self.index, state)


class FolderSeeds:
    """The files of several folders, found by digest; for one thread at a time."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Open the folders with a manifest beside them, at most ``MAX_SEEDS``."""
        self._seeds: list[SeedFolder] = []
        self._small: dict[bytes, SeedFile] = {}
        self._shards: dict[str, SeedFile] = {}
        for path in folders:
            if len(self._seeds) < MAX_SEEDS and (seed := SeedFolder.open(path)):
                self._seeds.append(seed)
        for seed in reversed(self._seeds):  # the first ones count
            self._index(seed)

    def _index(self, seed: SeedFolder) -> None:
        layout, table = seed.layout, seed.layout.table
        for index in layout.small_files():
            if digest := table.digest(index):
                self._small[digest] = SeedFile(seed, index)
        for placed, shard in zip(layout.shards(), seed.manifest.shards, strict=True):
            if placed.index is not None and shard.sha256:
                self._shards[shard.sha256] = SeedFile(seed, placed.index, placed.file_offset)
                if placed.size == table.size(placed.index):
                    self._small[bytes.fromhex(shard.sha256)] = SeedFile(seed, placed.index)

    def __bool__(self) -> bool:
        return bool(self._seeds)

    def find_small(self, digest: bytes | None, size: int) -> SeedFile | None:
        """Return a file with a digest and a size; None where there is none."""
        found = self._small.get(digest) if digest else None
        return found if found and found.size == size else None

    def find_shard(self, digest: str | None) -> SeedFile | None:
        """Return a file with the bytes of a shard; None where there is none."""
        if not digest:
            return None
        return self._shards.get(digest) or self._small.get(bytes.fromhex(digest))

    def find_alike(self, entry: FolderEntry) -> SeedFile | None:
        """Return the file with the same path, size and time; the bytes may have changed all the same."""
        for seed in self._seeds:
            index = seed.layout.table.find(entry.path)
            if index is not None:
                found = seed.layout.table[index]
                if (found.kind, found.size, found.mtime) == (entry.kind, entry.size, entry.mtime):
                    return SeedFile(seed, index)
        return None

    def close(self) -> None:
        """Close all folders.

        Raises:
            LocalDiskError: the record of linked files can't be renewed.
        """
        try:
            while self._seeds:
                self._seeds.pop().close()
        finally:
            self._small.clear()
            self._shards.clear()


def open_seed(found: SeedFile) -> int | None:
    """Open a file of a seed; None on failure or for another size, since nothing depends on a seed."""
    try:
        descriptor = found.seed.open_file(found.index)
    except OSError:
        return None
    if os.fstat(descriptor).st_size != found.size:
        close(descriptor)
        return None
    return descriptor
