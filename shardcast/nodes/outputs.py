"""The outputs of a following client: which file in its folder is which version of which line.

All calls block on the disk; coroutines make them in threads. Several processes may follow into one folder:
what they write is written under a lock of the folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace as replace_fields
from pathlib import Path

from shardcast.constants import LOCK_WAIT
from shardcast.file_identity import FileIdentity
from shardcast.file_locks import locked
from shardcast.filesystem import PART, disk_errors, is_temporary_of, make_folder, point, replace
from shardcast.nodes.folder_lines import MAX_FILE, Announced, FolderLines, parse_lines
from shardcast.nodes.output_records import (
    MAX_RECORD,
    OutputRecord,
    hashed,
    parse_record,
    read_bounded,
    record_path,
    trusted_identity,
)
from shardcast.protocol.distribution import Listing
from shardcast.protocol.wire import VERSION_PATTERN, version_number

log = logging.getLogger(__name__)

LATEST_LINK = "latest"
"""The link to the version that was announced last."""
UNDER_WAY_LINK = ".latest-under-way"
"""The link to the version that is being announced, until that is done."""
LINES_FILE = ".shardcast-lines"
LOCK_FILE = ".shardcast-lines.lock"

_REPLACED = (LATEST_LINK, UNDER_WAY_LINK, LINES_FILE)
"""What is replaced here in one step, beside records."""

_OUTPUT = re.compile(rf"download_({VERSION_PATTERN})\.bin", re.ASCII)
_RECORD = re.compile(
    rf"\.(download_{VERSION_PATTERN}\.bin)\.record((~[0-9a-f]{{16}})?{re.escape(PART)})?", re.ASCII
)
"""A record, or what a kill left of one."""


def output_name(version: str) -> str:
    """Return the name of a version's file in its folder."""
    return f"download_{version}.bin"


def output_number(name: str) -> int:
    """Return the number in the name of an output; 0 for other names."""
    found = _OUTPUT.fullmatch(name)
    return (version_number(found[1]) or 0) if found else 0


class OutputFolder:
    """The records of a followed folder.

    A record is written right after its file got its name. A kill in between leaves a file without a record,
    whose version ``identify`` finds by the digest; the name proves nothing, since v1 of another line has
    the same one. The record of a file that was replaced or written to meanwhile does not count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._complained: set[str] = set()
        self._last: Announced | None = self._read_lines().announced

    # What is here

    def scan(self) -> dict[Path, OutputRecord | None]:
        """Return the output files here, each with its record; None for those without one that counts.

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
                    record = self._read_record(path)
                    found[path] = record if record and record.file == identity else None
        return found

    def had(self, origin: str | None) -> dict[int, str]:
        """Return the digests of the versions of a line whose files are here unchanged, by number.

        A program or hook may not have got the newest of them: a kill may come before it is announced.
        """
        return {number: record.digest for number, _, record in self._versions(origin)}

    def good(self, origin: str | None) -> list[tuple[int, Path]]:
        """Return the versions of a line that are here and not withdrawn, oldest first."""
        return [(number, path) for number, path, record in self._versions(origin) if not record.withdrawn]

    def unrecorded(self) -> list[Path]:
        """Return the outputs whose version is not known, newest number first."""
        found = [path for path, record in self.scan().items() if record is None or record.number is None]
        return sorted(found, key=lambda path: output_number(path.name), reverse=True)

    def version_at(self, path: Path) -> OutputRecord | None:
        """Return the record of a file here, or of the one that a link here names; None unless the file is
        unchanged and its version known."""
        with disk_errors("could not read", path):
            if path.is_symlink():
                target = path.readlink()
                path = self.folder / (target.name if target.parent in (Path(), self.folder) else "")
            identity = trusted_identity(path)
            record = self._read_record(path) if identity and output_number(path.name) else None
        return record if record and record.number and record.file == identity else None

    def _versions(self, origin: str | None) -> list[tuple[int, Path, OutputRecord]]:
        """Return the files of a line, oldest first; of two with one version, the one that is named after it
        comes last."""
        found = [
            (record.number, path, record)
            for path, record in self.scan().items()
            if record and record.number and record.origin == origin
        ]
        return sorted(found, key=lambda one: (one[0], output_number(one[1].name) == one[0]))

    # What is found out

    def add(
        self,
        path: Path,
        origin: str | None,
        number: int,
        digest: str,
        file: os.stat_result | None = None,
    ) -> None:
        """Record that the output at ``path`` is this version.

        ``file`` is the state of the file that was verified, for folders that several processes fill: one may
        have replaced the file meanwhile. Without it, what is there now is taken for verified.

        Raises:
            LocalDiskError: the record can't be written, or the file is not there.
        """
        with disk_errors("could not record", path):
            identity = FileIdentity.from_stat(path.stat() if file is None else file).recorded
        with self._held():
            if trusted_identity(path) == identity:
                withdrawn = (number, digest) in self._read_lines().find(origin).withdrawn
                self._write_record(path, OutputRecord(origin, number, digest, identity, withdrawn))

    def identify(
        self, listings: Iterable[Listing], origin: str | None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Record the version of each file without a record whose digest one of ``listings`` has.

        Every file is hashed once (SHA-256); the digest of a file that no listing has is recorded without a
        version, and compared again with other listings. Files of versions that are listed by their BLAKE3
        digest (0.3.x) are not found out. ``stop`` is asked often and ends the work early.

        Raises:
            LocalDiskError: a record can't be written.
        """
        by_digest: dict[str, list[int]] = {}
        for listing in listings:
            by_digest.setdefault(listing.digest, []).append(listing.number)
        for path, record in self.scan().items():
            if record and record.number:
                continue
            if record is None:
                log.info("looking which version %s is", path)
                record = hashed(path, stop)
                if record is None:
                    continue
                with self._held():
                    self._write_record(path, record)
            numbers = by_digest.get(record.digest)
            if numbers:
                named = output_number(path.name)
                number = named if named in numbers else max(numbers)
                with self._held():
                    withdrawn = (number, record.digest) in self._read_lines().find(origin).withdrawn
                    found = OutputRecord(origin, number, record.digest, record.file, withdrawn)
                    self._write_record(path, found)

    # What lines list, announce and take back

    def remembered(self) -> tuple[str | None, dict[int, str]]:
        """Return the origin id of the line that was announced last, or else used last, and the digests that
        it was seen to list."""
        lines = self._read_lines()
        if lines.announced is None and not lines.lines:
            return None, {}
        origin = lines.announced.origin if lines.announced else lines.lines[-1].origin
        return origin, self.seen(origin)

    def seen(self, origin: str | None) -> dict[int, str]:
        """Return the digests of the newest 1000 numbers that a line was seen to list."""
        return dict(self._read_lines().find(origin).seen)

    def see(self, origin: str | None, listed: Mapping[int, str]) -> bool:
        """Note what a line lists, and return whether that contradicts what it listed before.

        Where a number has another digest, the publisher's directory was restored or copied: this number and
        the later ones were of another line with the same id. They are forgotten, and their files are files
        of unknown versions again.

        Raises:
            LocalDiskError: the note can't be written.
        """
        with self._changing() as lines:
            line = lines.use(origin)
            changed = line.contradiction(listed)
            if changed is not None:
                for numbers in (line.seen, line.announced):
                    for number in [
                        one for one in numbers if one >= changed and numbers[one] != listed.get(one)
                    ]:
                        del numbers[number]
                for number, path, record in self._versions(origin):
                    if number >= changed and record.digest != listed.get(number):
                        self._write_record(path, replace_fields(record, origin=None, number=None))
            line.seen.update(listed)
        return changed is not None

    def announced(self, origin: str | None) -> dict[int, str]:
        """Return the digests of the versions of a line that a program or a hook has had, by number."""
        return dict(self._read_lines().find(origin).announced)

    def mark_announced(self, origin: str | None, number: int, digest: str) -> None:
        """Note that the program or the hook has had a version.

        Raises:
            LocalDiskError: the note can't be written.
        """
        last = Announced(origin, number, digest)
        if self._last == last and self.announced(origin).get(number) == digest:
            return
        with self._changing() as lines:
            lines.use(origin).announced[number] = digest
            lines.announced = self._last = last

    def is_new_line(self, origin: str | None) -> bool:
        """Return whether the version that was announced last, here or by this object, is of another line."""
        if self._last is None:
            return False
        of_line = self.announced(self._last.origin)
        return self._last.origin != origin or of_line.get(self._last.number) != self._last.digest

    def mark_withdrawn(self, origin: str | None, number: int, digest: str) -> bool:
        """Note that the publisher took a version back; False when that was told already (``mark_told``).

        Raises:
            LocalDiskError: the note can't be written.
        """
        with self._changing() as lines:
            told = lines.use(origin).withdrawn.setdefault((number, digest), False)
            for here, path, record in self._versions(origin):
                if (here, record.digest) == (number, digest) and not record.withdrawn:
                    self._write_record(path, replace_fields(record, withdrawn=True))
        return not told

    def withdrawn_from(self, number: int, digest: str) -> list[str | None]:
        """Return the origin ids of the lines that took a version back, the line used last at the end."""
        return [line.origin for line in self._read_lines().lines if (number, digest) in line.withdrawn]

    def mark_told(self, origin: str | None, number: int, digest: str) -> None:
        """Note that whoever follows was told of a withdrawal, so that it is not told again.

        Raises:
            LocalDiskError: the note can't be written.
        """
        with self._changing() as lines:
            lines.use(origin).withdrawn[number, digest] = True

    def knows(self, origin: str | None, number: int, digest: str) -> bool:
        """Return whether a version is here or was announced here: others' withdrawals concern nobody."""
        return self.announced(origin).get(number) == digest or self.had(origin).get(number) == digest

    # How files go

    def remove(self, path: Path, record: OutputRecord) -> None:
        """Remove an output and its record, unless another file took its name.

        Raises:
            LocalDiskError: the file can't be removed.
        """
        with disk_errors("could not remove", path), self._held():
            if trusted_identity(path) == record.file:
                path.unlink(missing_ok=True)
                record_path(path).unlink(missing_ok=True)

    def point(self, name: str, target: str) -> None:
        """Have a symbolic link here name ``target``.

        Raises:
            LocalDiskError: it can't; something else has the link's name.
        """
        with disk_errors("could not switch", self.folder / name), self._held():
            point(self.folder / name, target)

    def tidy(self) -> None:
        """Remove records of files that have gone, and what a kill left of records, links and notes.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        with disk_errors("could not tidy", self.folder), self._held():
            for entry in list(self.folder.iterdir()):
                found = _RECORD.fullmatch(entry.name)
                left = found and (found[2] or not os.path.lexists(self.folder / found[1]))
                if left or any(is_temporary_of(entry.name, name) for name in _REPLACED):
                    entry.unlink(missing_ok=True)

    # Records on the disk

    def _read_record(self, path: Path) -> OutputRecord | None:
        try:
            return parse_record(read_bounded(record_path(path), MAX_RECORD))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._complain(record_path(path), error)
            return None

    def _write_record(self, path: Path, record: OutputRecord) -> None:
        replace(record_path(path), record.line())

    def _read_lines(self) -> FolderLines:
        try:
            return parse_lines(read_bounded(self.folder / LINES_FILE, MAX_FILE))
        except (FileNotFoundError, NotADirectoryError):
            return FolderLines()
        except (OSError, ValueError) as error:
            self._complain(self.folder / LINES_FILE, error)
            return FolderLines()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[FolderLines]:
        """What is remembered of lines, to be changed; written at the end if it was."""
        with self._held():
            lines = self._read_lines()
            before = lines.write()
            yield lines
            after = lines.write()
            if after != before:
                replace(self.folder / LINES_FILE, after)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """The folder, locked against other processes and threads; not to be nested.

        The lines are read, changed and written as one file, so two followers without a lock would lose each
        other's notes. Behind somebody who never lets go, and where there are no locks, work goes on without.
        """
        with disk_errors("could not write", self.folder), contextlib.ExitStack() as stack:
            if not self.folder.is_dir():
                make_folder(self.folder)
            try:
                stack.enter_context(locked(self.folder / LOCK_FILE, LOCK_WAIT / 2))
            except (BlockingIOError, PermissionError) as error:  # in /tmp it may be a stranger's
                if LOCK_FILE not in self._complained:
                    self._complained.add(LOCK_FILE)
                    log.warning("going on without the lock of %s: %s", self.folder, error.strerror)
            yield

    def _complain(self, path: Path, error: Exception) -> None:
        if str(path) not in self._complained:
            self._complained.add(str(path))
            log.warning("ignored %s: %s", path, error)


def resume_point(outputs: OutputFolder, origin: str | None) -> int | None:
    """Return the number of a line after which versions are still to be announced; None: begin with the
    newest.

    That is the one before a version whose announcing was cut off, or the number that ``latest`` names, or the
    newest that was announced. Where a version of another line was announced last, the newest one of this line
    is announced again: whoever loads versions has loaded the other line's since.

    Raises:
        LocalDiskError: the folder can't be read.
    """
    cut_off = outputs.version_at(outputs.folder / UNDER_WAY_LINK)
    if cut_off and cut_off.number and cut_off.origin == origin and not cut_off.withdrawn:
        return cut_off.number - 1
    latest = outputs.version_at(outputs.folder / LATEST_LINK)
    if latest and latest.origin == origin:
        return latest.number
    newest = max(outputs.announced(origin), default=None)
    return newest - 1 if newest and outputs.is_new_line(origin) else newest
