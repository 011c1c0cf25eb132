"""Which blobs gc marked, and since when.

A mark is a permission of a blob's file: that others may execute it, and nobody else. Whoever puts the blob
again takes it away by what they do in any case, hashserver too: the file is replaced, or it gets the
permissions of a blob.

But an inode's permissions are not this directory's alone: a copy by hard links shares them, ``chmod -R`` sets
them, ``rsync -p`` and ``tar`` bring them along. So each run writes down what it marked, when, and what the
files looked like then, to their change time. A mark counts as long as they look exactly so. Whatever was done
to them in between begins the grace time anew.

::

    DIRECTORY/.shardcast-store/gc/
      marks                     <digest> <seconds since 1970> <looks>, a line each
      put/ab3f…                 its time is when the blob was put by somebody who may not touch its file

``marks`` is never written in place: a copy by hard links shares it, too.
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
from shardcast.blobs.directory.layout import OWN, Folder, make_own, seal
from shardcast.blobs.directory.stat import Form, forms_of
from shardcast.digest import is_digest
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import disk_errors, replace, sync_file, sync_folder

_MARK = 0o001
_EXECUTE = 0o111


def is_marked(looks: os.stat_result) -> bool:
    """Whether a file has the permission that is a mark."""
    return looks.st_mode & _EXECUTE == _MARK


class Marks:
    """The marks of a directory.

    Attributes:
        file: where they are written down.
    """

    def __init__(self, folder: Folder) -> None:
        """
        Raises:
            LocalDiskError: they can't be read.
        """
        self._folder = folder
        self.file = _place(folder) / "marks"
        self._known: dict[bytes, tuple[float, bytes]] = {}
        self._live: set[bytes] = set()  # of those, the ones that this run saw
        with disk_errors("could not read", self.file), contextlib.suppress(FileNotFoundError):
            for line in self.file.read_bytes().splitlines():
                with contextlib.suppress(ValueError):  # a line that is damaged is a mark less
                    digest, when, looks = line.split()
                    self._known[bytes.fromhex(digest.decode())] = float(when), bytes.fromhex(looks.decode())

    def since(self, digest: str, forms: Sequence[Form]) -> float | None:
        """When a blob that looks like this was marked, in seconds since 1970; None where it isn't, or the
        mark counts no more."""
        known = self._known.get(bytes.fromhex(digest))
        if known is None or not all(is_marked(form.looks) for form in forms) or known[1] != _looks(forms):
            return None
        put = when_put(self._folder, digest)
        return None if put is not None and put >= known[0] else known[0]

    def keep(self, digest: str) -> None:
        """A blob stays marked."""
        self._live.add(bytes.fromhex(digest))

    def set(self, digest: str, forms: Sequence[Form]) -> None:
        """Mark a blob. A file that has the permission already, by somebody else, is left as it is: the mark
        of a copy that shares it goes on to count.

        Raises:
            OSError: its files can't be changed.
        """
        when = time.time()
        for form in forms:
            if not is_marked(form.looks):
                Path(form.path).chmod(stat.S_IMODE(form.looks.st_mode) & ~_EXECUTE | _MARK)
        key = bytes.fromhex(digest)
        self._known[key] = when, _looks(forms_of(self._folder, digest))
        self._live.add(key)

    def drop(self, digest: str, forms: Sequence[Form]) -> None:
        """Take a blob's mark away.

        Raises:
            OSError: its files can't be changed.
        """
        for form in forms:
            if is_marked(form.looks):
                Path(form.path).chmod(stat.S_IMODE(form.looks.st_mode) & ~_EXECUTE)
        self._known.pop(bytes.fromhex(digest), None)

    def save(self, whole: bool) -> None:
        """Write them down; where the ``whole`` directory was gone through, without those of blobs that are
        no more.

        Raises:
            LocalDiskError: they can't be written down.
        """
        kept = {key: self._known[key] for key in self._live & self._known.keys()} if whole else self._known
        if kept or self.file.exists():
            lines = (f"{key.hex()} {when:.6f} {looks.hex()}\n" for key, (when, looks) in kept.items())
            replace(self.file, "".join(lines).encode())


def _looks(forms: Sequence[Form]) -> bytes:
    """What tells whether a blob's files were touched: the change time tells of everything that changes a file
    or its permissions, of links that are made, and of copies."""
    identities = [(form.coding, FileIdentity.from_stat(form.looks)) for form in forms]
    parts = [f"{coding} {file.size} {file.mtime_ns} {file.ctime_ns}" for coding, file in identities]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).digest()


def count_as_put(folder: Folder, digest: str, coding: str | None = None) -> bool:
    """Have an existing blob count as put now, and return whether that was possible.

    Nobody but the owner may write to its file from now on, the group may write to its folder, and gc leaves
    the blob alone for the grace time.

    Returns:
        False where the file has gone meanwhile, or belongs to another user and no note can be written.
    """
    path = folder.path(digest, coding)
    try:
        was_marked = is_marked(os.lstat(path))
        folder.make_parent(digest)
        seal(path)
        if was_marked:
            sync_file(Path(path))  # else a power cut may bring the mark back
    except FileNotFoundError:
        return False
    except OSError:
        return note_put(folder, digest)
    return True


def unmark(folder: Folder, digest: str) -> bool:
    """Remove the marks of a blob, and return whether that was possible; blocks on the disk.

    Raises:
        LocalDiskError: the blob's files can't be looked at.
    """
    with disk_errors("could not look at", folder.path(digest)):
        marked = [form for form in forms_of(folder, digest) if is_marked(form.looks)]
    return all(count_as_put(folder, digest, form.coding) for form in marked)


def note_put(folder: Folder, digest: str) -> bool:
    """Write down that a blob was put that is there, by somebody who may not touch its file; whether that
    could be written down, and the file is there still."""
    place = _place(folder) / "put"
    try:
        make_own(place)
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
    return bool(forms_of(folder, digest))  # in this order: gc looks for the note after it took the file


def when_put(folder: Folder, digest: str) -> float | None:
    """When that was written down of a blob, in seconds since 1970; None where it wasn't.

    Raises:
        OSError: it can't be looked for.
    """
    try:
        return (_place(folder) / "put" / digest).stat().st_mtime
    except FileNotFoundError:
        return None


def forget_puts(folder: Folder, before: float) -> None:
    """Remove what was written down before a time, where that is allowed."""
    with contextlib.suppress(FileNotFoundError):
        for note in _notes(folder):
            with contextlib.suppress(OSError):
                found = note.stat()
                if found.st_mtime < before:
                    note.unlink()
                age_of(note, found)


def _notes(folder: Folder) -> Iterator[Path]:
    return (note for note in (_place(folder) / "put").iterdir() if is_digest(note.name))


def _place(folder: Folder) -> Path:
    return Path(folder.root) / OWN / "gc"
