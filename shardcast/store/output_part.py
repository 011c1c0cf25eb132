"""The temporary file of an output: found or made, written by this process alone, named at the end.

::

    .model.bin.part                       on a local file system; .part-2 and so on beside other processes
    .model.bin.part-<machine id>          on a network file system, whose locks may hold on one machine only
    .model.bin.part-<machine id>-<8 hex>  where no locks hold

What another machine, another user or an unknown program left is never written to. Its pieces can serve again,
copied once they are verified.
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
from shardcast.file_locks import Lock, is_local, keeps_away, machine_id, try_lock
from shardcast.file_owners import is_ours, is_trusted
from shardcast.file_systems import NO_LINKS, set_permissions
from shardcast.filesystem import give_name, new_file
from shardcast.open_files import close, is_at
from shardcast.temporary_files import NOT_OURS, PART, create_private, leftovers, stem_of, temporary_name

MANIFEST = ".manifest"
"""The end of the name of the manifest that lies beside a temporary file."""

_MAX_PARTS = 1000
_MAX_STEM = 190
"""Bytes of the output's name that the names of its temporary files and of their manifests repeat."""
_STALE = 86400.0
"""Seconds after which the temporary file of another machine is taken for abandoned: no lock can tell."""


class OutputPart:
    """A temporary file that no other process writes to.

    Attributes:
        path: its name.
        descriptor: the file, open for reading and writing; -1 once it is closed.
    """

    def __init__(self, output: Path) -> None:
        """Take over what an ended process left, or make a new file.

        Raises:
            LocalDiskError: too many write this output.
            OSError: it can't be made.
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
        """Give the file the name of the output, durably, and return its state; then remove what others left.

        Raises:
            OSError: it can't have the name.
        """
        final = _give_name(self.descriptor, self.path, self.output)
        with contextlib.suppress(OSError):  # it has its name, whatever can't be removed any more
            self.manifest.unlink(missing_ok=True)
            clear_abandoned(self.output)
        return final

    def discard(self) -> None:
        """Remove the file, unless another one has its name."""
        if is_at(self.descriptor, self.path):
            self.path.unlink(missing_ok=True)
            self.manifest.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; a later process may take it over."""
        if self.descriptor >= 0:
            close(self.descriptor)
            self.descriptor = -1


def resolve_output(output: Path) -> Path:
    """Return where an output is written: the end of the links that it names.

    Raises:
        LocalDiskError: nothing can be written there.
    """
    found = _lstat(output)
    if found is None:
        return output
    folder = output.parent.stat()
    is_link = stat.S_ISLNK(found.st_mode)
    if not is_trusted(found, folder) and (is_link or os.geteuid()):
        raise LocalDiskError(
            f"could not write {output}: it is another user's {'link' if is_link else 'file'}, "
            "in a folder that everybody writes; remove it or name another file"
        )
    with contextlib.suppress(FileNotFoundError):  # a link may lead to what is not there yet
        mode = output.stat().st_mode
        if stat.S_ISDIR(mode):
            raise LocalDiskError(f"could not write {output}: it is a directory; name a file in it")
        if not stat.S_ISREG(mode):
            raise LocalDiskError(f"could not write {output}: it exists and is not a file")
    return output.resolve() if is_link else output


def seeds(own: OutputPart) -> Iterator[Path]:
    """Yield the files whose pieces may serve again: the output itself, then the temporary files that others
    left, those written last first."""
    yield own.output
    others = [(found.st_mtime, part) for part, found in _parts(_entries(own.output)) if part != own.path]
    for _, part in sorted(others, reverse=True):
        yield part


def clear_abandoned(output: Path) -> None:
    """Remove the temporary files that interrupted runs left of this output.

    One that this user made goes when no process has it locked; where locks don't tell, and where it is
    another user's, when nothing was written to it for a day.
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
    """Remove the temporary files that killed processes left of this output, and nothing goes on with."""
    for part, found in _parts(leftovers(output)):
        if _is_abandoned(part, found):
            _remove(part)


def _acquire(output: Path) -> tuple[Path, int]:
    suffix = "" if _is_local_folder(output.parent) else f"-{machine_id()}"
    for attempt in range(1, _MAX_PARTS):
        path = _part_name(output, suffix if attempt == 1 else f"{suffix}-{attempt}")
        taken = _take(path, output)
        if taken is Lock.NONE:
            break
        if not isinstance(taken, Lock):
            return path, taken
    else:
        raise LocalDiskError(f"could not write {output}: a thousand others are writing it")
    path = _part_name(output, f"-{machine_id()}-{secrets.token_hex(4)}")
    return path, create_private(path)


def _is_local_folder(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return is_local(descriptor)
    finally:
        close(descriptor)


def _take(path: Path, output: Path) -> int | Lock:
    """Return the descriptor of a temporary file that is ours and locked; ``HELD`` when the name is somebody
    else's, ``NONE`` when no locks hold there."""
    while True:
        created = False
        try:
            descriptor = create_private(path)
            created = True
        except FileExistsError:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # its process has just ended
            except OSError as error:
                if error.errno not in NOT_OURS:
                    raise
                return Lock.HELD
        kept = False
        try:
            lock = try_lock(descriptor)
            if lock is Lock.TAKEN and not is_at(descriptor, path):
                continue  # who had it gave it its name just before the lock was free
            if lock is Lock.TAKEN and not keeps_away(path):
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
    """Remove the names that a kill left a locked file, just before or after it got its final one.

    Return whether it is ours to write to then, or no file has the name any more."""
    if os.fstat(descriptor).st_nlink > 1:
        for other in leftovers(output):
            if is_at(descriptor, other):
                other.unlink(missing_ok=True)
        if is_at(descriptor, output):  # it is finished, and what is left is a name of it
            path.unlink(missing_ok=True)
            return True
    return is_ours(os.fstat(descriptor))


def _part_name(output: Path, suffix: str) -> Path:
    return output.with_name(f".{stem_of(output.name, _MAX_STEM)}{PART}{suffix}")


def _manifest(part: Path) -> Path:
    return part.with_name(part.name + MANIFEST)


def _entries(output: Path, end: str = "") -> list[Path]:
    """Return what in the folder of an output is named as its temporary files are, with ``end``; nothing
    where it can't be listed."""
    name = re.escape(_part_name(output, "").name)
    ours = re.compile(rf"{name}(-[0-9a-f]{{16}})?(-[0-9a-f]+)?{end}")
    with contextlib.suppress(OSError):
        return [entry for entry in output.parent.iterdir() if ours.fullmatch(entry.name)]
    return []


def _parts(entries: list[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield those that are regular files, with their states."""
    for entry in entries:
        found = _lstat(entry)
        if found and stat.S_ISREG(found.st_mode):
            yield entry, found


def _lstat(path: Path) -> os.stat_result | None:
    """Return the state of what has a name; None when nothing has it."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _is_abandoned(part: Path, found: os.stat_result) -> bool:
    """Return whether no process works on a temporary file: by its lock if that is sure, else by its age."""
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
        return is_stale or (found.st_uid == os.geteuid() and is_sure and keeps_away(part))
    except OSError:
        return False
    finally:
        close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file, where this user may."""
    with contextlib.suppress(OSError):
        path.unlink()


def _give_name(descriptor: int, part: Path, final: Path) -> os.stat_result:
    """Give a name to a temporary file whose own name other processes choose too; return the state of the file
    that got it, which is not that of another one that replaced it since.

    One of them may have removed or replaced the name at any moment. So the file gets a name that no other
    process chooses, by way of its descriptor; where it has no name left, it is copied.

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
            with new_file(final) as copy:
                copy_bytes(descriptor, copy)
                return os.fstat(copy)
        return os.fstat(descriptor)
    finally:
        with contextlib.suppress(OSError):
            private.unlink()


def _link_descriptor(descriptor: int, name: Path) -> bool:
    """Link an open file to a name; False where it has no name any more, or the system can't."""
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, follow_symlinks=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return is_at(descriptor, name)
