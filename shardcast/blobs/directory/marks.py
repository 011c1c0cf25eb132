"""Marks of gc on blobs, with their times, and their removal by a put.

A blob is marked by setting only the others-execute bit of its files. Every put of the blob clears the bit,
even a put by hashserver without knowledge of marks: the file is replaced, or gets the mode of a blob.

But other directories may change the mode of an inode: a copy by hard links shares it, ``chmod -R`` sets it,
``rsync -p`` and ``tar`` copy it. So each run of gc records the marked blobs, the time, and the files' stat
results afterwards, change time included. A mark is valid while the stat results stay the same; any change in
between begins the grace time anew.

::

    DIRECTORY/.shardcast-store/gc/
      marks                     <digest> <seconds since 1970> <hash of the stat results>, a line each
      put/ab3f…                 a note: the mtime is the time of a put by a user who may not write the file

``marks`` is never written in place, since a copy by hard links shares this file, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from shardcast.ages import age_of
from shardcast.blobs.directory.layout import Folder, gc_folder, make_own_folder, make_read_only
from shardcast.blobs.directory.stat import Form, forms_of
from shardcast.digest import is_digest
from shardcast.directories import sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace
from shardcast.open_files import sync_file

_MARK = 0o001
_EXECUTE = 0o111


def is_marked(looks: os.stat_result) -> bool:
    """Return whether a file has the mode of a mark."""
    return looks.st_mode & _EXECUTE == _MARK


class Marks:
    """The marks of a directory.

    Attributes:
        file: their record on the disk.
    """

    def __init__(self, folder: Folder) -> None:
        """Read the record.

        Raises:
            LocalDiskError: the record can't be read.
        """
        self._folder = folder
        self.file = gc_folder(folder) / "marks"
        self._known: dict[bytes, tuple[float, bytes]] = {}
        self._live: set[bytes] = set()  # the known blobs that this run has seen
        with disk_errors("could not read", self.file), contextlib.suppress(FileNotFoundError):
            for line in self.file.read_bytes().splitlines():
                with contextlib.suppress(ValueError):  # a damaged line only has its blob marked again
                    digest, when, looks = line.split()
                    self._known[bytes.fromhex(digest.decode())] = float(when), bytes.fromhex(looks.decode())

    def since(self, digest: str, forms: Sequence[Form]) -> float | None:
        """Return the time of the mark on a blob with these files, in seconds since 1970.

        Returns:
            None without a mark, after a change of its files, or after a repeated put.

        Raises:
            OSError: the notes of puts cannot be read.
        """
        known = self._known.get(bytes.fromhex(digest))
        if (
            known is None
            or not all(is_marked(form.stat_result) for form in forms)
            or known[1] != _looks(forms)
        ):
            return None
        put = put_time(self._folder, digest)
        return None if put is not None and put >= known[0] else known[0]

    def keep(self, digest: str) -> None:
        """Have ``save`` keep the mark of a blob seen by this run; its files are not touched."""
        self._live.add(bytes.fromhex(digest))

    def set(self, digest: str, forms: Sequence[Form]) -> None:
        """Mark the files of a blob, now; ``save`` records the mark.

        A file with the mode already is left unchanged, so the mark of a copy by a hard link stays valid.

        Raises:
            OSError: the mode of a file cannot be changed.
        """
        when = time.time()
        for form in forms:
            if not is_marked(form.stat_result):
                Path(form.path).chmod(stat.S_IMODE(form.stat_result.st_mode) & ~_EXECUTE | _MARK)
        key = bytes.fromhex(digest)
        # A new stat: chmod moved the change time, and the mark must match it from now on.
        self._known[key] = when, _looks(forms_of(self._folder, digest))
        self._live.add(key)

    def drop(self, digest: str, forms: Sequence[Form]) -> None:
        """Remove the mark from the files of a blob; ``save`` leaves it out of the record.

        Raises:
            OSError: the mode of a file cannot be changed.
        """
        for form in forms:
            if is_marked(form.stat_result):
                Path(form.path).chmod(stat.S_IMODE(form.stat_result.st_mode) & ~_EXECUTE)
        self._known.pop(bytes.fromhex(digest), None)

    def save(self, whole: bool) -> None:
        """Write the record.

        Args:
            whole: whether this run saw the whole directory; then unseen blobs are left out.

        Raises:
            LocalDiskError: the record can't be written.
        """
        kept = {key: self._known[key] for key in self._live & self._known.keys()} if whole else self._known
        if kept or self.file.exists():
            lines = (f"{key.hex()} {when:.6f} {looks.hex()}\n" for key, (when, looks) in kept.items())
            replace(self.file, "".join(lines).encode())


def _looks(forms: Sequence[Form]) -> bytes:
    """Return a hash with another value after any touch of one of a blob's files.

    The change time covers writes, changes of the mode, new hard links, and copies.
    """
    identities = [(form.coding, FileIdentity.from_stat(form.stat_result)) for form in forms]
    parts = [f"{coding} {file.size} {file.mtime_ns} {file.ctime_ns}" for coding, file in identities]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).digest()


def count_as_put(folder: Folder, digest: str, coding: str | None = None) -> bool:
    """Have an existing blob count as put now, and return whether this was possible.

    The file becomes read-only, the group may write to its folder, and gc spares the blob for the grace time.

    Returns:
        False if the file was removed meanwhile, or belongs to another user and no note can be written.
    """
    path = folder.path(digest, coding)
    try:
        was_marked = is_marked(os.lstat(path))
        folder.make_parent(digest)
        make_read_only(path)
        if was_marked:
            sync_file(Path(path))  # else a power cut may bring the mark back
    except FileNotFoundError:
        return False
    except OSError:
        return note_put(folder, digest)
    return True


def unmark(folder: Folder, digest: str) -> bool:
    """Remove the marks of a blob, and return whether this was possible; blocks on the disk.

    Raises:
        LocalDiskError: the blob's files cannot be accessed.
    """
    with disk_errors("could not look at", folder.path(digest)):
        marked = [form for form in forms_of(folder, digest) if is_marked(form.stat_result)]
    return all(count_as_put(folder, digest, form.coding) for form in marked)


def note_put(folder: Folder, digest: str) -> bool:
    """Record a put, now, of an existing blob by a user without write access to its file.

    Returns:
        Whether the note could be written durably, and the blob still exists afterwards.
    """
    place = gc_folder(folder) / "put"
    try:
        make_own_folder(place)
        note = place / digest
        try:
            note.touch()
            os.utime(note)
        except PermissionError:  # another user's of our group
            note.unlink()
            note.touch()
        sync_file(note)
        sync_folder(place)
    except OSError:
        return False
    return bool(forms_of(folder, digest))  # last: gc looks for a note after it took the file away


def put_time(folder: Folder, digest: str) -> float | None:
    """Return the time of the note of a blob's put, in seconds since 1970, or None without one.

    Raises:
        OSError: the note can't be looked at.
    """
    try:
        return (gc_folder(folder) / "put" / digest).stat().st_mtime
    except FileNotFoundError:
        return None


def forget_puts(folder: Folder, before: float) -> None:
    """Remove the notes of puts ``before`` a time, in seconds since 1970, as far as permissions allow.

    Notes with a time in the future get the present time.
    """
    with contextlib.suppress(FileNotFoundError):
        for note in _notes(folder):
            with contextlib.suppress(OSError):
                found = note.stat()
                if found.st_mtime < before:
                    note.unlink()
                age_of(note, found)


def _notes(folder: Folder) -> Iterator[Path]:
    """Yield the notes of puts."""
    return (note for note in (gc_folder(folder) / "put").iterdir() if is_digest(note.name))
