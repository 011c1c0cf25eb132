"""The files in a version's folder published without a copy, and the record of them.

A file is the whole payload, or a large file of a folder with shards of its own. The record has a line for
each: inode, size and mtime at the hashing; for a part, the number of the first shard before them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shardcast.constants import PAYLOAD_FILE
from shardcast.file_identity import FileIdentity
from shardcast.protocol.manifest import Shard

_NO_FILE = FileIdentity(inode=-1, size=-1, mtime_ns=-1)
_PART = re.compile(rf"{PAYLOAD_FILE}_([0-9]{{3,7}})", re.ASCII)
WHOLE = 0
"""Stands for the number of the first shard where the file is the whole payload."""


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A file published without a copy.

    Attributes:
        first: number of the file's first shard; ``WHOLE`` for the whole payload.
        path: path of the file.
        identity: identity at the hashing; for a damaged record, an identity equal to no file's.
    """

    first: int
    path: Path
    identity: FileIdentity

    @property
    def is_changed(self) -> bool:
        """Whether the file's identity has changed since the hashing; blocks on the disk."""
        found = FileIdentity.at(self.path)
        return found is None or found.recorded != self.identity

    def shards_in(self, shards: Sequence[Shard]) -> list[Shard] | None:
        """Return the shards that make up the file; None if they don't fit the recorded size."""
        start, size = max(self.first, 1) - 1, 0
        for count, shard in enumerate(shards[start:], 1):
            size += shard.size
            if size == self.identity.size and (self.first or count == len(shards)):
                return list(shards[start : start + count])
            if size > self.identity.size:
                break
        return None


@dataclass(frozen=True, slots=True)
class LinkedFiles:
    """The files of one version published without a copy, in the order of their shards."""

    files: tuple[LinkedFile, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files)

    def find(self, shard: int, shards: Sequence[Shard]) -> tuple[LinkedFile, int] | None:
        """Return the file around a shard, and the shard's offset in the file; None for other shards."""
        at = bisect_right(self.files, shard, key=lambda file: file.first) - 1
        if at < 0:
            return None
        file = self.files[at]
        offset = shards[shard - 1].offset - shards[max(file.first, 1) - 1].offset
        return (file, offset) if offset + shards[shard - 1].size <= file.identity.size else None

    @property
    def changed(self) -> list[LinkedFile]:
        """The files with a changed identity since the hashing; blocks on the disk."""
        return [file for file in self.files if file.is_changed]

    def replaced(self, changed: Iterable[LinkedFile]) -> LinkedFiles:
        """Return these files and the ``changed`` ones, which replace those with the same first shard."""
        by_first = {file.first: file for file in (*self.files, *changed)}
        return LinkedFiles(tuple(file for _, file in sorted(by_first.items())))

    @property
    def text(self) -> str:
        """The text of their record."""
        return "\n".join(f"{file.first or ''} {file.identity.text}".strip() for file in self.files)

    @classmethod
    def read(cls, record: Path, folder: Path) -> Self:
        """Return the files of a version; none without a record. Blocks on the disk.

        A file missing or illegible in the record gets an identity equal to no file's, to be hashed again.

        Args:
            record: the path of the record.
            folder: the version's folder.
        """
        try:
            lines = record.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return cls()
        known = dict(filter(None, map(_parse, lines)))
        on_disk = [first for first in map(linked_number, _names(folder)) if first is not None]
        files = (
            LinkedFile(first, folder / linked_name(first), known.get(first, _NO_FILE))
            for first in sorted({*known, *on_disk} or {WHOLE})
        )
        return cls(tuple(files))


def linked_name(first: int) -> str:
    """Return the name, in a version's folder, of a linked file with this first shard."""
    return PAYLOAD_FILE if first == WHOLE else f"{PAYLOAD_FILE}_{first:03}"


def linked_number(name: str) -> int | None:
    """Return the number of the first shard of the linked file with this name; None for other names."""
    if name == PAYLOAD_FILE:
        return WHOLE
    found = _PART.fullmatch(name)
    return (int(found[1]) or None) if found else None


def _names(folder: Path) -> list[str]:
    """Return the names in a version's folder; none without a folder."""
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _parse(line: str) -> tuple[int, FileIdentity] | None:
    """Return first shard and identity in a line of a record; None for a damaged line."""
    first, _, rest = line.partition(" ")
    identity = FileIdentity.parse(line)
    if identity:
        return WHOLE, identity
    identity = FileIdentity.parse(rest)
    return (int(first), identity) if identity and first.isdecimal() and int(first) else None
