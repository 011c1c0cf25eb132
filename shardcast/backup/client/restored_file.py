"""A file being restored: under a temporary name until all bytes are verified and written."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable

from shardcast.backup.attributes import AttributeRights, apply_attributes, owner_of
from shardcast.backup.client.restore_places import give_name, open_temporary, temporary_name
from shardcast.backup.client.snapshot_tree import Chunk
from shardcast.backup.entries import SavedEntry
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.open_files import close, write_all

_BLOCK = 4096
"""Bytes of an aligned block; blocks of zeros are left as holes."""
_ZEROS = bytes(_BLOCK)


class RestoredFile:
    """A file of a snapshot on the way to the disk.

    Attributes:
        path: from the top of the snapshot.
        entry: the file's entry.
        replaces: whether to replace an entry of the same name.
        problem: the reason of a failure; None without one.
    """

    __slots__ = ("_holes", "_identity", "_left", "_lock", "_planned", "entry", "path", "problem", "replaces")

    def __init__(self, path: bytes, entry: SavedEntry, *, replaces: bool) -> None:
        """Have nothing of the file yet."""
        self.path = path
        self.entry = entry
        self.replaces = replaces
        self.problem: str | None = None
        self._holes = entry.sparse
        self._identity: os.stat_result | None = None
        self._left = 0
        self._planned = False
        self._lock = threading.Lock()

    def begin(self, folder: int, name: bytes) -> bool:
        """Open the temporary file and set its size; return whether an earlier restore may have left bytes.

        Raises:
            OSError: the file cannot be made.
        """
        descriptor = open_temporary(folder, name, again=True)
        try:
            self._identity = os.fstat(descriptor)
            had = self._identity.st_size > 0
            os.ftruncate(descriptor, self.entry.size)
        finally:
            close(descriptor)
        if had:
            self._holes = False  # other bytes may be where zeros belong
        return had

    def open(self, folder: int, name: bytes) -> int:
        """Open the temporary file once more, and return its descriptor.

        Raises:
            OSError: the file cannot be opened, or was replaced by another process.
        """
        descriptor = os.open(temporary_name(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        if self._identity is None or not os.path.samestat(os.fstat(descriptor), self._identity):
            close(descriptor)
            raise OSError(errno.EEXIST, "another process replaced its temporary file", name)
        return descriptor

    def expect(self) -> None:
        """Count an expected chunk."""
        with self._lock:
            self._left += 1

    def all_expected(self) -> bool:
        """Note that all chunks are expected; return whether all were written."""
        with self._lock:
            self._planned = True
            return not self._left

    def write(self, folder: int, name: bytes, offset: int, plain: bytes) -> bool:
        """Write a verified chunk at an offset; return whether the file is whole now.

        The file is opened for each chunk: a window has more files than a process may have open.

        Raises:
            OSError: the chunk cannot be written.
        """
        descriptor = self.open(folder, name)
        try:
            if self._holes:
                write_with_holes(descriptor, plain, offset)
            else:
                _write_at(descriptor, memoryview(plain), offset)
        finally:
            close(descriptor)
        with self._lock:
            self._left -= 1
            return self._planned and not self._left

    def finish(self, folder: int, name: bytes, rights: AttributeRights) -> list[str]:
        """Set the attributes and the final name; return a sentence for each attribute that could not be set.

        Raises:
            OSError: the file cannot be renamed.
        """
        descriptor = self.open(folder, name)
        return _finish(descriptor, folder, name, self, rights)

    def write_whole(self, folder: int, name: bytes, plain: bytes, rights: AttributeRights) -> list[str]:
        """Restore a file of one chunk; return a sentence for each attribute that could not be set.

        Raises:
            OSError: the file cannot be written or renamed.
        """
        descriptor = open_temporary(folder, name)
        try:
            if self.entry.sparse:
                os.ftruncate(descriptor, len(plain))
                write_with_holes(descriptor, plain, 0)
            elif plain:
                write_all(descriptor, plain)
        except BaseException:
            close(descriptor)
            raise
        return _finish(descriptor, folder, name, self, rights)

    def fail(self, problem: str) -> bool:
        """Note why the file can't be restored; return whether this is the first reason."""
        with self._lock:
            first, self.problem = self.problem is None, self.problem or problem
        return first


def _finish(
    descriptor: int, folder: int, name: bytes, file: RestoredFile, rights: AttributeRights
) -> list[str]:
    """Set the attributes and the final name of an open temporary file, and close the file."""
    try:
        problems = apply_attributes(descriptor, file.entry, rights)
    finally:
        close(descriptor)
    # Not synced: one sync of the whole file system ends the restore; one for each file would take minutes.
    give_name(folder, name, replaces=file.replaces)
    return problems


def _write_at(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def write_with_holes(descriptor: int, plain: bytes, offset: int) -> None:
    """Write bytes into a new file, except aligned blocks of zeros.

    Raises:
        OSError: the file cannot be written.
    """
    view, start, at = memoryview(plain), 0, 0
    while at < len(plain):
        end = min(len(plain), at + _BLOCK - (offset + at) % _BLOCK)
        if view[at:end] == _ZEROS[: end - at]:
            _write_at(descriptor, view[start:at], offset + start)
            start = end
        at = end
    _write_at(descriptor, view[start:], offset + start)


def has_chunk(descriptor: int, chunk: Chunk, offset: int, key: bytes) -> bool:
    """Return whether an open file has a chunk's bytes at an offset.

    Raises:
        OSError: the file cannot be read.
    """
    plain = os.pread(descriptor, chunk.size, offset)
    return len(plain) == chunk.size and chunk_id(key, ChunkKind.DATA, plain) == chunk.id


def has_chunks(descriptor: int, chunks: Iterable[Chunk], key: bytes) -> bool:
    """Return whether an open file begins with the bytes of all chunks.

    Raises:
        OSError: the file cannot be read.
    """
    offset = 0
    for chunk in chunks:
        if not has_chunk(descriptor, chunk, offset, key):
            return False
        offset += chunk.size
    return True


def has_attributes(found: os.stat_result, entry: SavedEntry, rights: AttributeRights) -> bool:
    """Return whether a file has an entry's mode and time, and owner if ``rights`` include owners."""
    if rights.owners and (found.st_uid, found.st_gid) != owner_of(entry):
        return False
    return found.st_mtime_ns == entry.mtime and rights.allows_mode(found, entry)
