"""Files, links and devices of a snapshot, restored unless something else has their name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shardcast.backup.attributes import LEFT_OUT, AttributeRights, apply_attributes, name_of
from shardcast.backup.client.chunk_reader import ChunkReader
from shardcast.backup.client.restore_places import (
    RestorePlaces,
    concerns_one_entry,
    give_name,
    open_to_compare,
    remove_temporary,
    state_of,
    temporary_name,
)
from shardcast.backup.client.restore_report import RestoreReport
from shardcast.backup.client.restore_selection import RestoreSelection
from shardcast.backup.client.restore_window import MAX_FILES, RestoreWindow
from shardcast.backup.client.restored_file import RestoredFile, has_attributes, has_chunks
from shardcast.backup.client.snapshot_tree import SnapshotTree
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.disk_errors import error_text
from shardcast.errors import IntegrityError
from shardcast.file_systems import NO_LINKS
from shardcast.open_files import close

_TYPES = {
    SavedKind.FILE: stat.S_IFREG,
    SavedKind.LINK: stat.S_IFLNK,
    SavedKind.FIFO: stat.S_IFIFO,
    SavedKind.CHAR: stat.S_IFCHR,
    SavedKind.BLOCK: stat.S_IFBLK,
}
_MAX_FIRST_NAMES = 1 << 20
"""Files of several names whose first one is remembered: some 300 MB."""
_DEVICES = (SavedKind.CHAR, SavedKind.BLOCK)


@dataclass(frozen=True)
class RestoreSettings:
    """Settings of a restore.

    Attributes:
        selection: the paths to restore.
        overwrite: whether to replace differing entries on the disk.
        dry_run: whether to write nothing.
        rights: the attributes and devices to restore.
        show: called with a word and a path for each entry made, kept or replaced.
        progress: called after more bytes were restored.
    """

    selection: RestoreSelection
    overwrite: bool = False
    dry_run: bool = False
    rights: AttributeRights = field(default_factory=AttributeRights)
    show: Callable[[str, bytes], object] | None = None
    progress: Callable[[], object] = lambda: None


class EntryRestorer:
    """A restorer of files, links and devices."""

    def __init__(
        self,
        tree: SnapshotTree,
        reader: ChunkReader,
        places: RestorePlaces,
        settings: RestoreSettings,
        report: RestoreReport,
    ) -> None:
        """Restore entries of a tree; the arguments are those of ``Restore``."""
        self._tree = tree
        self._reader = reader
        self._places = places
        self._settings = settings
        self._report = report
        self._window = RestoreWindow(
            tree, reader, places, report, rights=settings.rights, progress=settings.progress
        )
        self._first_names: dict[str, bytes] = {}
        self._links: list[tuple[bytes, SavedEntry, bool]] = []

    def close(self) -> None:
        """Drop the queued work, and wait for the threads to end."""
        self._window.close()

    @property
    def is_full(self) -> bool:
        """Whether the entries are to be finished before more are added."""
        return self._window.is_full or len(self._links) >= MAX_FILES

    def finish(self) -> None:
        """Restore the added files, then the links to them.

        Raises:
            OSError: the disk is full, or failed.
            ShardcastError: the server failed.
        """
        self._run()
        links, self._links = self._links, []
        for path, entry, fresh in links:
            with self.guarded(path):
                self._link(path, entry, fresh)
        if not self._window.is_empty:  # links that are no links on this disk
            self._run()

    def _run(self) -> None:
        """Restore the files of the window."""
        for file in self._window.run():
            if file.entry.hard is not None:
                self._first_names.pop(file.entry.hard, None)

    @contextmanager
    def guarded(self, path: bytes) -> Iterator[None]:
        """Report an error in the block, and go on after it.

        Raises:
            OSError: the error concerns other entries too, as a full disk does.
        """
        try:
            yield
        except OSError as error:
            if not concerns_one_entry(error):
                raise
            self._report.problem(path, error.strerror or error_text(error))

    def restore(self, path: bytes, entry: SavedEntry, *, fresh: bool) -> None:
        """Restore a link or a device, or report why not; add a file, to be restored by ``finish``.

        Args:
            path: from the top of the snapshot.
            entry: the entry at the path.
            fresh: whether the entry's folder was empty before the restore, so no name is taken.

        Raises:
            OSError: the entry cannot be made, or the present one cannot be read.
            ShardcastError: the server failed.
        """
        rights = self._settings.rights
        if not rights.owners and entry.uid != os.geteuid():
            self._report.owners = True
        if rights.leaves_out(entry):
            self._report.system_attributes = True
        if entry.kind in _DEVICES and not rights.of_system:
            self._report.devices += 1
            self._report.problem(path, "a device, left out; root restores it by --privileged")
        elif entry.kind is not SavedKind.FILE:
            self._make_special(path, entry, fresh)
        elif entry.problems and not entry.chunks and not entry.chunk_lists and entry.size:
            self._report.problem(path, f"its bytes are not in the snapshot: {'; '.join(entry.problems)}")
        elif entry.hard is None:
            self._restore_file(path, entry, fresh)
        elif entry.hard in self._first_names:
            self._links.append((path, entry, fresh))
        elif self._restore_file(path, entry, fresh):
            self._remember(path, entry.hard)

    def _remember(self, path: bytes, hard: str) -> None:
        """Remember the first name of a file, for links from its other names."""
        if len(self._first_names) < _MAX_FIRST_NAMES:
            self._first_names[hard] = path
        else:
            self._report.problem(
                path, "its other names become files of their own: too many files have several"
            )

    def _restore_file(self, path: bytes, entry: SavedEntry, fresh: bool) -> bool:
        """Add a file to the window unless the disk has an equal one; return False if another entry stays.

        Raises:
            OSError: the present file cannot be read.
            ShardcastError: the server failed.
        """
        found = None if fresh else self._places.state(path)
        if found is not None:
            try:
                equal = self._has_bytes(path, entry, found)
            except IntegrityError as error:  # not in `guarded`: there the damage may be of another file
                self._report.problem(path, str(error), "damaged")
                return False
            if equal:
                if has_attributes(found, entry, self._settings.rights):
                    self._keep(path, entry.size)
                    if stat.S_IMODE(found.st_mode) != entry.mode:
                        self._report.problem(path, LEFT_OUT)
                elif self._settings.overwrite:
                    self._set_attributes(path, entry)
                else:
                    self._differs(path, "its bytes are equal; --overwrite sets its mode, time and owner")
                return True
            if not self.replaces(path, found):
                return False
        self.show("replace" if found else "make", path)
        if self._settings.dry_run:
            self._report.add(files=1, bytes=entry.size, replaced=found is not None)
            return True
        self._report.add(replaced=found is not None)
        self._window.add(RestoredFile(path, entry, replaces=fresh or found is not None))
        return True

    def _has_bytes(self, path: bytes, entry: SavedEntry, found: os.stat_result) -> bool:
        """Return whether the disk has a file with the bytes of an entry.

        Raises:
            OSError: the file cannot be read.
            IntegrityError: the entry's chunk lists are damaged or lost.
            ShardcastError: the server does not answer.
        """
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
            return False
        with self._places.folder_of(path) as (folder, name):
            descriptor = open_to_compare(folder, name)
        try:
            return has_chunks(descriptor, self._tree.chunks(entry), self._reader.id_key)
        finally:
            close(descriptor)

    def _set_attributes(self, path: bytes, entry: SavedEntry) -> None:
        """Set the attributes of an entry on a file with the right bytes.

        Raises:
            OSError: the file cannot be opened.
        """
        self.show("replace", path)
        self._report.add(replaced=1)
        if self._settings.dry_run:
            return
        with self._places.folder_of(path) as (folder, name):
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            problems = apply_attributes(name_of(descriptor), entry, self._settings.rights)
        finally:
            close(descriptor)
        for problem in problems:
            self._report.problem(path, problem)

    def _link(self, path: bytes, entry: SavedEntry, fresh: bool) -> None:
        """Link a restored file to another name; restore its bytes once more if links are impossible.

        Raises:
            OSError: the present entry cannot be read.
        """
        assert entry.hard is not None
        first_name = self._first_names.get(entry.hard)
        first = self._places.state(first_name) if first_name is not None else None
        if first is None or not stat.S_ISREG(first.st_mode) or first.st_size != entry.size:
            self._restore_file(path, entry, fresh)
            return
        found = None if fresh else self._places.state(path)
        if found is not None and os.path.samestat(first, found):
            self._keep(path, entry.size)
            return
        if found is not None and not self.replaces(path, found):
            return
        self.show("replace" if found else "make", path)
        if not self._settings.dry_run and not self._make_link(
            path, entry, replaces=fresh or found is not None
        ):
            self._window.add(RestoredFile(path, entry, replaces=fresh or found is not None))
            return
        self._report.add(files=1, replaced=found is not None)

    def _make_link(self, path: bytes, entry: SavedEntry, *, replaces: bool) -> bool:
        """Link a name to the first name of a file; return whether the file system can.

        Raises:
            OSError: the name can't be given.
        """
        assert entry.hard is not None
        with (
            self._places.folder_of(self._first_names[entry.hard]) as (source, first),
            self._places.folder_of(path) as (folder, name),
        ):
            remove_temporary(folder, name)
            try:
                os.link(
                    first, temporary_name(name), src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False
                )
            except OSError as error:
                if error.errno in NO_LINKS:
                    return False
                raise
            give_name(folder, name, replaces=replaces)
            remove_temporary(folder, name)  # rename(2) of one name of a file to another leaves both
        return True

    def _make_special(self, path: bytes, entry: SavedEntry, fresh: bool) -> None:
        """Make a symbolic link, a FIFO or a device.

        Raises:
            OSError: the entry cannot be made.
        """
        with self._places.folder_of(path) as (folder, name):
            found = None if fresh else state_of(folder, name)
            if found is not None and _is_same(folder, name, found, entry):
                self._keep(path)
                return
            if found is not None and not self.replaces(path, found):
                return
            self.show("replace" if found else "make", path)
            self._report.add(others=1, replaced=found is not None)
            if not self._settings.dry_run:
                for problem in self._make(folder, name, entry, replaces=fresh or found is not None):
                    self._report.problem(path, problem)

    def _make(self, folder: int, name: bytes, entry: SavedEntry, *, replaces: bool) -> list[str]:
        """Make a link, FIFO or device; return a sentence for each attribute that could not be set."""
        temporary = temporary_name(name)
        remove_temporary(folder, name)
        if entry.kind is SavedKind.LINK:
            os.symlink(entry.target, temporary, dir_fd=folder)
        elif entry.kind is SavedKind.FIFO:
            os.mkfifo(temporary, 0o600, dir_fd=folder)
        else:
            device = os.makedev(*(entry.device or (0, 0)))
            os.mknod(temporary, 0o600 | _TYPES[entry.kind], device, dir_fd=folder)
        descriptor = os.open(temporary, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            problems = apply_attributes(name_of(descriptor), entry, self._settings.rights)
        finally:
            close(descriptor)
        give_name(folder, name, replaces=replaces)
        return problems

    # Entries present on the disk

    def replaces(self, path: bytes, found: os.stat_result) -> bool:
        """Return whether a present entry may be replaced; if not, report the path."""
        if stat.S_ISDIR(found.st_mode):
            self._differs(path, "a folder is there, which is never replaced by something else")
        elif not self._settings.overwrite:
            self._differs(path, "something else is there; --overwrite replaces it")
        else:
            return True
        return False

    def _differs(self, path: bytes, text: str) -> None:
        self._report.problem(path, text, "differing")

    def _keep(self, path: bytes, size: int = 0) -> None:
        self._report.add(kept=1, kept_bytes=size)
        self.show("keep", path)
        self._settings.progress()

    def show(self, word: str, path: bytes) -> None:
        """Show the path of an entry with a word: make, keep or replace."""
        if self._settings.show:
            self._settings.show(word, path)


def _is_same(folder: int, name: bytes, found: os.stat_result, entry: SavedEntry) -> bool:
    """Return whether the present entry is the same link, FIFO or device."""
    if stat.S_IFMT(found.st_mode) != _TYPES[entry.kind]:
        return False
    if entry.kind is SavedKind.LINK:
        return os.readlink(name, dir_fd=folder) == entry.target
    return entry.kind is SavedKind.FIFO or found.st_rdev == os.makedev(*(entry.device or (0, 0)))
