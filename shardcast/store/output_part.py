"""The temporary file of an output: taken over or made, written by this process alone, named at the end.

::

    .model.bin.part                       on a local file system; .part-2 and so on beside other processes
    .model.bin.part-<machine id>          on a network file system, whose locks may hold on one machine only
    .model.bin.part-<machine id>-<8 hex>  where no locks hold

A file of another machine, another user or an unknown program is never written to. Its pieces can be reused:
they are verified and copied.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from shardcast.ages import age_of
from shardcast.errors import LocalDiskError
from shardcast.file_copies import copy_bytes
from shardcast.file_locks import Lock, excludes_others, is_local, machine_id, try_lock
from shardcast.file_owners import is_ours, is_trusted
from shardcast.file_systems import NO_LINKS, set_permissions
from shardcast.filesystem import atomic_file, give_name
from shardcast.open_files import close, is_at
from shardcast.temporary_files import NOT_OURS, PART, create_private, leftovers, stem_of, temporary_name

MANIFEST = ".manifest"
"""Suffix of the manifest beside a temporary file."""

_MAX_PARTS = 1000
"""Temporary names tried; also the maximum number of processes with one output."""
_MAX_STEM = 190
"""Bytes of the output's name repeated in the names of temporary files and of their manifests."""
_STALE = 86400.0
"""Seconds without a write after which another machine's temporary file, without a usable lock, counts as
abandoned."""


class OutputPart:
    """A temporary file of this process alone.

    Attributes:
        output: the path of the output.
        path: the path of the temporary file.
        descriptor: the file, open for reading and writing; -1 after closing.
    """

    def __init__(self, output: Path) -> None:
        """Take over the file of an ended process, or make a new one.

        Raises:
            LocalDiskError: too many processes write this output.
            OSError: the file can't be made.
        """
        self.output = output
        self.path, self.descriptor = _acquire(output)
        for unfinished in leftovers(self.manifest):
            _remove(unfinished)

    @property
    def manifest(self) -> Path:
        """The name of the manifest beside the file."""
        return _manifest(self.path)

    def give_name(self) -> os.stat_result:
        """Give the file the name of the output, durably, then remove abandoned files of the output.

        Returns:
            The state of the named file.

        Raises:
            OSError: the file can't have the name.
        """
        final = _give_name(self.descriptor, self.path, self.output)
        with contextlib.suppress(OSError):  # the output is complete, even where a leftover can't be removed
            self.manifest.unlink(missing_ok=True)
            clear_abandoned(self.output)
        return final

    def discard(self) -> None:
        """Remove the file and the manifest beside it, unless another file has the name."""
        if is_at(self.descriptor, self.path):
            self.path.unlink(missing_ok=True)
            self.manifest.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; a later process may take it over."""
        if self.descriptor >= 0:
            close(self.descriptor)
            self.descriptor = -1


def resolve_output(output: Path) -> Path:
    """Return the path of an output to write: the end of its links.

    Raises:
        LocalDiskError: the path is a folder, a device, or a stranger's file or link.
    """
    found = _lstat(output)
    if found is None:
        return output
    folder = output.parent.stat()
    is_link = stat.S_ISLNK(found.st_mode)
    if not is_trusted(found, folder) and (is_link or os.geteuid()):
        raise LocalDiskError(
            f"could not write {output}: it is another user's {'link' if is_link else 'file'}, "
            "in a folder writable by every user; remove it or name another file"
        )
    with contextlib.suppress(FileNotFoundError):  # a link may lead to a file that is not there yet
        mode = output.stat().st_mode
        if stat.S_ISDIR(mode):
            raise LocalDiskError(f"could not write {output}: it is a directory; name a file in it")
        if not stat.S_ISREG(mode):
            raise LocalDiskError(f"could not write {output}: it exists and is not a file")
    return output.resolve() if is_link else output


def seed_files(own: OutputPart) -> Iterator[Path]:
    """Yield files whose pieces may serve again: the output, then others' temporary files, newest first."""
    yield own.output
    others = [(found.st_mtime, part) for part, found in _parts(_entries(own.output)) if part != own.path]
    for _, part in sorted(others, reverse=True):
        yield part


def clear_abandoned(output: Path) -> None:
    """Remove temporary files of this output left by interrupted runs.

    An unlocked file of this user is removed. Where locks are unreliable, and for another user's file, the
    file is removed after a day without a write.
    """
    clear_killed(output)
    for part, found in _parts(_entries(output)):
        if _is_abandoned(part, found):
            _remove(part)
            for beside in (manifest := _manifest(part), *leftovers(manifest)):
                _remove(beside)
    for entry in _entries(output, re.escape(MANIFEST)):
        if not os.path.lexists(entry.with_suffix("")):
            _remove(entry)


def clear_killed(output: Path) -> None:
    """Remove private temporary files of killed processes; no later run takes them over."""
    for part, found in _parts(leftovers(output)):
        if _is_abandoned(part, found):
            _remove(part)


def _acquire(output: Path) -> tuple[Path, int]:
    """Return the name and the descriptor of a temporary file for this process alone."""
    suffix = "" if _is_local_folder(output.parent) else f"-{machine_id()}"
    for attempt in range(1, _MAX_PARTS):
        path = _part_name(output, suffix if attempt == 1 else f"{suffix}-{attempt}")
        opened = _take(path, output)
        if opened is Lock.NONE:
            break
        if not isinstance(opened, Lock):
            return path, opened
    else:
        raise LocalDiskError(
            f"could not write {output}: {_MAX_PARTS - 1} temporary files beside it, up to {path.name}, are "
            "in use by other processes or users; remove those left over, or name another output"
        )
    path = _part_name(output, f"-{machine_id()}-{secrets.token_hex(4)}")
    return path, create_private(path)


def _is_local_folder(folder: Path) -> bool:
    """Return whether a folder is on a disk or in memory of this machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return is_local(descriptor)
    finally:
        close(descriptor)


def _take(path: Path, output: Path) -> int | Lock:
    """Open, or make, a temporary file and lock it.

    Returns:
        The descriptor; ``HELD`` when another process or user has the name, ``NONE`` on a file system without
        locks.
    """
    while True:
        created = False
        try:
            descriptor = create_private(path)
            created = True
        except FileExistsError:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # its process has just named or removed it
            except OSError as error:
                if error.errno not in NOT_OURS:
                    raise
                return Lock.HELD
        kept = False
        try:
            lock = try_lock(descriptor)
            if lock is Lock.TAKEN and not is_at(descriptor, path):
                continue  # the process that had the lock gave the file its final name just before
            if lock is Lock.TAKEN and not excludes_others(path):
                lock = Lock.NONE
            if lock is Lock.NONE and created:
                path.unlink(missing_ok=True)
            if lock is not Lock.TAKEN:
                return lock
            if not created and not _drop_second_names(descriptor, path, output):
                return Lock.HELD
            if not is_at(descriptor, path):
                continue
            set_permissions(descriptor, 0o600, path)
            kept = True
            return descriptor
        finally:
            if not kept:
                close(descriptor)


def _drop_second_names(descriptor: int, path: Path, output: Path) -> bool:
    """Remove the second names of a locked file, left by a kill just before or after the final naming.

    Returns:
        Whether this process may write to the file, or the name is free now.
    """
    if os.fstat(descriptor).st_nlink > 1:
        for other in leftovers(output):
            if is_at(descriptor, other):
                other.unlink(missing_ok=True)
        if is_at(descriptor, output):  # complete: the temporary name is a second name of the output
            path.unlink(missing_ok=True)
            return True
    return is_ours(os.fstat(descriptor))


def _part_name(output: Path, suffix: str) -> Path:
    """Return a temporary name of an output."""
    return output.with_name(f".{stem_of(output.name, _MAX_STEM)}{PART}{suffix}")


def _manifest(part: Path) -> Path:
    """Return the name of the manifest beside a temporary file."""
    return part.with_name(part.name + MANIFEST)


def _entries(output: Path, end: str = "") -> list[Path]:
    """Return the paths with names of the output's temporary files, followed by ``end``.

    The list is empty for an unreadable folder.
    """
    name = re.escape(_part_name(output, "").name)
    pattern = re.compile(rf"{name}(-[0-9a-f]{{16}})?(-[0-9a-f]+)?{end}")
    with contextlib.suppress(OSError):
        return [entry for entry in output.parent.iterdir() if pattern.fullmatch(entry.name)]
    return []


def _parts(entries: list[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files among paths, with their states."""
    for entry in entries:
        found = _lstat(entry)
        if found and stat.S_ISREG(found.st_mode):
            yield entry, found


def _lstat(path: Path) -> os.stat_result | None:
    """Return the state of a path, of a link itself; None when nothing has the name."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _is_abandoned(part: Path, found: os.stat_result) -> bool:
    """Return whether no process works on a temporary file: by a reliable lock, else by age."""
    is_stale = age_of(part, found) > _STALE
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return is_stale
    try:
        lock = try_lock(descriptor)
        if lock is Lock.HELD:
            return False
        is_sure = lock is Lock.TAKEN and (is_local(descriptor) or f"-{machine_id()}" in part.name)
        return is_stale or (found.st_uid == os.geteuid() and is_sure and excludes_others(part))
    except OSError:
        return False
    finally:
        close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file, where this user may."""
    with contextlib.suppress(OSError):
        path.unlink()


def _give_name(descriptor: int, part: Path, final: Path) -> os.stat_result:
    """Give the final name to a temporary file whose own name other processes choose too.

    Another process may remove or replace the temporary name at any moment. So the file is first linked, by
    its descriptor, under a name chosen by no other process; a file without any name left is copied.

    Returns:
        The state of the named file, not of a later file with the name.

    Raises:
        OSError: the file can't have the name.
    """
    private = temporary_name(final)
    try:
        if _link_descriptor(descriptor, private):
            give_name(descriptor, private, final)
            if is_at(descriptor, part):
                part.unlink(missing_ok=True)
        elif is_at(descriptor, part):  # the file system has no links
            give_name(descriptor, part, final)
        else:
            with atomic_file(final) as copy:
                copy_bytes(descriptor, copy)
                return os.fstat(copy)
        return os.fstat(descriptor)
    finally:
        with contextlib.suppress(OSError):
            private.unlink()


def _link_descriptor(descriptor: int, name: Path) -> bool:
    """Give an open file another name; return False for a file without names, or if the system can't."""
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, follow_symlinks=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return is_at(descriptor, name)
