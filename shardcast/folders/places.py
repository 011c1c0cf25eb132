"""The bytes of a payload in the files of an arriving folder: written to their places, and read again.

The headers and the padding of the tar are stored nowhere: they follow from the list of entries, and are
compared with the received bytes.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

from shardcast.file_copies import clone_bytes, copy_bytes
from shardcast.file_systems import NO_LINKS
from shardcast.folders.entries import EntryKind
from shardcast.folders.growing_tree import GrowingTree
from shardcast.folders.layout import FileRange, FolderLayout
from shardcast.folders.seeds import SeedFile, open_seed
from shardcast.folders.selection import FolderSelection
from shardcast.folders.table import Row
from shardcast.folders.tar_headers import padding
from shardcast.folders.tree_pool import TreePool
from shardcast.open_files import close, write_all
from shardcast.store.span_digest import has_digest

_OWNER = 0o600
"""Permissions of every file until the folder gets its name, so that a later run can read and write it."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class FileShard(NamedTuple):
    """A part of a file, and the part's SHA-256 in hex."""

    offset: int
    size: int
    sha256: str


class TarDiffers(Exception):
    """The received tar differs from the one made from the list of entries.

    Attributes:
        offset: of the first difference in the payload.
    """

    def __init__(self, offset: int) -> None:
        """Word the error."""
        super().__init__(f"the tar differs from the list of entries behind byte {offset}")
        self.offset = offset


class FolderPlaces:
    """The files of an arriving folder, as one payload.

    Threads may share an object, as long as no byte is written by two of them.

    Attributes:
        layout: the entries and their places in the payload.
        selection: the wanted entries.
        writing: lock for writers of tiny files, to take turns.
        hashed: a byte for each entry: 1 once a file is known to have the SHA-256 in the manifest.
    """

    def __init__(self, root: int, layout: FolderLayout, selection: FolderSelection | None = None) -> None:
        """Write below a folder.

        Args:
            root: the folder's descriptor; stays open.
            layout: the entries, in their places in the payload.
            selection: the wanted entries; None for all.

        Raises:
            OSError: this process has no descriptor left.
        """
        self.layout = layout
        self.selection = selection or FolderSelection(layout.table)
        self.writing = threading.Lock()
        self._writers = TreePool(root, makes=True)
        self._readers = TreePool(root)
        self._present = bytearray(len(layout.table))
        self._settled = bytearray(len(layout.table))
        self._linked: set[int] = set()
        self.hashed = bytearray(len(layout.table))

    def close(self) -> None:
        """Close all folders."""
        self._writers.close()
        self._readers.close()

    def extend(self) -> None:
        """Extend the columns for new entries of a growing list; all of them are wanted."""
        more = bytes(len(self.layout.table) - len(self.hashed))
        for column in (self._present, self._settled, self.hashed):
            column.extend(more)
        self.selection.extend()

    def open_root(self) -> int:
        """Return another descriptor of the folder, for the caller to close.

        Raises:
            OSError: this process has no descriptor left.
        """
        return os.dup(self._writers.root)

    # Present files

    def mark_present(self, index: int) -> None:
        """Note that a file is here, with right bytes or wrong ones."""
        self._present[index] = 1

    def is_settled(self, index: int) -> bool:
        """Return whether a file was written completely, with mode and time."""
        return bool(self._settled[index])

    def is_present(self, start: int, end: int) -> bool:
        """Return whether all files with bytes from ``start`` to ``end`` of the payload are here."""
        return all(self._present[index] for index in self.layout.files_between(start, end))

    @property
    def has_links(self) -> bool:
        """Whether a file is a seed's, too."""
        return bool(self._linked)

    def lacks(self, index: int) -> bool:
        """Return whether nothing of a file is here."""
        return not self._present[index]

    # Files of seeds

    def take(self, index: int, found: SeedFile, digests: Sequence[FileShard], *, links: bool) -> None:
        """Take a file from a seed: link, clone or copy. Copied bytes are verified later.

        Nothing is taken where the seed's file can't be opened, or has another size by now.

        Args:
            index: of the file.
            found: the file of the seed, of the same size.
            digests: SHA-256 of all parts of the file; none where they are not known yet.
            links: whether linking is allowed; a file is linked if it has the same mode and time, and these
                digests.

        Raises:
            OSError: the file can't be written.
        """
        may_link = links and bool(digests) and found.has_looks_of(self.layout.table, index)
        if may_link and self._link_known(index, found):
            return
        descriptor = open_seed(found)
        if descriptor is None:
            return
        try:
            state = os.fstat(descriptor)
            is_known = bool(digests) and found.is_known(state)
            with self._writers.tree() as tree:
                may_link = may_link and (is_known or _has_digests(descriptor, digests))
                if may_link and self._link(tree, index, found, state):
                    return
                cloned = self._copy(tree, index, descriptor)
            self.hashed[index] = cloned and is_known and found.is_known(os.fstat(descriptor))
        finally:
            close(descriptor)

    def _link_known(self, index: int, found: SeedFile) -> bool:
        """Link a seed's file known by its record, without opening it; return whether this was done.

        Raises:
            OSError: the name can't be made.
        """
        state = found.look()
        if state is None or not found.is_known(state):
            return False
        with self._writers.tree() as tree:
            return self._link(tree, index, found, state)

    def _link(self, tree: GrowingTree, index: int, found: SeedFile, state: os.stat_result) -> bool:
        """Link a seed's file here, and count the file as verified.

        Returns:
            Whether the linked file has this state; otherwise nothing was linked.

        Raises:
            OSError: the name can't be made.
        """
        source, name = found.seed.place(found.index)
        path = self.selection.path(index)
        folder, new = tree.parent(path)
        try:
            os.link(name, new, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return False
        if not os.path.samestat(state, os.stat(new, dir_fd=folder, follow_symlinks=False)):
            os.unlink(new, dir_fd=folder)
            return False
        found.seed.note_link(found.index)
        self._linked.add(index)
        self.hashed[index] = self._present[index] = self._settled[index] = 1
        return True

    def _copy(self, tree: GrowingTree, index: int, source: int) -> bool:
        """Clone or copy a seed's file; return True for a clone."""
        path = self.selection.path(index)
        target = tree.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            self._present[index] = 1
            if cloned := clone_bytes(source, target):
                return cloned
            try:
                copy_bytes(source, target)
            except OSError as error:
                if error.errno != errno.EIO:  # it became shorter: what is missing is fetched
                    raise
            return False
        finally:
            close(target)

    # Bytes

    def write(self, start: int, view: memoryview) -> None:
        """Write bytes of the payload to their files.

        Raises:
            TarDiffers: a header or padding differs from the one made from the list of entries.
            OSError: a file can't be written.
        """
        data, end, position = bytes(view), start + len(view), start
        with self._writers.tree() as tree:
            while position < end:
                at = position - start
                position += self._write_entries(tree, position, data, at) or self._write_part(
                    tree, position, data, at
                )

    def _write_entries(self, tree: GrowingTree, position: int, data: bytes, at: int) -> int:
        """Write the next entries contained wholly in the bytes from ``at`` on, and return their bytes.

        Raises:
            TarDiffers, OSError: as for ``write``.
        """
        layout, start = self.layout, at
        run = layout.entries_between(position, position + len(data) - at)
        rows = layout.table.rows(run.start, run.stop)
        for index, header, row in zip(run, layout.headers(run), rows, strict=True):
            size = row[1]
            body = at + len(header)
            after = body + size
            end = after + padding(size)
            if not data.startswith(header, at) or data.count(0, after, end) < end - after:
                raise TarDiffers(position + at - start)
            if size and index not in self._linked and self.selection.has_bytes_of(index):
                self._write_file(tree, index, row, data[body:after])
            at = end
        return at - start

    def _write_file(self, tree: GrowingTree, index: int, row: Row, data: bytes) -> None:
        """Write all bytes of a file, and settle the file."""
        path, size, mode, mtime = row
        if not self.selection.is_all:
            path = self.selection.path(index)
        above = path.rfind(b"/") + 1
        descriptor = os.open(path[above:], _NEW, _OWNER, dir_fd=tree.folder(path[:above]))
        try:
            self._present[index], self._settled[index] = 1, 0
            count = os.write(descriptor, data)
            if count < size:
                write_all(descriptor, memoryview(data)[count:])
            if mode & _OWNER == _OWNER:
                os.fchmod(descriptor, mode)
                os.utime(descriptor, (mtime, mtime))
                self._settled[index] = 1
        finally:
            close(descriptor)

    def _write_part(self, tree: GrowingTree, position: int, data: bytes, at: int) -> int:
        """Write a part of the next entry from ``data``, and return the number of bytes.

        Raises:
            TarDiffers, OSError: as for ``write``.
        """
        part = next(self.layout.parts(position, position + len(data) - at))
        if isinstance(part, bytes):
            if not data.startswith(part, at):
                raise TarDiffers(position)
            return len(part)
        index, offset = part.index, part.offset
        if index not in self._linked and self.selection.has_bytes_of(index):
            descriptor = tree.open_file(self.selection.path(index), os.O_WRONLY | os.O_CREAT)
            try:
                self._present[index], self._settled[index] = 1, 0
                os.lseek(descriptor, offset, os.SEEK_SET)
                write_all(descriptor, memoryview(data)[at : at + part.length])
            finally:
                close(descriptor)
        return part.length

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the payload; zeros for the bytes of missing files.

        Raises:
            OSError: a file can't be read.
        """
        with self._readers.tree() as tree:
            return b"".join(
                part if isinstance(part, bytes) else self._read(tree, part)
                for part in self.layout.parts(start, start + length)
            )

    def _read(self, tree: GrowingTree, part: FileRange) -> bytes:
        try:
            descriptor = tree.open_file(self.selection.path(part.index))
        except FileNotFoundError:
            return bytes(part.length)
        try:
            return os.pread(descriptor, part.length, part.offset).ljust(part.length, b"\0")
        finally:
            close(descriptor)

    def open_large(self, index: int) -> int:
        """Open a large file in its full size, and return the descriptor; a linked one opens only for reading.

        Raises:
            OSError: the file can't be made.
        """
        entry, path = self.layout.table[index], self.selection.path(index)
        assert entry.kind is EntryKind.FILE
        with self._writers.tree() as tree:
            if index in self._linked:
                return tree.open_file(path)
            descriptor = tree.open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            if os.fstat(descriptor).st_size != entry.size:
                os.ftruncate(descriptor, entry.size)
        except BaseException:
            close(descriptor)
            raise
        self._present[index] = 1
        return descriptor


def _has_digests(descriptor: int, digests: Sequence[FileShard]) -> bool:
    """Return whether all parts of an open file have their digests."""
    return bool(digests) and all(has_digest(descriptor, *part) for part in digests)
