"""Records and notes of a followed folder on the disk: read, replaced, and locked against other followers.

All calls block on the disk; coroutines make them in threads. Several processes may follow into one folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from shardcast.constants import LOCK_WAIT
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.file_locks import locked
from shardcast.filesystem import replace
from shardcast.nodes.folder_lines import MAX_FILE_BYTES, FolderLines, parse_lines
from shardcast.nodes.output_names import (
    LINES_FILE,
    LOCK_FILE,
    is_named_record,
    output_number,
    path_below,
    record_path,
)
from shardcast.nodes.output_records import (
    MAX_RECORD,
    OutputRecord,
    parse_record,
    read_bounded,
    trusted_identity,
)

log = logging.getLogger(__name__)


class OutputStorage:
    """The records and notes in one folder.

    Attributes:
        folder: path of the folder, made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warned: set[str] = set()  # paths of which a warning was logged

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock against other processes and threads; not to be nested.

        The notes are read, changed and written as one file, so two followers without a lock would lose each
        other's changes. On a file system without locks, or when another process keeps the lock for too long,
        work goes on without the lock.

        Raises:
            LocalDiskError: the block, or making the folder, failed with an ``OSError``.
        """
        with disk_errors("could not write", self.folder), contextlib.ExitStack() as stack:
            if not self.folder.is_dir():
                make_folder(self.folder)
            try:
                stack.enter_context(locked(self.folder / LOCK_FILE, LOCK_WAIT / 2))
            except (BlockingIOError, PermissionError) as error:  # in /tmp it may be another user's
                if LOCK_FILE not in self._warned:
                    self._warned.add(LOCK_FILE)
                    log.warning(
                        "going on without the lock of %s, so another follower there may undo notes: %s",
                        self.folder,
                        error.strerror,
                    )
            yield

    # Records of outputs

    def scan(self) -> dict[Path, OutputRecord | None]:
        """Return the outputs in the folder, each with its record; None without a valid record.

        A record is valid while inode, size and mtime of the file are the recorded ones.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        found: dict[Path, OutputRecord | None] = {}
        with disk_errors("could not read", self.folder):
            try:
                entries = list(self.folder.iterdir())
            except FileNotFoundError:  # no version came yet
                return {}
            for path in entries:
                if output_number(path.name) and (identity := trusted_identity(path)):
                    record = self.read_record(path)
                    found[path] = record if record and record.file == identity else None
        for path, record in self.named_records():
            for parent in path.parents:  # such as v3 of v3/model.pt
                if found.get(parent, record) is None:
                    del found[parent]
            if not record.is_pending and record.file == trusted_identity(path):
                found[path] = record
        return found

    def named_records(self) -> list[tuple[Path, OutputRecord]]:
        """Return the outputs with names of their own, each with its record, valid or not."""
        found = []
        for entry in list(self.folder.iterdir()) if self.folder.is_dir() else []:
            if is_named_record(entry.name) and (record := self._read_record(entry)):
                path = path_below(self.folder, record.path)
                if path and record_path(path, self.folder) == entry:
                    found.append((path, record))
        return found

    def versions(self, origin: str | None) -> list[tuple[int, Path, OutputRecord]]:
        """Return the versions of a line whose files are unchanged: number, path and record, oldest first.

        Of two files with the same version, the one named after the version comes last.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        found = [
            (record.number, path, record)
            for path, record in self.scan().items()
            if record and record.number and record.origin == origin
        ]
        return sorted(found, key=lambda item: (item[0], output_number(item[1].name) == item[0]))

    def read_record(self, path: Path) -> OutputRecord | None:
        """Return the record beside an output, valid or not; None where none can be read."""
        return self._read_record(record_path(path, self.folder))

    def _read_record(self, place: Path) -> OutputRecord | None:
        """Return the record in a file; None where none can be read."""
        try:
            return parse_record(read_bounded(place, MAX_RECORD))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._warn_ignored(place, error)
            return None

    def write_record(self, path: Path, record: OutputRecord) -> None:
        """Replace the record beside an output; the caller holds the lock."""
        place = record_path(path, self.folder)
        named = str(path.relative_to(self.folder)) if is_named_record(place.name) else ""
        replace(place, dataclasses.replace(record, path=named).encode())

    # Notes about lines

    def read_lines(self) -> FolderLines:
        """Return the notes about lines; empty ones where none can be read."""
        try:
            return parse_lines(read_bounded(self.folder / LINES_FILE, MAX_FILE_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return FolderLines()
        except (OSError, ValueError) as error:
            self._warn_ignored(self.folder / LINES_FILE, error)
            return FolderLines()

    @contextlib.contextmanager
    def changed_lines(self) -> Iterator[FolderLines]:
        """Yield the notes about lines, locked, and replace their file at the end if the block changed them.

        Raises:
            LocalDiskError: the notes can't be written.
        """
        with self.locked():
            lines = self.read_lines()
            before = lines.encode()
            yield lines
            after = lines.encode()
            if after != before:
                replace(self.folder / LINES_FILE, after)

    def _warn_ignored(self, path: Path, error: Exception) -> None:
        """Warn of an unreadable file, once."""
        if str(path) not in self._warned:
            self._warned.add(str(path))
            log.warning("ignored %s, as if it were not there: %s", path, error)
