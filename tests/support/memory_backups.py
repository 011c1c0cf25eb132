"""A backup server in memory that is as strict as it can be: a snapshot needs exactly the ids of its tree."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardcast.backup.client.answers import ClientFacts
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.client.saving import BackupOrder, BackupResult, FolderBackup
from shardcast.backup.client.tree_saver import SaveRules
from shardcast.backup.entries import SavedEntry
from shardcast.backup.ids import ChunkKind
from shardcast.backup.ignoring import IgnoreRules, Patterns
from shardcast.backup.listings import read_chunk_list, read_segment
from shardcast.backup.packs import Pack, parse_index
from shardcast.backup.snapshots import Snapshot, parse_snapshot
from shardcast.backup.wire import ChunkLocation
from shardcast.digest import Buffer
from shardcast.errors import ServerLacks
from tests.support.saved_trees import MemoryServer, SavedTree

KEY = bytes(range(32))


class MemoryBackups(BackupServer):
    """A backup server in memory.

    Attributes:
        chunks: what has the packs.
        snapshots_by_id: record and ids of each snapshot.
        bases: of the commits, in order.
        sent: bytes of the packs.
        read_only: whether the client may only restore.
        fail: called with each pack.
    """

    def __init__(self) -> None:
        super().__init__("http://memory:1")
        self.chunks = MemoryServer()
        self.snapshots_by_id: dict[str, tuple[Snapshot, frozenset[bytes]]] = {}
        self.bases: list[str | None] = []
        self.sent = 0
        self.read_only = False
        self.fail: Callable[[Pack], None] = lambda pack: None
        self._lock = threading.Lock()

    def facts(self) -> ClientFacts:
        """Return facts of the one client."""
        return ClientFacts("client", KEY, self.read_only, False, 0, None, None, 0)

    def begin_run(self, host: str, path: bytes) -> Any:
        """Return this, which is its own run."""
        return self

    def end(self) -> None:
        """End nothing."""

    def missing(self, ids: Sequence[bytes]) -> list[bool]:
        """Return which ids are missing."""
        with self._lock:
            return [chunk not in self.chunks.places for chunk in ids]

    def share(self, chunks: Mapping[bytes, Buffer]) -> set[bytes]:
        """Return none: there are no other clients."""
        return set()

    def put_pack(self, pack: Pack) -> None:
        """Keep a pack."""
        self.fail(pack)
        data, digest = bytes(pack.data), bytes.fromhex(pack.sha256)
        with self._lock:
            self.sent += len(data)
            self.chunks.packs[digest] = data
            for chunk, offset, length in parse_index(data[:8], data, len(data)):
                self.chunks.places[chunk] = ChunkLocation(digest, offset, length)

    def commit(
        self, head: Mapping[str, Any], record: bytes, added: Iterable[bytes], removed: Iterable[bytes] = ()
    ) -> str | list[bytes]:
        """Check that the ids are those of the tree, and that each is there."""
        base = head["base"]
        self.bases.append(base)
        if base is not None and base not in self.snapshots_by_id:
            raise ServerLacks(self.url, "no such base")
        ids = set(self.snapshots_by_id[base][1]) if base else set()
        ids = (ids - split(removed)) | split(added)
        if missing := sorted(ids - self.chunks.places.keys()):
            return missing
        snapshot = parse_snapshot(record)
        assert ids == self.needed(snapshot.root)
        name = f"{len(self.snapshots_by_id):016x}"
        self.snapshots_by_id[name] = snapshot, frozenset(ids)
        return name

    def lose(self, chunk: bytes) -> None:
        """Lose a chunk."""
        del self.chunks.places[chunk]

    def tree(self, snapshot: str) -> SavedTree:
        """Return a snapshot's tree, to be restored."""
        return SavedTree(self.chunks, KEY, root=self.snapshots_by_id[snapshot][0].root)

    def needed(self, entry: SavedEntry) -> set[bytes]:
        """Return all ids that an entry needs, and what is below it."""
        reader, found = (
            SavedTree(self.chunks, KEY).reader,
            {*entry.segments, *entry.chunks, *entry.chunk_lists},
        )
        for one in entry.chunk_lists:
            found |= {chunk for chunk, _ in read_chunk_list(reader.read(ChunkKind.LISTING, one))}
        for segment in entry.segments:
            for below in read_segment(reader.read(ChunkKind.LISTING, segment)):
                found |= self.needed(below)
        return found


@dataclass
class Saver:
    """A folder that is saved again and again.

    Attributes:
        folder: the folder.
        cache: file of its cache.
        server: where it is saved.
        told: problems of the last backup.
    """

    folder: Path
    cache: Path
    server: MemoryBackups = field(default_factory=MemoryBackups)
    told: dict[bytes, str] = field(default_factory=dict)

    def save(
        self, *exclude: str, checksum: bool = False, ignore_files: bool = True, **rules: bool
    ) -> BackupResult:
        """Save the folder."""
        self.told = {}
        ignore = IgnoreRules(Patterns(exclude), by_files=ignore_files)
        order = BackupOrder(
            os.fsencode(self.folder), SaveRules(ignore, **rules), "host", "me", self.cache, checksum=checksum
        )
        return FolderBackup(self.server, order, self.told.__setitem__).run()

    def names(self, snapshot: str) -> set[bytes]:
        """Return the paths in a snapshot."""
        return {found.path for found in self.server.tree(snapshot).tree.walk()}


def split(joined: Iterable[bytes]) -> set[bytes]:
    """Return ids that are joined in strings."""
    return {one[at : at + 32] for one in joined for at in range(0, len(one), 32)}
