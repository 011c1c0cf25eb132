"""The bytes of a folder's payload: headers, padding and files, read in order from an open folder."""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from shardcast.folders.entries import EntryKind
from shardcast.folders.last_version import KnownShards
from shardcast.folders.layout import FileRange, FolderLayout
from shardcast.folders.list_plan import ListPlan
from shardcast.folders.listing import digest_lines
from shardcast.folders.survey import FolderSurvey
from shardcast.folders.tar_headers import BLOCK, padding
from shardcast.open_files import close
from shardcast.protocol.manifest import Shard
from shardcast.sharding.publication import PublishProgress

_ZEROS = bytes(BLOCK)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FolderPayload:
    """The payload of a surveyed folder (a ``ChunkSource``).

    Of each file exactly the surveyed bytes are read, and one read more must give nothing.
    """

    def __init__(
        self,
        survey: FolderSurvey,
        layout: FolderLayout,
        progress: PublishProgress,
        *,
        plan: ListPlan,
        known: KnownShards | None = None,
        linked: Mapping[int, Path] | None = None,
    ) -> None:
        """Make a source; nothing is read yet.

        Args:
            survey: the folder.
            layout: of its entries.
            progress: ``cancelled`` ends the reading.
            plan: the lines of the list.
            known: the shards and digests known from the last version.
            linked: paths of the files published without a copy, by index.
        """
        self._survey = survey
        self._layout = layout
        self._progress = progress
        self._known = known or KnownShards()
        self._entry_lines = plan.entry_lines
        self._shards = layout.shards()
        self._ends: list[int] = []  # of the shards so far
        self._file = _OpenFile(survey, linked or {})
        self._digests = SmallFileDigests(layout, plan.digest_batch)

    def close(self) -> None:
        """Close the open file."""
        self._file.close()

    def shard_size(self, offset: int) -> int:
        """Return the number of bytes of the next shard, from ``offset`` on; 0 at the payload's end."""
        shard = next(self._shards, None)
        self._ends.append(offset + shard.size if shard else offset)
        return shard.size if shard else 0

    def known_shard(self, number: int) -> Shard | None:
        """Return a shard unchanged since the last version; None for others."""
        return self._known.shards.get(number)

    def known_digests(self) -> Mapping[str, str] | None:
        """Return the digests of the last version where nothing changed at all."""
        return self._known.digests

    def fill(self, chunk: memoryview, position: int) -> int:
        """Read the next bytes until ``chunk`` is full or publishing is cancelled; return their number.

        Raises:
            PayloadChanged: a file has changed since the survey.
            LocalDiskError: a file can't be read.
        """
        filled = 0
        while filled < len(chunk) and not self._progress.cancelled:
            count = self._fill_entries(chunk[filled:], position + filled)
            filled += count or self._fill_part(chunk[filled:], position + filled)
        return filled

    def _fill_entries(self, chunk: memoryview, position: int) -> int:
        """Read the next entries that fit wholly in a chunk, up to a large file; return their bytes.

        Raises:
            PayloadChanged, LocalDiskError: as for ``fill``.
        """
        layout, filled = self._layout, 0
        run = layout.entries_between(position, position + len(chunk))
        rows = layout.table.rows(run.start, run.stop)
        for index, header, (path, size, _, _) in zip(run, layout.headers(run), rows, strict=True):
            body = filled + len(header)
            chunk[filled:body] = header
            filled = body + size
            if size:
                data = chunk[body:filled]
                self._file.read_all(index, path, data)
                self._digests.note(index, 0, data)
                end = filled + padding(size)
                chunk[filled:end] = _ZEROS[: end - filled]
                filled = end
            if self._progress.cancelled:
                break
        return filled

    def _fill_part(self, chunk: memoryview, position: int) -> int:
        """Read a part of one entry, or the end of the tar; return its bytes.

        Raises:
            PayloadChanged, LocalDiskError: as for ``fill``.
        """
        part = next(self._layout.parts(position, position + len(chunk)))
        if isinstance(part, bytes):
            chunk[: len(part)] = part
            return len(part)
        data = chunk[: part.length]
        self._file.read(part, data)
        self._digests.note(part.index, part.offset, data)
        return part.length

    def hashing(self, chunk: memoryview) -> Callable[[], None] | None:
        """Return the hashing of the small files in a chunk; None without small files."""
        return self._digests.work()

    def first_lines(self) -> Iterable[bytes]:
        """Return the lines with the entries."""
        return self._entry_lines

    def lines_behind(self, number: int) -> Iterable[bytes]:
        """Return the lines with the digests of the finished small files."""
        return self._digests.lines(self._ends[number - 1])

    def check_unchanged(self) -> None:
        """Compare the whole folder with the survey once more, after reading all bytes.

        Raises:
            PayloadChanged: an entry appeared, vanished or was touched, or an empty file has bytes.
            LocalDiskError: the folder can't be read.
        """
        table, nothing = self._layout.table, memoryview(bytearray())
        for index, size in enumerate(table.sizes):
            if not size and table.kind(index) is EntryKind.FILE:  # /proc says so of files that have bytes
                self._file.read_all(index, table.path(index), nothing)
        self._survey.check_unchanged()


class _OpenFile:
    """The open file of a surveyed folder."""

    def __init__(self, survey: FolderSurvey, linked: Mapping[int, Path]) -> None:
        self._survey = survey
        self._linked = linked
        self._descriptor = -1
        self._index = -1
        self._spare = bytearray(1)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            close(descriptor)

    def read(self, part: FileRange, data: memoryview) -> None:
        """Read a whole part of a file; for the last part, also check that the file ends there.

        Raises:
            PayloadChanged: the file has changed since the survey, or has fewer or more bytes.
            LocalDiskError: the file can't be read.
        """
        try:
            if part.index != self._index or self._descriptor < 0:
                self.close()
                self._descriptor = self._open(part.index, self._survey.table.path(part.index))
                self._index = part.index
            self._read(part, data)
        except OSError as error:
            with self._survey.reading(self._survey.table.path(part.index)):
                raise error

    def read_all(self, index: int, path: bytes, data: memoryview) -> None:
        """Read all bytes of a file, and check that it ends there, in as few system calls as possible.

        Raises:
            PayloadChanged, LocalDiskError: as for ``read``.
        """
        try:
            descriptor = self._open(index, path)
            try:
                count = os.preadv(descriptor, [data, self._spare], 0)
            finally:
                close(descriptor)
        except OSError as error:
            with self._survey.reading(path):
                raise error
        if count != len(data):
            self.read(FileRange(index, 0, len(data)), data)

    def _open(self, index: int, path: bytes) -> int:
        """Open a file unchanged since the survey, and return the descriptor.

        Raises:
            PayloadChanged: the file has changed.
            OSError: the file can't be opened.
        """
        if index in self._linked:  # a clone has another inode; its version compares it at the end
            return os.open(self._linked[index], _READ)
        survey, at = self._survey, path.rfind(b"/") + 1
        descriptor = os.open(path[at:], _READ, dir_fd=survey.tree.folder(path[:at]))
        try:
            found = os.fstat(descriptor)
            same = found.st_size == survey.table.size(index) and survey.identities.agree(index, found)
            if not same or not stat.S_ISREG(found.st_mode):
                raise survey.changed(path, "was written to or replaced")
        except BaseException:
            close(descriptor)
            raise
        return descriptor

    def _read(self, part: FileRange, data: memoryview) -> None:
        """Read a part of the open file; close the file at its end."""
        survey, size, offset = self._survey, self._survey.table.size(part.index), part.offset
        end = offset + part.length
        is_last = end == size
        while True:
            rest = data[offset - part.offset :]
            # With the last bytes one more is requested: checking for the end then costs no call of its own.
            count = os.preadv(self._descriptor, [rest, self._spare] if is_last else [rest], offset)
            offset += count
            if offset > end:
                raise survey.changed(survey.table.path(part.index), f"has more than its {size} bytes")
            if offset == end:
                break
            if not count:
                raise survey.changed(survey.table.path(part.index), f"has less than its {size} bytes")
        if is_last:
            self.close()


class SmallFileDigests:
    """The SHA-256 of the small files of a folder, from their bytes in order; entered in the table.

    One thread records the bytes of a chunk and takes the work; another thread carries the work out, and takes
    the lines. Files with known digests are not hashed.
    """

    def __init__(self, layout: FolderLayout, batch: int) -> None:
        """Expect the first small file; yield ``batch`` digests at a time, fewer only at the end."""
        self._layout = layout
        self._batch = batch
        self._noted: list[tuple[int, int, memoryview]] = []
        self._hasher = hashlib.sha256()
        self._small = array("L", layout.small_files())
        self._ended: list[bytes] = []
        self._told = 0

    def note(self, index: int, offset: int, data: memoryview) -> None:
        """Note bytes of a file, from ``offset`` on."""
        table = self._layout.table
        if table.size(index) < self._layout.large and table.digest(index) is None:
            self._noted.append((index, offset, data))

    def work(self) -> Callable[[], None] | None:
        """Return the hashing of the bytes recorded since the last call; None without bytes."""
        if not self._noted:
            return None
        noted, self._noted = self._noted, []
        return lambda: self._hash(noted)

    def lines(self, end: int) -> Iterator[bytes]:
        """Yield lines with the digests not written yet of files that end before an offset."""
        table = self._layout.table
        stop = bisect_left(self._small, self._layout.entries_before(end), self._told + len(self._ended))
        for index in self._small[self._told + len(self._ended) : stop]:
            digest = table.digest(index)
            assert digest  # hashed, or known, before its last shard is announced
            self._ended.append(digest)
        first, count = self._told, len(self._ended)
        if stop < len(self._small):
            count -= count % self._batch
        digests, self._ended = self._ended[:count], self._ended[count:]
        self._told = first + count
        return digest_lines(first, digests)

    def _hash(self, noted: list[tuple[int, int, memoryview]]) -> None:
        """Hash parts of files in their order."""
        table = self._layout.table
        for index, offset, data in noted:
            if offset:
                self._hasher.update(data)
            else:
                self._hasher = hashlib.sha256(data)
            if offset + len(data) == table.size(index):
                table.set_digest(index, self._hasher.digest())
