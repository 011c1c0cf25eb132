"""A folder written file by file ─▶ a version's manifest: each file goes out as soon as it is complete.

The writer sends frames through a pipe: 4 bytes with the length of the JSON text of an entry, as in a list
(``listing``), the text, then the bytes of the file. A length of 0 ends the folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError
from shardcast.folders.entries import FolderEntry, UnsafeEntry
from shardcast.folders.layout import FileRange, TooManyShards
from shardcast.folders.listing import digest_lines, entry_line, parse_entry
from shardcast.folders.tar_publishing import SUFFIX
from shardcast.folders.written_table import WrittenLayout, WrittenTable
from shardcast.json_text import parse_json
from shardcast.protocol.manifest import FolderFacts, Manifest
from shardcast.protocol.manifest_reader import ManifestError, is_folder_name
from shardcast.sharding.chunk_source import ByteSource
from shardcast.sharding.cutter import cut
from shardcast.sharding.first_line import new_header, safe_name
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress, ReserveBytes
from shardcast.store.open_version import OpenVersion

LENGTH_BYTES = 4
MAX_FRAME = 1 << 15
"""Bytes of an entry's text: a path has at most 4096, some of them six characters of JSON."""
_MAX_BYTES = 1 << 62


def publish_written_folder(
    source: BinaryIO,
    name: str,
    opened: OpenVersion,
    description: PayloadDescription,
    *,
    progress: PublishProgress,
    reserve: ReserveBytes,
) -> Manifest:
    """Cut files arriving through a pipe into shards, until the end of the folder; blocks.

    Args:
        source: the pipe, unbuffered.
        name: the folder's name.
        opened: the version.
        description: the cutting and hashing of the tar.
        progress: kept up to date; ``size`` is set at the writer's end.
        reserve: called before each chunk is stored.

    Returns:
        The version's manifest.

    Raises:
        UsageError: an entry is malformed, unsafe, or there twice, the name is none of a folder, or bytes
            follow its end.
        NoRoom: the version may not take so many bytes.
        LocalDiskError: the pipe can't be read, or the shards can't be written.
        Cancelled: ``progress.cancelled`` was set, or the pipe ended before the folder.
    """
    facts = FolderFacts(safe_name(name, 200), None)
    if not is_folder_name(facts.name):
        raise UsageError(f"{name!r} is no name of a folder")
    header = new_header(facts.name + SUFFIX, None, opened.number, description, facts)
    with disk_errors("could not read", Path(name)):
        written = WrittenSource(source, description.shard_size, progress, opened.live.add)
        return cut(written, opened, header, description=description, progress=progress, reserve=reserve)


class WrittenSource:
    """The tar of a folder written file by file (a ``ChunkSource``)."""

    def __init__(
        self,
        pipe: BinaryIO,
        shard_size: int,
        progress: PublishProgress,
        announce: Callable[[bytes], None],
    ) -> None:
        """Make a source; nothing is read yet.

        Args:
            pipe: brings the frames.
            shard_size: bytes of a shard at most.
            progress: ``cancelled`` ends the reading.
            announce: called with the line of each entry, before its first shard.
        """
        self._pipe = ByteSource(pipe, _MAX_BYTES, shard_size, progress)
        self._progress = progress
        self._read = 0  # bytes of the pipe so far
        self._announce = announce
        self._shard_size = shard_size
        self._layout = WrittenLayout(WrittenTable(), shard_size)
        self._sizes = self._shards()
        self._hasher = hashlib.sha256()
        self._digests: list[bytes] = []
        self._is_whole = False

    def _shards(self) -> Iterator[int]:
        """Yield the sizes of the shards, each as soon as its entry is here."""
        layout, cut_to = self._layout, 0
        while (entry := self._next_entry()) is not None:
            self._append(entry)
            for segment in list(layout.segments())[:-1]:
                if segment.offset >= cut_to:
                    yield from self._split(segment.size)
                    cut_to = segment.offset + segment.size
        if self._pipe.fill(memoryview(bytearray(1)), self._read):  # waits for the end that the writer tells
            raise UsageError("the folder has bytes behind its end")
        if self._progress.cancelled:
            raise Cancelled("the broadcast of the folder was cancelled")
        self._is_whole = True
        yield from self._split(layout.size - cut_to)

    def _split(self, size: int) -> Iterator[int]:
        """Yield the sizes of the shards of a segment."""
        return (min(self._shard_size, size - start) for start in range(0, size, self._shard_size))

    def _append(self, entry: FolderEntry) -> None:
        """Take and announce the next entry.

        Raises:
            UsageError: the folder can't have the entry.
        """
        try:
            self._layout.table.append(entry)
            self._layout.extend()
        except UnsafeEntry as error:
            raise UsageError(f"the folder can't have this entry: {error}") from None
        except TooManyShards as error:
            raise UsageError(f"the folder can't have {entry.text!r}: {error}; raise the shard size") from None
        self._announce(entry_line(self._layout.table, len(self._layout.table) - 1))

    def _next_entry(self) -> FolderEntry | None:
        """Read the next frame's entry; None at the end of the folder.

        Raises:
            UsageError: the entry is malformed.
        """
        length = int.from_bytes(self._take(LENGTH_BYTES), "big")
        if not length:
            return None
        if length > MAX_FRAME:
            raise UsageError(f"an entry of {length} bytes; it has at most {MAX_FRAME}")
        try:
            return parse_entry(parse_json(self._take(length)))
        except (ValueError, ManifestError) as error:
            raise UsageError(f"the folder can't have this entry: {error}") from None

    def _take(self, length: int) -> bytes:
        """Read exactly so many bytes of the pipe."""
        data = bytearray(length)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, chunk: memoryview) -> None:
        """Read bytes of the pipe until ``chunk`` is full.

        Raises:
            Cancelled: the writer went away, or publishing was cancelled.
        """
        count = self._pipe.fill(chunk, self._read)
        self._read += count
        if count < len(chunk):
            raise Cancelled("the writer of the folder went away before its end")

    def shard_size(self, offset: int) -> int:
        """Wait for the entry of the next shard, and return the shard's bytes; 0 at the payload's end."""
        return next(self._sizes, 0)

    def fill(self, chunk: memoryview, position: int) -> int:
        """Make headers and padding, and read the bytes of files until ``chunk`` is full; return the number.

        Raises:
            Cancelled: as ``_fill`` says.
        """
        at = 0
        for part in self._layout.parts(position, position + len(chunk)):
            if isinstance(part, FileRange):
                data = chunk[at : at + part.length]
                self._fill(data)
                self._hash(part, data)
                at += part.length
            else:
                chunk[at : at + len(part)] = part
                at += len(part)
        return at

    def _hash(self, part: FileRange, data: memoryview) -> None:
        """Hash the bytes of a small file."""
        size = self._layout.table.size(part.index)
        if size >= self._layout.large:
            return
        if not part.offset:
            self._hasher = hashlib.sha256()
        self._hasher.update(data)
        if part.offset + part.length == size:
            self._digests.append(self._hasher.digest())

    def known_shard(self, number: int) -> None:
        """Return None: all bytes come."""

    def known_digests(self) -> None:
        """Return None, too."""

    def hashing(self, chunk: memoryview) -> None:
        """Return None: small files are hashed as they are read."""

    def first_lines(self) -> Iterable[bytes]:
        """Return no line: entries are announced one by one."""
        return ()

    def lines_behind(self, number: int) -> Iterable[bytes]:
        """Return the lines with the digests of all small files behind the last shard; none behind others."""
        digests, self._digests = (self._digests, []) if self._is_whole else ([], self._digests)
        return digest_lines(0, digests)
