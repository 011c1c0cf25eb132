"""The unchanged shards: those of a folder's next version equal to shards of the last one."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass

from shardcast.folders.identities import EntryIdentities
from shardcast.folders.layout import FolderLayout, FolderShard
from shardcast.folders.table import FolderTable

_TICK = 50_000_000
"""Nanoseconds within which a file may be written twice and keep the same times: the clock of file systems
goes in steps of at most 10 ms."""
COARSE = 2_000_000_000
"""The same where times are whole seconds (FAT: two)."""
_SECOND = 10**9


@dataclass(frozen=True)
class UnchangedEntries:
    """A folder's entries beside those of its last version.

    Attributes:
        before: index of the entry with the same path then; -1 for a new path.
        unchanged: 1 for each entry with the same bytes by its record, or without bytes.
        same_list: whether all entries are those of the last version, with the same bytes.
    """

    before: array[int]
    unchanged: bytearray
    same_list: bool


def compare_entries(
    now: tuple[FolderTable, EntryIdentities],
    before: tuple[FolderTable, EntryIdentities],
    settled: int,
) -> UnchangedEntries:
    """Compare the entries of a folder with those of the last version.

    Args:
        now: the entries, and the identities of their files.
        before: the same of the last version.
        settled: time of the last version's survey, in nanoseconds since 1970; a file changed shortly before,
            or later, counts as changed.
    """
    table, identities = now
    table_before, identities_before = before
    pairs, unchanged = array("q"), bytearray(len(table))
    same, other = len(table) == len(table_before), 0
    for index in range(len(table)):
        path = table.path(index)
        while other < len(table_before) and table_before.path(other) < path:
            other += 1
        paired = other < len(table_before) and table_before.path(other) == path
        pairs.append(other if paired else -1)
        if not paired:
            same = False
            continue
        size = table.size(index)
        unchanged[index] = not size or (
            size == table_before.size(other)
            and identities.get(index) == identities_before.get(other)
            and is_settled(identities.ctime(index), settled)
        )
        same = same and bool(unchanged[index]) and table.has_same(index, table_before, other)
    return UnchangedEntries(pairs, unchanged, same)


def is_settled(ctime: int, settled: int) -> bool:
    """Return whether a file can't have been written after a survey and still have this ctime."""
    return ctime < settled - (_TICK if ctime % _SECOND else COARSE)


def reusable_shards(layout: FolderLayout, before: FolderLayout, entries: UnchangedEntries) -> dict[int, int]:
    """Return the shards with the bytes of a shard of the last version: the old number, by the new one.

    Args:
        layout: the next version's.
        before: the last version's.
        entries: the compared entries of both.
    """
    if layout.shard_size != before.shard_size:
        return {}
    shards_before = list(before.shards())
    if entries.same_list:
        return {number: number for number in range(1, len(shards_before) + 1)}
    offsets = [shard.offset for shard in shards_before]
    found = {}
    for number, shard in enumerate(layout.shards(), 1):
        offset = _offset_before(layout, before, entries, shard)
        if offset is None:
            continue
        at = bisect_left(offsets, offset)
        if at < len(offsets) and offsets[at] == offset:
            other = shards_before[at]
            if other.size == shard.size and (other.index is None) == (shard.index is None):
                found[number] = at + 1
    return found


def _offset_before(
    layout: FolderLayout, before: FolderLayout, entries: UnchangedEntries, shard: FolderShard
) -> int | None:
    """Return where the bytes of a shard stood in the last version; None where they didn't."""
    end, first = shard.offset + shard.size, layout.entry_at(shard.offset)
    if first is None or entries.before[first] < 0:
        return None
    shift = before.start(entries.before[first]) - layout.start(first)
    for index in range(first, len(layout.table)):
        start, body, size = layout.start(index), layout.body(index), layout.table.size(index)
        if start >= end:
            break
        other = entries.before[index]
        if other < 0 or before.start(other) - start != shift or before.table.size(other) != size:
            return None
        if shard.offset < body and not layout.table.has_same(index, before.table, other):
            return None
        if size and shard.offset < body + size and body < end and not entries.unchanged[index]:
            return None
    if end > layout.entries_end and end + shift != before.size:
        return None
    return shard.offset + shift
