"""The blocks of versions on the disk, and those freed by their removal."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shardcast.constants import MANIFEST_FILE
from shardcast.file_identity import FileIdentity

BLOCK = 4096
"""Bytes of a block, the unit of allocation of file systems."""
_UNIT = 512
"""Bytes of ``st_blocks``, on every system."""
_FIEMAP = 0xC020660B
"""The number of the ioctl FS_IOC_FIEMAP, from linux/fs.h."""
_SHARED, _LAST = 0x2000, 0x1
"""Flags of an extent, from linux/fiemap.h: shared with other files; the last one of the file."""
_EXTENTS = 64
"""Extents requested at once."""
_HEAD, _EXTENT = struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL")
"""struct fiemap and struct fiemap_extent, from linux/fiemap.h."""


def space_of(size: int) -> int:
    """Return the bytes on the disk of a file of ``size`` bytes."""
    return -(-size // BLOCK) * BLOCK


def taken_by(found: os.stat_result) -> int:
    """Return the bytes on the disk of a file."""
    return found.st_blocks * _UNIT


@dataclass
class _Folder:
    """The files of one version.

    Attributes:
        alone: bytes of the files with one name.
        shared: bytes of the files with several names, by inode.
    """

    alone: int = 0
    shared: dict[int, int] = field(default_factory=dict)


class DiskUsage:
    """The bytes on the disk of all shards and payloads; a file with several names counts once.

    Threads with new shards add to the count, and the event loop reads it at any time. Every change is made
    under one lock, never held during disk access; ``total`` is an int, replaced in one step, and so is read
    without the lock.

    Attributes:
        total: bytes of all versions.
    """

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()
        self._folders: dict[Path, _Folder] = {}
        self._folders_with: dict[int, int] = {}  # how many folders have a shared file, by inode

    def of(self, folder: Path) -> int:
        """Return the bytes of one version's files, including shared ones."""
        with self._lock:
            known = self._folders.get(folder)
            return known.alone + sum(known.shared.values()) if known else 0

    def add(self, folder: Path, found: os.stat_result) -> None:
        """Count a file with a new name in a version's folder."""
        with self._lock:
            self._add(self._folders.setdefault(folder, _Folder()), found)

    def remove(self, folder: Path, found: os.stat_result) -> None:
        """Stop counting a file with several names after the removal of its name in a version's folder."""
        with self._lock:
            known = self._folders.get(folder, _Folder())
            if known.shared.pop(found.st_ino, None) is not None:
                self._drop_shared(found.st_ino, taken_by(found))

    def share(self, folder: Path, found: os.stat_result) -> None:
        """Count a file of a version's folder, counted before, as one with several names from now on."""
        with self._lock:
            known = self._folders.get(folder)
            if known is not None and found.st_ino not in known.shared:
                known.alone -= taken_by(found)
                self.total -= taken_by(found)
                self._add(known, found)

    def _add(self, known: _Folder, found: os.stat_result) -> None:
        """Count a file of a folder; under the lock."""
        size, inode = taken_by(found), found.st_ino
        if inode in known.shared:
            return
        if found.st_nlink == 1:
            known.alone += size
            self.total += size
            return
        known.shared[inode] = size
        folders = self._folders_with.get(inode, 0)
        self._folders_with[inode] = folders + 1
        if not folders:
            self.total += size

    def measure(self, folder: Path) -> None:
        """Count the present files of a version's folder anew; blocks on the disk."""
        files = list(_payload_files(folder))
        with self._lock:
            self._drop(folder)
            known = self._folders[folder] = _Folder()
            for found in files:
                self._add(known, found)

    def move(self, folder: Path, target: Path) -> None:
        """Count a version's folder under its present name."""
        with self._lock:
            known = self._folders.pop(folder, None)
            if known is not None:
                self._drop(target)
                self._folders[target] = known

    def drop(self, folder: Path) -> None:
        """Count the files of a version no more."""
        with self._lock:
            self._drop(folder)

    def freeable(self, folder: Path) -> Freeable:
        """Return what a version's removal takes off the count: its own bytes, and files shared with others.

        Each shared file comes with the number of folders counted with it. Nothing for an uncounted folder.
        Does not look at the disk.
        """
        with self._lock:
            known = self._folders.get(folder, _Folder())
            shared: dict[Hashable, int] = dict(known.shared.items())
            names: dict[Hashable, int] = {inode: self._folders_with[inode] for inode in known.shared}
            return Freeable(known.alone, shared, names)

    def _drop(self, folder: Path) -> None:
        """Count the files of a version no more; under the lock."""
        known = self._folders.pop(folder, None)
        if known is None:
            return
        self.total -= known.alone
        for inode, size in known.shared.items():
            self._drop_shared(inode, size)

    def _drop_shared(self, inode: int, size: int) -> None:
        """Count one folder less with a shared file; under the lock."""
        self._folders_with[inode] -= 1
        if not self._folders_with[inode]:
            del self._folders_with[inode]
            self.total -= size


def _payload_files(folder: Path) -> Iterator[os.stat_result]:
    """Yield the status of each file of a version's shards and payload, whole or in part."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name != MANIFEST_FILE:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False)


# Freeable bytes


@dataclass
class Freeable:
    """The bytes freed with a version's folder.

    Attributes:
        alone: bytes of files without another name.
        shared: bytes of files with several names, by inode.
        names: number of names of each of these, by inode; in the count, of the folders with one.
    """

    alone: int = 0
    shared: Mapping[Hashable, int] = field(default_factory=dict)
    names: Mapping[Hashable, int] = field(default_factory=dict)


def freeable(folder: Path, held: Collection[tuple[int | None, int]], clones: bool = True) -> Freeable:
    """Return the bytes freed by the removal of a version's folder; blocks on the disk.

    Args:
        folder: the version's folder.
        held: device and inode of open files: their blocks are not freed.
        clones: whether to leave out extents shared with other files by a clone.
    """
    alone, shared, names = 0, dict[Hashable, int](), dict[Hashable, int]()
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return Freeable()
    for entry in entries:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if FileIdentity.from_stat(status).file_key in held:
            continue
        size = max(0, taken_by(status) - (cloned(Path(entry.path)) if clones else 0))
        if status.st_nlink == 1:
            alone += size
        else:
            shared[status.st_ino] = size
            names[status.st_ino] = status.st_nlink
    return Freeable(alone, shared, names)


def held_open() -> set[tuple[int | None, int]]:
    """Return device and inode of every open file of this process: a removal does not free their space.

    Blocks on the disk.
    """
    held = set[tuple[int | None, int]]()
    for entry in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            held.add(FileIdentity.from_stat(os.fstat(int(entry.name))).file_key)
    return held


def cloned(file: Path) -> int:
    """Return the bytes of a file whose extents other files share; 0 where the file system doesn't tell.

    They are asked for with FIEMAP, as in the kernel's Documentation/filesystems/fiemap.rst.
    """
    shared: int = 0
    start: int = 0
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        while True:
            question = _HEAD.pack(start, (1 << 64) - 1 - start, 0, 0, _EXTENTS, 0)
            answer = array.array("B", question + bytes(_EXTENT.size * _EXTENTS))
            fcntl.ioctl(descriptor, _FIEMAP, answer, True)
            count = _HEAD.unpack_from(answer)[3]
            extents = [
                _EXTENT.unpack_from(answer, _HEAD.size + _EXTENT.size * index) for index in range(count)
            ]
            shared += sum(extent[2] for extent in extents if extent[5] & _SHARED)
            if not extents or extents[-1][5] & _LAST:
                return shared
            start = extents[-1][0] + extents[-1][2]
    except OSError:
        return shared
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class DiskSpace:
    """The disk of a directory.

    Attributes:
        size: bytes of the disk.
        free: bytes free for this process.
        used: used bytes.
        takes_files: whether the disk has an inode for another file.
    """

    size: int
    free: int
    used: int
    takes_files: bool = True


def disk_space(root: Path) -> DiskSpace:
    """Return size and free space of the disk of a directory; blocks on the disk.

    Raises:
        OSError: the file system can't tell.
    """
    disk = os.statvfs(root)
    unit = disk.f_frsize
    used = (disk.f_blocks - disk.f_bfree) * unit
    # Some file systems make inodes as needed, and report none.
    return DiskSpace(disk.f_blocks * unit, disk.f_bavail * unit, used, not disk.f_files or disk.f_favail > 0)
