"""Restoring: the tree of a snapshot, made again below an open folder.

The tree is walked folder by folder. Several threads fetch the chunks of some thousand files at a time, in the
order of the packs, verify the bytes and write them. A folder gets its mode and time after everything below.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shardcast.backup.attributes import apply_attributes
from shardcast.backup.client.chunk_reader import ChunkReader
from shardcast.backup.client.restore_entries import EntryRestorer, RestoreSettings
from shardcast.backup.client.restore_places import (
    TEMPORARY,
    UNFINISHED,
    RestorePlaces,
    is_unfinished,
    sync_file_system,
)
from shardcast.backup.client.restore_report import RestoreReport
from shardcast.backup.client.restore_window import MAX_FILES
from shardcast.backup.client.snapshot_tree import EndlessTree, SnapshotTree, check_depth, join
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError, UsageError
from shardcast.file_locks import Lock, lock_holder, try_lock
from shardcast.open_files import close

_MAX_HELD = 64 << 20
"""Bytes of entries waiting for others: a few thousand of them may have a megabyte each."""


@dataclass
class _Level:
    """A folder during a restore.

    Attributes:
        path: from the top of the snapshot.
        entry: the folder's entry.
        entries: the remaining entries of the folder.
        wanted: whether the selection includes the whole folder.
        state: None until the folder is needed; then whether the folder is usable.
        fresh: whether the folder was empty before the restore, so no name is taken.
        ours: whether to set the folder's attributes at the end.
    """

    path: bytes
    entry: SavedEntry
    entries: Iterator[SavedEntry]
    wanted: bool
    state: bool | None = None
    fresh: bool = False
    ours: bool = False


class Restore:
    """One restore of one snapshot; ``run`` is called once."""

    def __init__(
        self,
        tree: SnapshotTree,
        reader: ChunkReader,
        places: RestorePlaces,
        settings: RestoreSettings,
        report: RestoreReport,
    ) -> None:
        """Restore a tree.

        Args:
            tree: of the snapshot.
            reader: of the snapshot's chunks.
            places: the destination folder.
            settings: of the restore.
            report: collects counts and problems.
        """
        self._tree = tree
        self._reader = reader
        self._places = places
        self._settings = settings
        self._report = report
        self._entries = EntryRestorer(tree, reader, places, settings, report)
        self._left: list[_Level] = []  # folders that are complete once all entries are
        self._held = 0

    def run(self, *, fresh: bool, ours: bool) -> None:
        """Restore all selected entries.

        Args:
            fresh: whether the destination is empty.
            ours: whether the destination gets the attributes of the snapshot's top folder.

        Raises:
            OSError: the disk is full, or failed.
            ShardcastError: the server failed, or makes up listings.
        """
        root = self._tree.root
        top = _Level(b"", root, self._tree.entries(root), self._settings.selection.is_all, True, fresh, ours)
        try:
            self._walk([top])
            self._flush()
        except BaseException:
            self._reader.abort()  # threads may fetch while the listings are read
            raise
        finally:
            self._entries.close()

    def _walk(self, levels: list[_Level]) -> None:
        """Restore the entries of the innermost folder until none is left in any."""
        while levels:
            level = levels[-1]
            try:
                entry = next(level.entries, None)
            except EndlessTree:
                raise
            except IntegrityError as error:
                self._report.problem(level.path, str(error), "damaged")
                entry = None
            if entry is None:
                levels.pop()
                self._leave(level)
            elif entry.kind is SavedKind.FOLDER:
                self._descend(levels, entry)
            else:
                self._meet(levels, entry)

    def _descend(self, levels: list[_Level], entry: SavedEntry) -> None:
        """Descend into a folder unless the selection excludes everything below."""
        path, selection = join(levels[-1].path, entry.name), self._settings.selection
        if selection.excludes(path + b"/") or levels[-1].state is False:
            return
        wanted = levels[-1].wanted or selection.includes(path + b"/")
        if not wanted and not selection.may_hold(path):
            return
        check_depth(len(levels), path)
        self._report.matched |= wanted
        levels.append(_Level(path, entry, self._tree.entries(entry, path), wanted))
        if wanted and not self._need(levels):
            self._leave(levels.pop())

    def _meet(self, levels: list[_Level], entry: SavedEntry) -> None:
        """Restore a file, link or device if selected."""
        path, selection = join(levels[-1].path, entry.name), self._settings.selection
        if selection.excludes(path) or not (levels[-1].wanted or selection.includes(path)):
            return
        self._report.matched = True
        if not self._need(levels):
            return
        if entry.name.startswith(TEMPORARY):
            return  # left by an interrupted restore, and saved by a later backup
        with self._entries.guarded(path):
            self._entries.restore(path, entry, fresh=levels[-1].fresh)
        self._hold(entry)
        if self._entries.is_full:
            self._flush()

    def _hold(self, entry: SavedEntry) -> None:
        """Count the bytes of a waiting entry, and flush above the limit.

        Raises:
            OSError: the disk is full, or failed.
            ShardcastError: the server failed.
        """
        self._held += _size_of(entry)
        if self._held > _MAX_HELD:
            self._flush()

    # Folders

    def _need(self, levels: list[_Level]) -> bool:
        """Make the missing folders; return whether the innermost is usable."""
        if levels[-1].state is not None:
            return levels[-1].state
        for above, level in pairwise(levels):
            if level.state is None:
                level.state = False
                if above.state:
                    with self._entries.guarded(level.path):
                        level.state = self._open_folder(level, above.fresh)
        return bool(levels[-1].state)

    def _open_folder(self, level: _Level, fresh: bool) -> bool:
        """Make a folder, or use an existing one; return whether the folder is usable.

        Raises:
            OSError: the folder cannot be made.
        """
        found = None if fresh else self._places.state(level.path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            level.ours = self._settings.overwrite or is_unfinished(found)
            return True
        if found is not None and not self._entries.replaces(level.path, found):
            return False
        level.fresh = level.ours = True
        self._entries.show("replace" if found else "make", level.path + b"/")
        self._report.add(folders=1)
        if not self._settings.dry_run:
            if found is not None:
                self._report.add(replaced=1)
                with self._places.folder_of(level.path) as (folder, name):
                    os.unlink(name, dir_fd=folder)
            self._places.make_folder(level.path)
        return True

    def _leave(self, level: _Level) -> None:
        """Note a folder of ours after its last entry: the next flush sets its attributes."""
        if level.ours and level.state and not self._settings.dry_run:
            self._left.append(level)
            self._hold(level.entry)
            if len(self._left) >= MAX_FILES:
                self._flush()

    def _settle(self, level: _Level) -> None:
        """Set a folder's attributes.

        Raises:
            OSError: the folder cannot be opened.
        """
        with self._places.opened(level.path) as descriptor:
            problems = apply_attributes(descriptor, level.entry, self._settings.rights)
        for problem in problems:
            self._report.problem(level.path, problem)

    def _flush(self) -> None:
        """Finish all entries, then their folders.

        Raises:
            OSError: the disk is full, or failed.
            ShardcastError: the server failed.
        """
        self._entries.finish()
        left, self._left, self._held = self._left, [], 0
        for level in left:
            with self._entries.guarded(level.path):
                self._settle(level)


def _size_of(entry: SavedEntry) -> int:
    """Return about how many bytes of memory the attributes and ids of an entry take."""
    ids = len(entry.chunks) + len(entry.sizes) + len(entry.chunk_lists) + len(entry.segments)
    texts = sum(map(len, (entry.user or "", entry.group or "", *entry.problems, *entry.xattrs)))
    return 64 * ids + texts + sum(map(len, entry.xattrs.values()))


def restore_into(
    destination: Path,
    tree: SnapshotTree,
    reader: ChunkReader,
    settings: RestoreSettings,
    report: RestoreReport,
) -> None:
    """Restore a tree into a folder, made if missing.

    Args:
        destination: the folder; keeps its mode and time, unless new or left unfinished by an earlier restore.
        tree: of the snapshot.
        reader: of the snapshot's chunks.
        settings: of the restore.
        report: collects counts and problems.

    Raises:
        LocalDiskError: the folder cannot be written, or the disk is full.
        UsageError: another restore uses the folder.
        ShardcastError: the server failed.
    """
    with disk_errors("could not restore to", destination):
        root, is_new = _open_destination(destination, settings)
        try:
            if not settings.dry_run and try_lock(root) is Lock.HELD:
                raise UsageError(f"another restore works on {destination} ({lock_holder(root)}); wait for it")
            places = RestorePlaces(root)
            try:
                fresh = is_new or not os.listdir(root)
                ours = is_new or is_unfinished(os.fstat(root))
                Restore(tree, reader, places, settings, report).run(fresh=fresh, ours=ours)
                if not settings.dry_run:
                    sync_file_system(root)
            finally:
                places.close()
        finally:
            close(root)


def _open_destination(destination: Path, settings: RestoreSettings) -> tuple[int, bool]:
    """Return the descriptor of the folder, and whether the folder is new.

    In a dry run nothing is made: for a missing folder the descriptor is that of ``/``.

    Raises:
        OSError: the folder cannot be made or opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(destination, flags), False
    except FileNotFoundError:
        pass
    if settings.dry_run:  # nothing is looked at in a folder that would be new
        return os.open("/", flags), True
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.mkdir(0o700)
    root = os.open(destination, flags)
    os.fchmod(root, UNFINISHED)
    return root, True
