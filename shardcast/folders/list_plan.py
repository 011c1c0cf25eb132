"""The lines of a folder's list in the manifest, plain, packed or none, depending on the list's length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shardcast.digest import PIECE_DIGEST_SIZE
from shardcast.folders.layout import FolderLayout
from shardcast.folders.listing import (
    DIGESTS_A_LINE,
    ListTooLong,
    count_entry_lines,
    entry_lines,
    packed_entry_lines,
)
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.manifest import piece_size_for
from shardcast.protocol.manifest_reader import MAX_FOLDER_LINES, MAX_MANIFEST
from shardcast.protocol.wire import MAX_SHARDS

MAX_PLAIN_LINES = 900
"""Lines with plain entries and digests: earlier readers of folders know no packed ones, and readers without
folders refuse more than 1000 unknown lines; middles of later versions may add some."""
_SHARD = 256
"""Maximum bytes of a shard's line without the digests of pieces."""


@dataclass(frozen=True)
class ListPlan:
    """The lines of a list.

    Attributes:
        entry_lines: with the entries, readable once.
        digest_batch: minimum digests of small files in a line, except for the last one.
        for_all: whether nodes without support for folders accept so many lines.
    """

    entry_lines: Iterable[bytes]
    digest_batch: int
    for_all: bool = True


def plan_list(layout: FolderLayout) -> ListPlan:
    """Return the lines of a folder's list.

    If there are lines enough, the digests of a shard's files follow the shard's line: readers then know the
    digests of files together with the shard.

    Raises:
        ListTooLong: the folder has too many shards or entries for a manifest.
    """
    between, shards = _count_shards(layout)
    if shards > MAX_SHARDS:
        raise ListTooLong(f"more than {MAX_SHARDS} shards; raise --shard-size")
    small = sum(1 for _ in layout.small_files())
    full = small // DIGESTS_A_LINE
    entries = count_entry_lines(layout.table, MAX_PLAIN_LINES - between - full)
    if entries + full + 1 <= MAX_PLAIN_LINES:
        is_short = entries + between + full <= MAX_PLAIN_LINES
        return ListPlan(entry_lines(layout.table), 1 if is_short else DIGESTS_A_LINE)
    lines = deque(packed_entry_lines(layout.table))
    count = len(lines) + full + 1
    size = sum(map(len, lines)) + (full + 1) * MAX_LINE + _size_of_shards(layout, shards)
    if count > MAX_FOLDER_LINES:
        raise ListTooLong(f"a list of them takes {count} lines, and readers take {MAX_FOLDER_LINES}")
    if size > MAX_MANIFEST:
        raise ListTooLong(f"a manifest with them takes {size} bytes, and readers take {MAX_MANIFEST}")
    return ListPlan(_drain(lines), DIGESTS_A_LINE, for_all=count <= MAX_PLAIN_LINES)


def _drain(lines: deque[bytes]) -> Iterator[bytes]:
    """Yield lines, and drop each one yielded: all together may be a hundred megabytes."""
    while lines:
        yield lines.popleft()


def _count_shards(layout: FolderLayout) -> tuple[int, int]:
    """Return the number of shards between large files, and of all shards."""
    between = shards = 0
    for segment in layout.segments():
        count = -(-segment.size // layout.shard_size)
        shards += count
        between += count if segment.index is None else 0
    return between, shards


def _size_of_shards(layout: FolderLayout, shards: int) -> int:
    """Return the maximum bytes of all shards' lines in a manifest."""
    pieces = layout.size // piece_size_for(layout.shard_size) + shards
    return shards * _SHARD + pieces * PIECE_DIGEST_SIZE * 4 // 3
