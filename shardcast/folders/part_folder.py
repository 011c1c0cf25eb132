"""The temporary folder of an arriving folder: taken over or made, locked, and named at the end.

::

    .v3.part/            only this user may open it; .v3.part-2 and so on beside other processes
      lock               held by the process that fills the folder
      manifest           the version's manifest so far
      folder/            gets the name v3 at the end

On a network file system the names have suffixes, like those of an arriving file (``store.output_part``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from shardcast.ages import age_of
from shardcast.directories import make_folder, remove_tree, sync_folder
from shardcast.errors import LocalDiskError
from shardcast.file_locks import Lock, excludes_others, is_local, machine_id, try_lock
from shardcast.file_moves import exchange, rename
from shardcast.file_owners import is_trusted, umask
from shardcast.file_systems import set_permissions
from shardcast.open_files import close, is_at
from shardcast.temporary_files import NOT_OURS, PART, leftovers, stem_of

CONTENT = "folder"
"""The name of the arriving folder in the temporary folder."""
MANIFEST = "manifest"
"""The name of the manifest there."""

_LOCK = "lock"
_OLD = "old"
_MAX_PARTS = 1000
"""Temporary names tried; also the maximum number of processes with one output."""
_MAX_STEM = 190
"""Bytes of the output's name repeated in the names of temporary folders."""
_STALE = 86400.0
"""Seconds without a change after which a temporary folder counts as abandoned, where locks are unreliable."""
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PartFolder:
    """A temporary folder of this process alone.

    Attributes:
        output: the path of the output.
        path: the temporary folder.
        root: the descriptor of the arriving folder in ``path``; -1 after closing.
        is_new: whether this process made the folder, so it is empty.
    """

    def __init__(self, output: Path) -> None:
        """Take over the folder of an ended process, or make a new one.

        Raises:
            LocalDiskError: too many processes write this output.
            OSError: the folder can't be made.
        """
        self.output = output
        self.path, self._lock = _acquire(output)
        self.root = -1
        try:
            content = self.path / CONTENT
            self.is_new = _make(content)
            self.root = os.open(content, _FOLDER_FLAGS)
        except BaseException:
            self.close()
            raise

    @property
    def manifest(self) -> Path:
        """The path of the manifest in the temporary folder."""
        return self.path / MANIFEST

    def give_name(self) -> os.stat_result:
        """Give the arriving folder the name of the output, durably, and remove the old output.

        Returns:
            The state of the folder.

        Raises:
            OSError: the folder can't have the name.
        """
        content = self.path / CONTENT
        set_permissions(self.root, 0o777 & ~umask(), content)
        os.fsync(self.root)
        if not is_at(self.root, content):
            raise FileNotFoundError(errno.ENOENT, "its temporary folder was removed or replaced meanwhile")
        if not os.path.lexists(self.output):
            content.rename(self.output)
        elif not exchange(content, self.output):
            old = self.path / _OLD
            rename(self.output, old, durable=False)
            try:
                content.rename(self.output)
            except BaseException:
                rename(old, self.output)
                raise
        sync_folder(self.output.parent)
        final = os.fstat(self.root)
        remove_tree(self.path)  # what is left of it is removed by a later download
        clear_abandoned_folders(self.output)
        return final

    def discard(self) -> None:
        """Remove the temporary folder: the received bytes have become useless."""
        if self._lock >= 0 and is_at(self._lock, self.path / _LOCK):
            remove_tree(self.path)

    def close(self) -> None:
        """Close the folder; a later process may take it over."""
        if self.root >= 0:
            close(self.root)
            self.root = -1
        if self._lock >= 0:
            close(self._lock)
            self._lock = -1


def resolve_folder(output: Path, manifest: Path) -> Path:
    """Return the path of a folder to write: the end of the output's links.

    Args:
        output: the path of the output.
        manifest: the file beside the output, proof of an existing folder's origin in a download.

    Raises:
        LocalDiskError: the path is a file, a device, a stranger's, or a folder not made by a download.
    """
    try:
        found = output.lstat()
    except FileNotFoundError:
        return output
    is_link = stat.S_ISLNK(found.st_mode)
    if not is_trusted(found, output.parent.stat()) and (is_link or os.geteuid()):
        kind = "link" if is_link else "folder" if stat.S_ISDIR(found.st_mode) else "file"
        raise LocalDiskError(
            f"could not write {output}: it is another user's {kind}, in a folder writable by every user; "
            "remove it or name another folder"
        )
    target = output.resolve() if is_link else output
    if not target.exists():
        return target
    if not target.is_dir():
        raise LocalDiskError(
            f"could not write {output}: it exists and is not a folder, which the version is; remove it or "
            "name another output"
        )
    if any(target.iterdir()) and not os.path.lexists(target.with_name(manifest.name)):
        raise LocalDiskError(
            f"could not write {output}: a folder not made by a download is there; "
            "remove it or name another folder"
        )
    return target


def clear_abandoned_folders(output: Path) -> None:
    """Remove temporary folders of this output left by interrupted runs, as far as possible.

    An unlocked folder of this user is removed. Where locks are unreliable, and for another user's folder, the
    folder is removed after a day without a change.
    """
    for part in _part_folders(output):
        with contextlib.suppress(OSError):
            found = part.lstat()
            if stat.S_ISDIR(found.st_mode) and _is_abandoned(part, found):
                remove_tree(part)
    for removed in leftovers(output):  # a kill came while it was removed
        if removed.is_dir() and not removed.is_symlink():
            remove_tree(removed)


def _acquire(output: Path) -> tuple[Path, int]:
    """Return the path of a temporary folder for this process alone, and the descriptor of its lock."""
    suffix = "" if _is_local_folder(output.parent) else f"-{machine_id()}"
    for attempt in range(1, _MAX_PARTS):
        path = _part_name(output, suffix if attempt == 1 else f"{suffix}-{attempt}")
        taken = _take(path)
        if taken is Lock.NONE:
            break
        if not isinstance(taken, Lock):
            return path, taken
    else:
        raise LocalDiskError(f"could not write {output}: a thousand other processes are writing it")
    path = _part_name(output, f"-{machine_id()}-{secrets.token_hex(4)}")
    path.mkdir(0o700)
    return path, os.open(path / _LOCK, _LOCK_FLAGS, 0o600)


def _is_local_folder(folder: Path) -> bool:
    """Return whether a folder is on a disk or in memory of this machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return is_local(descriptor)
    finally:
        close(descriptor)


def _take(path: Path) -> int | Lock:
    """Open, or make, a temporary folder and lock it.

    Returns:
        The descriptor of the folder's lock; ``HELD`` when another process or user has the name, ``NONE`` on a
        file system without locks.
    """
    while True:
        created = _make(path)
        try:
            folder = os.open(path, _FOLDER_FLAGS)
        except FileNotFoundError:
            continue  # its process has just removed it
        except OSError as error:
            if error.errno not in (*NOT_OURS, errno.ENOTDIR):
                raise
            return Lock.HELD
        try:
            if not _is_private(os.fstat(folder)):
                return Lock.HELD
            try:
                descriptor = os.open(_LOCK, _LOCK_FLAGS, 0o600, dir_fd=folder)
            except FileNotFoundError:
                continue
        finally:
            close(folder)
        kept = False
        try:
            lock = try_lock(descriptor)
            if lock is Lock.TAKEN and not is_at(descriptor, path / _LOCK):
                continue  # the process that had the lock gave the folder its final name just before
            if lock is Lock.TAKEN and not excludes_others(path / _LOCK):
                lock = Lock.NONE
            if lock is Lock.NONE and created:
                remove_tree(path)
            if lock is not Lock.TAKEN:
                return lock
            kept = True
            return descriptor
        finally:
            if not kept:
                close(descriptor)


def _make(folder: Path) -> bool:
    """Make a folder for this user alone; return False if the name is taken."""
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        return False
    return True


def _is_private(found: os.stat_result) -> bool:
    """Return whether a folder is this user's, and writable by no other."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _part_name(output: Path, suffix: str) -> Path:
    """Return a temporary name of an output."""
    return output.with_name(f".{stem_of(output.name, _MAX_STEM)}{PART}{suffix}")


def _part_folders(output: Path) -> Iterator[Path]:
    """Yield the paths with names of the output's temporary folders."""
    name = re.escape(_part_name(output, "").name)
    pattern = re.compile(rf"{name}(-[0-9a-f]{{16}})?(-[0-9a-f]+)?")
    with contextlib.suppress(OSError):
        yield from [entry for entry in output.parent.iterdir() if pattern.fullmatch(entry.name)]


def _is_abandoned(part: Path, found: os.stat_result) -> bool:
    """Return whether no process works on a temporary folder: by a reliable lock, else by age."""
    is_stale = age_of(part, found) > _STALE
    try:
        descriptor = os.open(part / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # without a lock its process may be about to make one
        return is_stale
    try:
        lock = try_lock(descriptor)
        if lock is Lock.HELD:
            return False
        is_sure = lock is Lock.TAKEN and (is_local(descriptor) or f"-{machine_id()}" in part.name)
        return is_stale or (found.st_uid == os.geteuid() and is_sure and excludes_others(part / _LOCK))
    finally:
        close(descriptor)


def new_part_folder(output: Path) -> PartFolder:
    """Return the temporary folder of an output; make a missing parent.

    Raises:
        LocalDiskError: too many processes write this output.
        OSError: the folder can't be made.
    """
    make_folder(output.parent)
    return PartFolder(output)
