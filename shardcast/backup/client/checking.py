"""A client's check: whether the server has all chunks of the client's snapshots, undamaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from blake3 import blake3

from shardcast.backup.client.chunk_reader import ChunkReader
from shardcast.backup.client.snapshot_tree import EndlessTree, SnapshotTree, check_depth, join, shown
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.backup.ids import ChunkKind
from shardcast.backup.snapshots import Snapshot, parse_snapshot
from shardcast.errors import IntegrityError

_BATCH = 16_384
"""Chunks looked up together."""
_MAX_SEEN = 1 << 22
"""Chunks remembered as checked: some 400 MB, and 4 TiB of large files. Beyond, some are checked again."""


class RecordServer(Protocol):
    """Requests for the records of snapshots."""

    def record(self, snapshot: str) -> bytes:
        """Return the record of a snapshot."""

    def damaged(self, snapshot: str) -> list[bytes]:
        """Return the chunks of a snapshot recorded by the server as damaged or lost."""


@dataclass
class CheckCounts:
    """Counts of a check.

    Attributes:
        snapshots: snapshots checked.
        chunks: chunks of files; each counts once, for the first four million.
        read: chunks read and verified.
        bytes: bytes of these chunks.
        damaged: chunks damaged or lost.
        hurt: snapshots that need such a chunk, or have an unreadable listing.
    """

    snapshots: int = 0
    chunks: int = 0
    read: int = 0
    bytes: int = 0
    damaged: int = 0
    hurt: int = 0


@dataclass
class _CheckedFolder:
    """A folder during a check.

    Attributes:
        path: from the top.
        entry: the folder's entry.
        entries: the remaining entries of the folder.
        is_whole: whether all listings so far, here and below, were right.
    """

    path: bytes
    entry: SavedEntry
    entries: Iterator[SavedEntry]
    is_whole: bool = True


@dataclass
class SnapshotCheck:
    """Checks snapshots of one client: each folder and chunk once; then the files that need a bad chunk.

    Attributes:
        server: the server.
        reader: reads the client's chunks.
        part: number of the part of all bytes to read, and the number of parts; None to read no bytes.
        tell: called with a snapshot, a path and a sentence about the damage.
        progress: called after each step.
        counts: the counts so far.
    """

    server: RecordServer
    reader: ChunkReader
    part: tuple[int, int] | None
    tell: Callable[[str, str, str], object]
    progress: Callable[[], object] = lambda: None
    counts: CheckCounts = field(default_factory=CheckCounts)
    _seen: set[bytes] = field(default_factory=set)
    _folders: set[bytes] = field(default_factory=set)
    _bad: dict[bytes, str] = field(default_factory=dict)

    def run(self, snapshots: Iterable[str]) -> None:
        """Check snapshots.

        Raises:
            ShardcastError: the server does not answer.
        """
        readable: dict[str, Snapshot] = {}
        hurt: set[str] = set()
        for name in snapshots:
            self.counts.snapshots += 1
            try:
                snapshot = readable[name] = parse_snapshot(self.server.record(name))
            except IntegrityError as error:
                hurt.add(name)
                self.tell(name, ".", str(error))
                continue
            for chunk in self.server.damaged(name):
                self._bad.setdefault(chunk, "the server found it damaged, or gone")
            if self._check_tree(name, SnapshotTree.of(self.reader, snapshot)):
                hurt.add(name)
        self.counts.damaged = len(self._bad)
        if self._bad:
            hurt |= {name for name, snapshot in readable.items() if self._name_hurt(name, snapshot)}
        self.counts.hurt = len(hurt)

    def _check_tree(self, name: str, tree: SnapshotTree) -> bool:
        """Check the folders and chunks not in earlier snapshots; return whether a listing is wrong."""
        wanted: list[bytes] = []
        found_wrong = False
        for path, entry in self._new_entries(tree):
            if isinstance(entry, IntegrityError):
                found_wrong = True
                self.tell(name, shown(path), str(entry))
                continue
            for chunk in tree.chunks(entry):
                if chunk.id not in self._seen:
                    self._see(chunk.id)
                    wanted.append(chunk.id)
                if len(wanted) >= _BATCH:
                    self._check_chunks(wanted)
                    wanted = []
        self._check_chunks(wanted)
        return found_wrong

    def _new_entries(self, tree: SnapshotTree) -> Iterator[tuple[bytes, SavedEntry | IntegrityError]]:
        """Yield the files in folders not seen yet, and an error for each unreadable folder."""
        open_folders = [_CheckedFolder(b"", tree.root, tree.entries(tree.root))]
        while open_folders:
            folder = open_folders[-1]
            path = folder.path
            try:
                entry = next(folder.entries, None)
                if entry is None:
                    self._leave(open_folders.pop())
                    continue
                path = join(folder.path, entry.name)
                if entry.kind is SavedKind.FILE:
                    _read_lists(tree, entry)
                    yield path, entry
                elif entry.kind is SavedKind.FOLDER and _key(entry) not in self._folders:
                    check_depth(len(open_folders), path)
                    open_folders.append(_CheckedFolder(path, entry, tree.entries(entry, path)))
            except IntegrityError as error:
                for above in open_folders:
                    above.is_whole = False
                if isinstance(error, EndlessTree):
                    open_folders.clear()
                elif path == folder.path:
                    open_folders.pop()
                yield path, error

    def _leave(self, folder: _CheckedFolder) -> None:
        """Remember a folder with right listings, here and below: later snapshots with the folder skip it."""
        if folder.is_whole:
            self._folders.add(_key(folder.entry))

    def _see(self, chunk: bytes) -> None:
        """Remember a chunk."""
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.add(chunk)

    def _check_chunks(self, chunks: list[bytes]) -> None:
        """Check that the server has the chunks, and read those in the part to read."""
        if not chunks:
            return
        parts, missing = self.reader.plan(chunks)
        self.counts.chunks += len(chunks)
        self._bad |= dict.fromkeys(missing, "it is not at the server")
        if self.part is None:
            self.progress()
            return
        number, count = self.part
        wanted = [chunk for chunk in chunks if int.from_bytes(chunk[:4], "big") % count == number - 1]
        for part in parts if count == 1 else self.reader.plan(wanted)[0]:
            for chunk, plain in self.reader.fetch_moved(ChunkKind.DATA, part):
                self.counts.read += 1
                if isinstance(plain, IntegrityError):
                    self._bad[chunk] = str(plain)
                else:
                    self.counts.bytes += len(plain)
            self.progress()

    def _name_hurt(self, name: str, snapshot: Snapshot) -> bool:
        """Report the files of a snapshot that need a bad chunk; return whether there are any."""
        found, tree = False, SnapshotTree.of(self.reader, snapshot)
        self._folders.clear()
        for path, entry in self._new_entries(tree):
            if isinstance(entry, IntegrityError):
                found = True
                continue
            bad = next((chunk.id for chunk in tree.chunks(entry) if chunk.id in self._bad), None)
            if bad is not None:
                found = True
                self.tell(name, shown(path), f"chunk {bad.hex()[:16]}: {self._bad[bad]}")
        return found


def _read_lists(tree: SnapshotTree, file: SavedEntry) -> None:
    """Read the lists of a large file's chunks.

    Raises:
        IntegrityError: one is damaged, or gone.
    """
    for _ in tree.chunks(file) if file.chunk_lists else ():
        pass


def _key(folder: SavedEntry) -> bytes:
    """Return the key that identifies a folder's listing."""
    return blake3(b"".join(folder.segments)).digest(16)
