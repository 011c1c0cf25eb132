"""Entries of snapshots as lines for people and for programs."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from shardcast.backup.client.snapshot_tree import TreeEntry
from shardcast.backup.entries import SavedEntry, SavedKind, text_or_base64
from shardcast.cli.times import shown_time
from shardcast.plain_text import one_line

LONGEST_PATH = 8192
"""Maximum characters of a shown path."""
_BATCH = 1000
"""Lines aligned with each other."""
_TYPES = {
    SavedKind.FILE: stat.S_IFREG,
    SavedKind.FOLDER: stat.S_IFDIR,
    SavedKind.LINK: stat.S_IFLNK,
    SavedKind.FIFO: stat.S_IFIFO,
    SavedKind.CHAR: stat.S_IFCHR,
    SavedKind.BLOCK: stat.S_IFBLK,
}


def shown_path(path: bytes) -> str:
    """Return a path for people, on one line."""
    return one_line(path.decode("utf-8", "surrogateescape"), LONGEST_PATH)


def long_lines(entries: Iterable[TreeEntry]) -> Iterator[str]:
    """Yield blocks of lines as ``ls -l`` has them, aligned."""
    widths = [1, 1, 1]
    found = iter(entries)
    while batch := list(islice(found, _BATCH)):
        columns = [_columns(entry) for _, entry in batch]
        widths = [max(width, *(len(column[at]) for column in columns)) for at, width in enumerate(widths)]
        yield "\n".join(
            f"{_mode(entry)} {user:<{widths[0]}} {group:<{widths[1]}} {size:>{widths[2]}} "
            f"{shown_time(entry.mtime / 10**9)} {_name(path, entry)}"
            for (path, entry), (user, group, size) in zip(batch, columns, strict=True)
        )


def _mode(entry: SavedEntry) -> str:
    return stat.filemode(_TYPES[entry.kind] | entry.mode)


def _columns(entry: SavedEntry) -> tuple[str, str, str]:
    """Return the owner, the group and the size."""
    size = f"{entry.device[0]}, {entry.device[1]}" if entry.device else str(entry.size)
    return one_line(entry.user or str(entry.uid), 32), one_line(entry.group or str(entry.gid), 32), size


def _name(path: bytes, entry: SavedEntry) -> str:
    mark = {SavedKind.FOLDER: "/", SavedKind.FIFO: "|"}.get(entry.kind, "")
    arrow = f" -> {shown_path(entry.target)}" if entry.kind is SavedKind.LINK else ""
    problems = f"  [{one_line('; '.join(entry.problems), 200)}]" if entry.problems else ""
    return f"{shown_path(path)}{mark}{arrow}{problems}"


def entry_object(path: bytes, entry: SavedEntry, **more: Any) -> str:
    """Return an entry as a line of JSON."""
    fields: dict[str, Any] = {
        **dict([text_or_base64("path", path)]),
        "kind": entry.kind.value,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user,
        "group": entry.group,
        "mtime_ns": entry.mtime,
        "size": entry.size,
    }
    if entry.kind is SavedKind.LINK:
        fields |= dict([text_or_base64("target", entry.target)])
    if entry.device:
        fields["device"] = list(entry.device)
    if entry.problems:
        fields["problems"] = list(entry.problems)
    return json.dumps(fields | more)
