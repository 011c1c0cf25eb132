"""A folder saved into packs in memory, by the formats alone: what a backup server would hold of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shardcast.backup.attributes import read_attributes
from shardcast.backup.client.chunk_reader import ChunkReader
from shardcast.backup.client.snapshot_tree import SnapshotTree
from shardcast.backup.encoding import encode_chunk
from shardcast.backup.entries import SavedEntry, SavedKind, entry_line
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.listings import cut_chunk_list, cut_lines
from shardcast.backup.packs import PackWriter
from shardcast.backup.snapshots import Snapshot, snapshot_record
from shardcast.backup.wire import NOWHERE, ChunkLocation
from shardcast.errors import ServerLacks

_KINDS = {
    stat.S_IFREG: SavedKind.FILE,
    stat.S_IFDIR: SavedKind.FOLDER,
    stat.S_IFLNK: SavedKind.LINK,
    stat.S_IFIFO: SavedKind.FIFO,
    stat.S_IFCHR: SavedKind.CHAR,
    stat.S_IFBLK: SavedKind.BLOCK,
}


@dataclass
class MemoryServer:
    """A backup server's answers about chunks, from memory.

    Attributes:
        packs: bytes of each pack by its SHA-256.
        places: where each chunk is.
        requests: ranges that were read: pack, offset, length.
        spoil: changes the bytes of a range before they are answered.
    """

    url: str = "memory:"
    packs: dict[bytes, bytes] = field(default_factory=dict)
    places: dict[bytes, ChunkLocation] = field(default_factory=dict)
    requests: list[tuple[bytes, int, int]] = field(default_factory=list)
    spoil: Callable[[bytes], bytes] = lambda data: data

    def locate(self, ids: Sequence[bytes]) -> list[ChunkLocation]:
        """Return where chunks are."""
        return [self.places.get(chunk, NOWHERE) for chunk in ids]

    def abort(self) -> None:
        """Do nothing: no request takes any time."""

    def read_range(self, pack: bytes, offset: int, length: int) -> bytes:
        """Return bytes of a pack."""
        self.requests.append((pack, offset, length))
        if pack not in self.packs:
            raise ServerLacks(self.url, "no such pack")
        return self.spoil(self.packs[pack][offset : offset + length])


@dataclass
class SavedTree:
    """A server that has chunks, and the top of a snapshot.

    Attributes:
        server: the server.
        key: of the ids.
        chunk_size: bytes of the chunks of files.
        pack_size: bytes of a pack.
        root: the entry of the folder that was saved.
    """

    server: MemoryServer = field(default_factory=MemoryServer)
    key: bytes = bytes(range(32))
    chunk_size: int = 1 << 16
    pack_size: int = 1 << 20
    root: SavedEntry = field(default_factory=lambda: SavedEntry(b"top", SavedKind.FOLDER, mode=0o755))
    _writers: dict[ChunkKind, PackWriter] = field(default_factory=dict)
    _hard: set[tuple[int, int]] = field(default_factory=set)

    @property
    def reader(self) -> ChunkReader:
        """A reader of the server's chunks."""
        return ChunkReader(self.server, self.key)

    @property
    def tree(self) -> SnapshotTree:
        """The tree that was saved."""
        return SnapshotTree(self.reader, self.root)

    @property
    def record(self) -> bytes:
        """The record of the snapshot."""
        return snapshot_record(Snapshot(self.root, b"/saved", "host", files=10**6, folders=10**6))

    def put(self, kind: ChunkKind, plain: bytes) -> bytes:
        """Store a chunk and return its id."""
        chunk = chunk_id(self.key, kind, plain)
        writer = self._writers.setdefault(kind, PackWriter())
        if chunk not in self.server.places:
            self.server.places[chunk] = ChunkLocation(bytes(32), 0, 0)
            writer.add(chunk, encode_chunk(plain))
            if writer.size >= self.pack_size:
                self.flush(kind)
        return chunk

    def flush(self, *kinds: ChunkKind) -> None:
        """Store the packs that are being filled."""
        for kind in kinds or tuple(self._writers):
            pack = self._writers.pop(kind).finish()
            digest = bytes.fromhex(pack.sha256)
            self.server.packs[digest] = bytes(pack.data)
            for chunk in pack.chunks:
                self.server.places[chunk.id] = ChunkLocation(digest, chunk.offset, chunk.length)

    def put_listing(self, entries: Iterable[SavedEntry]) -> tuple[bytes, ...]:
        """Store a folder's listing and return its segments."""
        lines = ((entry.name, entry_line(entry)) for entry in entries)
        return tuple(self.put(ChunkKind.LISTING, segment) for segment in cut_lines(lines))

    def file(self, name: bytes, data: bytes, **fields: object) -> SavedEntry:
        """Store the bytes of a file and return its entry."""
        pieces = [data[at : at + self.chunk_size] for at in range(0, len(data), self.chunk_size)]
        chunks = [(self.put(ChunkKind.DATA, piece), len(piece)) for piece in pieces]
        if len(chunks) > 1024:
            lists = tuple(self.put(ChunkKind.LISTING, piece) for piece in cut_chunk_list(chunks))
            return SavedEntry(name, SavedKind.FILE, size=len(data), chunk_lists=lists, **fields)  # type: ignore[arg-type]
        sizes = tuple(size for _, size in chunks) if len(chunks) > 1 else ()
        ids = tuple(chunk for chunk, _ in chunks)
        return SavedEntry(name, SavedKind.FILE, size=len(data), chunks=ids, sizes=sizes, **fields)  # type: ignore[arg-type]

    def folder(self, name: bytes, entries: Iterable[SavedEntry], **fields: object) -> SavedEntry:
        """Store the listing of a folder and return its entry."""
        fields.setdefault("mode", 0o755)
        segments = self.put_listing(sorted(entries, key=lambda entry: entry.name))
        return SavedEntry(name, SavedKind.FOLDER, segments=segments, **fields)  # type: ignore[arg-type]


def save(folder: Path, **settings: int) -> SavedTree:
    """Save a folder of the disk."""
    return save_with(SavedTree(**settings), folder)  # type: ignore[arg-type]


def save_with(saved: SavedTree, folder: Path) -> SavedTree:
    """Save a folder of the disk among what is saved already."""
    saved.root = _save(saved, os.fsencode(folder), b"top")
    saved.flush()
    return saved


def saved(root: SavedTree, *entries: SavedEntry) -> SavedTree:
    """Make entries the top of a snapshot."""
    root.root = root.folder(b"top", entries)
    root.flush()
    return root


def _save(saved: SavedTree, path: bytes, name: bytes) -> SavedEntry:
    """Save what has a path and return its entry."""
    facts = os.lstat(path)
    parent = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fields: dict[str, object] = dict(read_attributes(parent, os.path.basename(path), facts))
    finally:
        os.close(parent)
    fields.pop("problems", None)
    kind = _KINDS[stat.S_IFMT(facts.st_mode)]
    if kind is SavedKind.FOLDER:
        names = sorted(os.listdir(path))
        return saved.folder(name, [_save(saved, os.path.join(path, one), one) for one in names], **fields)
    if kind is SavedKind.FILE:
        if facts.st_nlink > 1:
            fields["hard"] = f"{facts.st_dev}:{facts.st_ino}"
        with open(path, "rb") as file:
            return saved.file(name, file.read(), sparse=facts.st_blocks * 512 < facts.st_size, **fields)
    if kind is SavedKind.LINK:
        fields["target"] = os.readlink(path)
    elif kind in (SavedKind.CHAR, SavedKind.BLOCK):
        fields["device"] = os.major(facts.st_rdev), os.minor(facts.st_rdev)
    return SavedEntry(name, kind, **fields)  # type: ignore[arg-type]
