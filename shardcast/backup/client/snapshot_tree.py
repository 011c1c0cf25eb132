"""The tree of a snapshot, read folder by folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shardcast.backup.client.chunk_reader import ChunkReader
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.backup.ids import ChunkKind
from shardcast.backup.listings import read_chunk_list, read_segment
from shardcast.backup.snapshots import Snapshot
from shardcast.errors import IntegrityError

MAX_DEPTH = 1024
"""Folders inside each other: a longer path can't be opened on any system."""
_AHEAD = 256
"""Subfolders whose listings are read together."""


class Chunk(NamedTuple):
    """A part of a file.

    Attributes:
        id: the chunk's id.
        size: number of plain bytes.
    """

    id: bytes
    size: int


class TreeEntry(NamedTuple):
    """An entry with its path.

    Attributes:
        path: from the top of the snapshot; ``b""`` for the top itself.
        entry: the entry at the path.
    """

    path: bytes
    entry: SavedEntry


class EndlessTree(IntegrityError):
    """A snapshot whose listings have more entries than its record says: no entry can be trusted."""


class SnapshotTree:
    """The entries of one snapshot; each folder is listed on demand.

    Attributes:
        root: the entry of the top folder.
        name: of the snapshot, for errors.
    """

    name = "this snapshot"

    def __init__(self, reader: ChunkReader, root: SavedEntry, snapshot: Snapshot | None = None) -> None:
        """Read the tree below an entry, with at most the number of entries in the snapshot's record.

        A hostile server knows the key of ids, and can make nested folders that share one listing: without
        this bound, a few listings would be an endless tree.
        """
        self._reader = reader
        self.root = root
        self._snapshot = snapshot
        self._files = self._folders = 0

    @classmethod
    def of(cls, reader: ChunkReader, snapshot: Snapshot) -> SnapshotTree:
        """Return the tree of a snapshot."""
        return cls(reader, snapshot.root, snapshot)

    def entries(self, folder: SavedEntry, path: bytes = b"") -> Iterator[SavedEntry]:
        """Yield the entries of a folder, sorted by name.

        Args:
            folder: the entry of the folder.
            path: of the folder, for errors.

        Raises:
            IntegrityError: the folder's listing is damaged or lost, or its names are not in order.
            EndlessTree: the tree has more entries than the snapshot's record says.
            ShardcastError: the server does not answer.
        """
        last = b""
        self._count(folders=1 if folder.segments else 0)
        self._reader.read_ahead(ChunkKind.LISTING, folder.segments[:_AHEAD])
        for segment in folder.segments:
            try:
                entries = read_segment(self._reader.read(ChunkKind.LISTING, segment))
            except IntegrityError as error:
                raise IntegrityError(f"the folder {shown(path)} can't be listed: {error}") from None
            if entries and entries[0].name <= last:
                raise IntegrityError(f"the folder {shown(path)} lists names that are not in order")
            last = entries[-1].name if entries else last
            self._count(files=sum(entry.kind is not SavedKind.FOLDER for entry in entries))
            yield from self._reading_ahead(entries)

    def _count(self, *, files: int = 0, folders: int = 0) -> None:
        """Count listed entries.

        Raises:
            EndlessTree: the tree has more entries than the snapshot's record says.
        """
        self._files += files
        self._folders += folders
        made = self._snapshot
        if made and (self._files > made.files or self._folders > made.folders):
            raise EndlessTree(
                f"{self._reader.url}: {self.name} lists more than its {made.files} files and "
                f"{made.folders} folders; do not trust what this server sends"
            )

    def _reading_ahead(self, entries: list[SavedEntry]) -> Iterator[SavedEntry]:
        """Yield entries, and read the listings of the next subfolders together."""
        folders = [entry for entry in entries if entry.kind is SavedKind.FOLDER]
        met = 0
        for entry in entries:
            if entry.kind is SavedKind.FOLDER:
                if met % _AHEAD == 0:
                    ahead = folders[met : met + _AHEAD]
                    self._reader.read_ahead(ChunkKind.LISTING, [one for f in ahead for one in f.segments[:4]])
                met += 1
            yield entry

    def find(self, path: bytes) -> SavedEntry | None:
        """Return the entry at a path; None where there is none.

        Raises:
            IntegrityError: a listing on the way is damaged or lost.
            ShardcastError: the server does not answer.
        """
        entry = self.root
        for name in filter(None, path.split(b"/")):
            if entry.kind is not SavedKind.FOLDER:
                return None
            found = next((one for one in self.entries(entry, path) if one.name == name), None)
            if found is None:
                return None
            entry = found
        return entry

    def walk(self, folder: SavedEntry | None = None, path: bytes = b"") -> Iterator[TreeEntry]:
        """Yield every entry below a folder, each folder before its entries.

        Raises:
            IntegrityError: a listing is damaged or lost, or folders are nested too deep.
            ShardcastError: the server does not answer.
        """
        open_folders = [(path, self.entries(folder or self.root, path))]
        while open_folders:
            above, entries = open_folders[-1]
            entry = next(entries, None)
            if entry is None:
                open_folders.pop()
                continue
            below = join(above, entry.name)
            yield TreeEntry(below, entry)
            if entry.kind is SavedKind.FOLDER:
                check_depth(len(open_folders), below)
                open_folders.append((below, self.entries(entry, below)))

    def chunks(self, entry: SavedEntry) -> Iterator[Chunk]:
        """Yield the chunks of a file, in order.

        Raises:
            IntegrityError: the chunk lists are damaged, lost, or do not add up to the file's size.
            ShardcastError: the server does not answer.
        """
        if not entry.chunk_lists:
            sizes = entry.sizes or (entry.size,)
            yield from map(Chunk, entry.chunks, sizes)
            return
        size = 0
        for number, piece in enumerate(entry.chunk_lists):
            if number % _AHEAD == 0:
                self._reader.read_ahead(ChunkKind.LISTING, entry.chunk_lists[number : number + _AHEAD])
            for chunk, length in read_chunk_list(self._reader.read(ChunkKind.LISTING, piece)):
                size += length
                yield Chunk(chunk, length)
        if size != entry.size:
            raise IntegrityError(f"{shown(entry.name)} has chunks of {size} bytes instead of {entry.size}")


def check_depth(depth: int, path: bytes, deepest: int = MAX_DEPTH) -> None:
    """Check how many folders lie in each other.

    Raises:
        IntegrityError: more than ``deepest``.
    """
    if depth >= deepest:
        raise IntegrityError(f"{shown(path)[:100]}… is nested in more than {deepest} folders")


def join(folder: bytes, name: bytes) -> bytes:
    """Return the path of a name in a folder."""
    return folder + b"/" + name if folder else name


def shown(path: bytes) -> str:
    """Return a path as text for a message; the top is ``.``."""
    return path.decode("utf-8", "surrogateescape") or "."
