"""Taking files out of a directory of blobs while other processes put blobs: quarantine and trash.

::

    DIRECTORY/.shardcast-store/quarantine/
      ab3f…-5c01d2e7            a file with another digest than its name, unchanged
      ab3f…-5c01d2e7.json       reason and time of its move
    DIRECTORY/.shardcast-store/gc/trash/
                                a file in removal
    DIRECTORY/ab/.quarantine/, .trash/
                                the same where ab is on another disk, until the file is identified
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from shardcast.blobs.directory.layout import (
    OWN_FOLDER,
    OWN_SHARED,
    Folder,
    gc_folder,
    make_own_folder,
    share_with_group,
)
from shardcast.constants import LOCK_WAIT
from shardcast.digest import is_digest
from shardcast.directories import make_folder, sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.file_identity import FileIdentity
from shardcast.file_locks import locked
from shardcast.file_moves import rename, rename_if_free
from shardcast.filesystem import replace
from shardcast.json_text import parse_json
from shardcast.temporary_files import PART

TRASH = "trash"
_RECORD = ".json"
_LOCK = "lock"
_UNFINISHED = "it was being set aside when that was interrupted, and its place was taken meanwhile"


def take_out(path: Path, place: Path, is_meant: Callable[[os.stat_result], bool]) -> Path | None:
    """Move a file to ``place`` in another folder if ``is_meant`` identifies it, and return the new path.

    A put may replace the file at any moment. So the file is moved first and identified then; a new file is
    moved back. If ``place`` is on another disk, the file is moved to a folder beside it on its own disk,
    known to ``taken_out``.

    Args:
        path: the file.
        place: its new path.
        is_meant: returns for a stat result whether this is the file to take out.

    Returns:
        None if the file was removed or replaced.

    Raises:
        OSError: the file cannot be moved.
    """
    try:
        try:
            rename(path, place, durable=False, copy=False)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            place = _beside(path, place)
            rename(path, place, durable=False, copy=False)
    except FileNotFoundError:
        return None
    if is_meant(place.lstat()):
        return place
    put_back(place, path)
    return None


def taken_out(folder: Folder, place: Path) -> Iterator[Path]:
    """Yield the files taken out into the folder ``place``, also those still on another disk.

    Files on another disk lie in the folder ``.NAME`` of their prefix folder, NAME being the name of
    ``place``; a folder in ``place`` with the prefix folder's name shows that such files may exist.

    Raises:
        OSError: a folder can't be read.
    """
    for name in _names(place):
        yield place / name
        if (parent := Path(folder.root) / name).is_dir():  # taken out there, on another disk
            beside = parent / f".{place.name}"
            yield from (beside / file for file in _names(beside))


def _beside(path: Path, place: Path) -> Path:
    """Return a path on the file's own disk, for the time until the file is identified; make its folder."""
    make_folder(place.parent / path.parent.name)  # tells ``taken_out`` of it
    beside = path.parent / f".{place.parent.name}"
    make_folder(beside)
    share_with_group(str(beside), OWN_SHARED)
    return beside / place.name


def _names(place: Path) -> list[str]:
    """Return the names in a folder; none where there is no folder."""
    try:
        return os.listdir(place)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def put_back(place: Path, path: Path) -> bool:
    """Move a file back to ``path``; delete the file if ``path`` is taken by now.

    Returns:
        Whether the file is at ``path``.

    Raises:
        OSError: the file cannot be moved.
    """
    back = rename_if_free(place, path)
    if not back:
        place.unlink()
    return back


def undo_removals(folder: Folder) -> None:
    """Put back the files in removal by a killed gc; the next gc decides about them anew.

    The caller ensures that no gc is at work.

    Raises:
        OSError: a file can't be put back.
    """
    for file in taken_out(folder, gc_folder(folder) / TRASH):
        digest = file.name[:64]
        if is_digest(digest):
            if folder.make_parent(digest):
                sync_folder(Path(folder.root))
            put_back(file, Path(folder.parent(digest)) / file.name)


def recover(folder: Folder) -> None:
    """Put back the files taken out by a killed process; blocks on the disk.

    Such a file may be a new blob, put and acknowledged in the same moment.

    Raises:
        LocalDiskError: a file can't be put back.
    """
    place = gc_folder(folder)
    with disk_errors("could not put back from", place):
        if any(taken_out(folder, place / TRASH)):
            with folder_lock(place, wait=False) as is_alone:
                if is_alone:
                    undo_removals(folder)
    Quarantine(folder).finish_interrupted()


@contextlib.contextmanager
def folder_lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder's lock, and yield True; without ``wait``, yield False while another process holds it.

    Raises:
        OSError: the folder can't be locked, or another process held the lock for too long.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _LOCK, LOCK_WAIT if wait else 0.0))
        except BlockingIOError:
            if wait:
                raise
            yield False
        else:
            yield True


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """A file in quarantine.

    Attributes:
        digest: the blob named by the file.
        file: path in quarantine.
        was: path before.
        size: bytes of the file.
        reason: the reason for the move.
        since: time of the move, in seconds since 1970.
    """

    digest: str
    file: str
    was: str
    size: int
    reason: str
    since: float


class Quarantine:
    """Files set aside from a directory of blobs, neither served nor removed."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._place = Path(folder.root) / OWN_FOLDER / "quarantine"

    def set_aside(self, path: str, digest: str, looks: os.stat_result, reason: str) -> QuarantinedFile | None:
        """Set a file aside if its stat result is unchanged; blocks on the disk.

        Returns:
            None if the file was replaced meanwhile.

        Raises:
            LocalDiskError: the file can't be moved.
        """
        was, name = Path(path), f"{Path(path).name}-{secrets.token_hex(4)}"
        with disk_errors("could not set aside", was), self._alone():
            meant = FileIdentity.from_stat(looks)
            taken = take_out(
                was, self._place / name, lambda now: FileIdentity.from_stat(now).same_content(meant)
            )
            if taken is None:
                return None
            self._bring(taken, name)
            return self._write_record(digest, name, was, size=looks.st_size, reason=reason)

    def finish_interrupted(self) -> None:
        """Put back or record the files left without a record by a killed process; blocks on the disk.

        A file goes back to its place, to be verified again. If the place is taken by now, the file stays in
        quarantine and gets a record. Temporary files are removed.

        Raises:
            LocalDiskError: a file can't be moved.
        """
        with disk_errors("could not look into", self._place):
            if not self._unfinished() and not self._parts():
                return
        with disk_errors("could not put back from", self._place), self._alone():
            for part in self._parts():  # of records and of copies; both are written only under this lock
                part.unlink(missing_ok=True)
            for file in self._unfinished():  # again: before the lock, a living process may have been at work
                name = file.name.removeprefix(".").partition("~")[0]
                was = Path(self._folder.parent(name)) / name.rpartition("-")[0]
                if was.exists():
                    self._bring(file, name)
                    size = (self._place / name).stat().st_size
                    self._write_record(name[:64], name, was, size=size, reason=_UNFINISHED)
                else:
                    put_back(file, was)

    def _bring(self, file: Path, name: str) -> None:
        """Move a file, taken out on another disk, into the quarantine."""
        if file.parent != self._place:
            rename(file, self._place / name, durable=False)

    def entries(self) -> Iterator[QuarantinedFile]:
        """Yield the files in quarantine; blocks on the disk.

        Raises:
            LocalDiskError: a record can't be read.
        """
        with disk_errors("could not look into", self._place):
            for record in self._records():
                try:
                    yield QuarantinedFile(**parse_json(record.read_bytes()))
                except (ValueError, TypeError) as error:
                    raise OSError(
                        f"{record.name} is no record of a file set aside ({error}); remove this record, "
                        "and the next run deals with its file anew"
                    ) from None

    def _records(self) -> list[Path]:
        """Return the records."""
        try:
            # No ``glob``: it skips unreadable folders silently.
            return sorted(file for file in self._place.iterdir() if file.suffix == _RECORD)
        except FileNotFoundError:
            return []

    def _parts(self) -> list[Path]:
        """Return the temporary files."""
        return list(self._place.glob(f"*{PART}"))

    def _unfinished(self) -> list[Path]:
        """Return the files taken out and without a record yet."""
        return [
            file
            for file in taken_out(self._folder, self._place)
            if is_digest(file.name.removeprefix(".")[:64])
            and (file.parent != self._place or self._lacks_record(file))
        ]

    def _lacks_record(self, file: Path) -> bool:
        """Return whether a file in quarantine is neither a record, nor temporary, nor recorded."""
        return file.suffix not in (_RECORD, PART) and not Path(f"{file}{_RECORD}").exists()

    def _write_record(self, digest: str, name: str, was: Path, *, size: int, reason: str) -> QuarantinedFile:
        """Write the record of the file ``name`` in quarantine, and return the record."""
        file = self._place / name
        aside = QuarantinedFile(digest, str(file), str(was), size, reason, round(time.time(), 3))
        replace(Path(f"{file}{_RECORD}"), json.dumps(asdict(aside)).encode() + b"\n")
        return aside

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Make the folder, and hold its lock."""
        make_own_folder(self._place)
        with folder_lock(self._place):
            yield
