"""One backup of a folder: a run at the server, the tree in passes, a snapshot, the cache for the next one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardcast.backup.client.cache_file import CacheFile
from shardcast.backup.client.cache_plan import CachePlan
from shardcast.backup.client.chunk_sender import ChunkSender
from shardcast.backup.client.commits import SnapshotFacts, commit_snapshot
from shardcast.backup.client.file_reader import ChunkingReader
from shardcast.backup.client.folder_cache import FolderCache, FolderSums
from shardcast.backup.client.id_changes import IdChanges
from shardcast.backup.client.listing_builder import ListingBuilder
from shardcast.backup.client.old_listing import CacheDamaged
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.client.run import BackupRun
from shardcast.backup.client.tree_saver import SaveCounts, SavedTree, SaveRules, TreeSaver
from shardcast.disk_errors import disk_errors
from shardcast.errors import AccessDenied, BadAnswer, LocalDiskError, ServerLacks

_MAX_PASSES = 4
"""Maximum passes over a tree while the server lacks chunks the cache counts as stored."""
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """The order for a backup.

    Attributes:
        folder: absolute path of the folder.
        rules: names to leave out.
        host: the name of this machine.
        user: the user who runs the backup.
        tags: words for the snapshot.
        command: options of the backup, for the record.
        checksum: whether to read every file, ignoring the cache.
        cache: file of the cache.
    """

    folder: bytes
    rules: SaveRules
    host: str
    user: str
    cache: Path
    tags: tuple[str, ...] = ()
    command: Mapping[str, Any] = field(default_factory=dict)
    checksum: bool = False


@dataclass(frozen=True, slots=True)
class BackupResult:
    """Result of a backup.

    Attributes:
        snapshot: id of the snapshot.
        sums: of the tree.
        read_bytes: bytes read from files.
        sent_bytes: bytes sent.
        problems: entries not saved whole.
        left_out: names left out by rules.
        sockets: sockets; their content cannot be saved.
        seconds: duration.
    """

    snapshot: str
    sums: FolderSums
    read_bytes: int
    sent_bytes: int
    problems: int
    left_out: int
    sockets: int
    seconds: float


@dataclass(slots=True)
class BackupProgress:
    """Progress of a backup; read from another thread.

    Attributes:
        counts: of the finished folders.
        reader: of the files; None before the start.
        sender: of the chunks; likewise.
        expected: bytes in the last snapshot of this folder; None without one.
    """

    counts: SaveCounts = field(default_factory=SaveCounts)
    reader: ChunkingReader | None = None
    sender: ChunkSender | None = None
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over a tree: the tree, and its differences from the last snapshot."""

    tree: SavedTree
    changes: IdChanges
    cache: FolderCache


class FolderBackup:
    """A backup of one folder to one server.

    Attributes:
        progress: of the backup.
        problems: entries not saved whole: path below the folder, and the reason.
    """

    def __init__(self, server: BackupServer, order: BackupOrder, tell: Callable[[bytes, str], None]) -> None:
        """Begin nothing yet.

        Args:
            server: the backup server.
            order: the folder and the rules.
            tell: called once with each problem.
        """
        self.progress = BackupProgress()
        self.problems: dict[bytes, str] = {}
        self._server = server
        self._order = order
        self._tell = tell

    def run(self) -> BackupResult:
        """Save the folder, and return the result.

        Raises:
            AccessDenied: this client is read-only.
            PeerError, UploadRefused: the server does not answer, or has no room.
            LocalDiskError: the folder cannot be listed, or the cache cannot be written or read.
        """
        started, clock = time.time_ns(), time.monotonic()
        with begun_run(self._server, self._order.host, self._order.folder) as (run, key):
            sender = self.progress.sender = ChunkSender(run)
            reader = self.progress.reader = ChunkingReader(key, sender.take)
            try:
                with CacheFile(self._order.cache, key) as cache_file:
                    snapshot, tree = self._in_passes(run, key, cache_file, started)
            except BaseException:
                sender.abandon()
                raise
        counts = self.progress.counts
        return BackupResult(
            snapshot,
            tree.sums,
            reader.bytes,
            sender.sent_bytes,
            len(self.problems),
            counts.left_out,
            counts.sockets,
            time.monotonic() - clock,
        )

    def _in_passes(self, run: BackupRun, key: bytes, file: CacheFile, started: int) -> tuple[str, SavedTree]:
        """Save the tree until the server has all needed chunks; return the snapshot's id, and the tree."""
        cache = None if self._order.checksum else file.last()
        base = cache.snapshot if cache else None
        distrusted: AbstractSet[bytes] = frozenset()
        for _ in range(_MAX_PASSES):
            try:
                done = self._pass(key, file, cache, distrusted)
            except CacheDamaged:
                cache = base = None
                continue
            found = self._commit(run, done, base, started)
            if isinstance(found, str):
                file.keep(found)
                return found, done.tree
            # Missing chunks may belong to files the last pass did not read: read those.
            cache, base, distrusted = done.cache, None, distrusted | set(found)
        raise BadAnswer(
            self._server.url,
            f"the server still lacks chunks of the folder, sent in up to {_MAX_PASSES} passes; "
            "its operator should run: shardcast backup check --store_dir DIR",
        )

    def _pass(
        self, key: bytes, file: CacheFile, cache: FolderCache | None, distrusted: AbstractSet[bytes]
    ) -> _Pass:
        """Save the tree once."""
        progress, changes = self.progress, IdChanges()
        assert progress.sender and progress.reader
        if cache and (top := cache.top()):
            progress.expected = top.sums.bytes
        plan = CachePlan(cache, file.begin)
        builder = ListingBuilder(key, progress.reader, progress.sender, self._problem)
        saver = TreeSaver(
            builder, self._order.rules, plan, changes, self._problem, key, cache=cache, distrusted=distrusted
        )
        progress.counts = saver.counts
        with disk_errors("could not save", os.fsdecode(self._order.folder)):
            tree = saver.save(os.open(self._order.folder, _FOLDER_FLAGS))
            written = file.end(plan.written) if plan.written else cache
        progress.sender.finish()
        assert written is not None
        return _Pass(tree, changes, written)

    def _commit(self, run: BackupRun, done: _Pass, base: str | None, started: int) -> str | list[bytes]:
        """Make the snapshot; return its id, or ids of chunks missing at the server."""
        assert self.progress.sender
        order, top = self._order, done.cache.top()
        if top is None:
            raise LocalDiskError(f"another program changed the cache {order.cache}; back up again")
        facts = SnapshotFacts(
            order.folder, order.host, order.user, order.tags, order.command, started,
            self.progress.sender.sent_bytes, len(self.problems), base,
        )  # fmt: skip
        if base is not None and not done.changes.too_many:
            added, removed = done.changes.added(), done.changes.removed(done.cache.ids(top))
            try:
                return commit_snapshot(run, facts, done.tree.root, done.tree.sums, added, removed)
            except ServerLacks:  # the last snapshot was forgotten: name every id
                pass
        facts = facts.without_base()
        return commit_snapshot(run, facts, done.tree.root, done.tree.sums, done.cache.ids(top))

    def _problem(self, path: bytes, words: str) -> None:
        """Tell of a problem, unless an earlier pass did."""
        if path not in self.problems:
            self.problems[path] = words
            self._tell(path, words)


@contextmanager
def begun_run(server: BackupServer, host: str, folder: bytes) -> Iterator[tuple[BackupRun, bytes]]:
    """Begin a run; end the run after the block.

    Yields:
        The run, and the key of ids.

    Raises:
        AccessDenied: this client is read-only.
        PeerError: the server does not answer.
    """
    facts = server.facts()
    if facts.read_only:
        raise AccessDenied(
            server.url, "the key of this client is read-only; ask for an invitation that may write"
        )
    run = server.begin_run(host, folder)
    try:
        yield run, facts.id_key
    finally:
        with suppress(Exception):  # the server ends a run without renewal
            run.end()
