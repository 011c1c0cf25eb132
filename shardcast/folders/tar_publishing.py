"""The tar and the list of a folder on another machine ─▶ a version's manifest, with all shards stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError, PayloadChanged
from shardcast.folders.contents import layout_of_lines
from shardcast.folders.layout import FileRange, FolderLayout
from shardcast.folders.list_plan import ListPlan, plan_list
from shardcast.folders.listing import ListTooLong
from shardcast.folders.payload import SmallFileDigests
from shardcast.protocol.manifest import FolderFacts, Manifest
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.sharding.chunk_source import ByteSource
from shardcast.sharding.cutter import cut
from shardcast.sharding.first_line import new_header
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress, ReserveBytes
from shardcast.store.open_version import OpenVersion

SUFFIX = ".tar"
"""The end of a payload's name; without it, the name is the folder's."""


@dataclass(frozen=True)
class ListedFolder:
    """A folder on another machine.

    Attributes:
        facts: the folder's name and number of entries.
        list_size: bytes of the list, sent before the tar.
    """

    facts: FolderFacts
    list_size: int


def publish_tar_file(
    path: Path,
    lines: bytes,
    folder: ListedFolder,
    opened: OpenVersion,
    description: PayloadDescription,
    *,
    progress: PublishProgress,
    reserve: ReserveBytes,
) -> Manifest:
    """Cut the tar of a folder into shards; they are parts of its file if linking works. Blocks.

    Args:
        path: the file.
        lines: the folder's list.
        folder: the folder.
        opened: the version.
        description: the cutting and hashing of the tar.
        progress: kept up to date.
        reserve: called with the size of the tar.

    Returns:
        The version's manifest.

    Raises:
        IntegrityError: list and tar are not those of one folder.
        PayloadChanged: the tar ended early.
        LocalDiskError: the file can't be read, or the shards can't be written.
        NoRoom, Cancelled: as for ``publish_folder``.
    """
    adopted = opened.adopt(path)
    file = opened.adopted.path if adopted else path
    with disk_errors("could not read", path), file.open("rb", buffering=0) as source:
        reader = ByteSource(source, folder.list_size + path.stat().st_size, description.shard_size, progress)
        return _publish(reader, lines, folder, opened, description, progress=progress, reserve=reserve)


def publish_tar_stream(
    source: BinaryIO,
    folder: ListedFolder,
    opened: OpenVersion,
    description: PayloadDescription,
    *,
    progress: PublishProgress,
    reserve: ReserveBytes,
) -> Manifest:
    """Cut the list and the tar of a folder, while they come through a pipe; see ``publish_tar_file``."""
    with disk_errors("could not read", Path(folder.facts.name)):
        reader = ByteSource(source, 1 << 63, description.shard_size, progress)
        lines = bytearray(folder.list_size)
        count = reader.fill(memoryview(lines), 0)
        _check_complete("list", count, folder.list_size, progress)
        return _publish(reader, bytes(lines), folder, opened, description, progress=progress, reserve=reserve)


def _publish(
    reader: ByteSource,
    lines: bytes,
    folder: ListedFolder,
    opened: OpenVersion,
    description: PayloadDescription,
    *,
    progress: PublishProgress,
    reserve: ReserveBytes,
) -> Manifest:
    """Cut a tar according to its list."""
    name = folder.facts.name + SUFFIX
    header = new_header(name, None, opened.number, description, folder.facts)
    try:
        layout = layout_of_lines(header, lines)
        layout.table.clear_digests()  # what a sender says of files counts for nothing: all are hashed here
        plan = plan_list(layout)
    except ListTooLong as error:
        raise IntegrityError(f"the list of {name} is too long: {error}") from None
    except (ManifestError, ValueError) as error:
        raise IntegrityError(f"the list of {name} is not that of a folder: {error}") from None
    reserve(layout.size)
    header = new_header(name, layout.size, opened.number, description, folder.facts)
    source = TarSource(reader, folder.list_size, layout, plan)
    manifest = cut(
        source, opened, header, description=description, progress=progress, reserve=lambda size: None
    )
    _check_complete("tar", progress.done, layout.size, progress)
    # Wait for the sender's end mark: only then the sender's digest is here.
    if reader.fill(memoryview(bytearray(1)), folder.list_size + layout.size):
        raise IntegrityError(f"{name} has more than the {layout.size} bytes by its list")
    _check_complete("tar", progress.done, layout.size, progress)
    return manifest


def _check_complete(part: str, done: int, size: int, progress: PublishProgress) -> None:
    """Check that all bytes of the ``tar`` or the ``list`` have come.

    Raises:
        Cancelled: publishing was cancelled.
        PayloadChanged: the sender ended early.
    """
    if progress.cancelled:
        raise Cancelled("the broadcast of the folder was cancelled")
    if done != size:
        raise PayloadChanged(f"the {part} of the folder ended at byte {done} of {size}; send both again")


class TarSource:
    """The tar of a folder from elsewhere (a ``ChunkSource``), compared with the list entry by entry.

    Headers and padding must be exactly the bytes made from the list. Readers of the tar and readers of the
    list then see the same folder.
    """

    def __init__(self, reader: ByteSource, start: int, layout: FolderLayout, plan: ListPlan) -> None:
        """Make a source; nothing is read yet.

        Args:
            reader: reads the tar.
            start: position of the tar after the list, as counted by the reader.
            layout: of the list.
            plan: the lines of the list in the manifest.
        """
        self._reader = reader
        self._start = start
        self._layout = layout
        self._lines = plan.entry_lines
        self._shards = layout.shards()
        self._ends: list[int] = []
        self._digests = SmallFileDigests(layout, plan.digest_batch)

    def shard_size(self, offset: int) -> int:
        """Return the number of bytes of the next shard, from ``offset`` on; 0 at the payload's end."""
        shard = next(self._shards, None)
        self._ends.append(offset + shard.size if shard else offset)
        return shard.size if shard else 0

    def fill(self, chunk: memoryview, position: int) -> int:
        """Read the next bytes into ``chunk``, compare them, and return their number.

        Raises:
            IntegrityError: a header or padding differs from the list.
        """
        count = self._reader.fill(chunk, self._start + position)
        at = 0
        for part in self._layout.parts(position, position + count):
            length = part.length if isinstance(part, FileRange) else len(part)
            data = chunk[at : at + length]
            if isinstance(part, FileRange):
                self._digests.note(part.index, part.offset, data)
            elif data != part:
                raise IntegrityError(
                    f"the tar of the folder differs from the list of its entries behind byte {position + at}"
                )
            at += length
        return count

    def known_shard(self, number: int) -> None:
        """Return None: all bytes come."""

    def known_digests(self) -> None:
        """Return None, too."""

    def hashing(self, chunk: memoryview) -> Callable[[], None] | None:
        """Return the hashing of the small files in a chunk; None without small files."""
        return self._digests.work()

    def first_lines(self) -> Iterable[bytes]:
        """Return the lines with the entries."""
        return self._lines

    def lines_behind(self, number: int) -> Iterable[bytes]:
        """Return the lines with the digests of the finished small files."""
        return self._digests.lines(self._ends[number - 1])
