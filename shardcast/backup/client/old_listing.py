"""The listing of a folder in the cache, read in parallel with the folder's current state, part by part."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from shardcast.backup.client.folder_cache import FACTS, CachedFolder, CachedPart, FolderCache
from shardcast.backup.client.id_changes import split
from shardcast.backup.encoding import decode_chunk
from shardcast.backup.ids import ID_SIZE, ChunkKind, chunk_id
from shardcast.errors import IntegrityError, UsageError
from shardcast.json_text import parse_json


class CacheDamaged(Exception):
    """A damaged cache: everything is read instead."""


class OldListing:
    """A folder's listing in the cache; names must be requested in order.

    Attributes:
        unused: parts passed without becoming parts of the new listing.
    """

    def __init__(
        self,
        cache: FolderCache,
        folder: CachedFolder,
        names: list[bytes],
        key: bytes,
        distrusted: AbstractSet[bytes],
    ) -> None:
        """Read nothing yet.

        Args:
            cache: the cache.
            folder: the folder's record.
            names: the folder's current names; shared with the listing if the same, to save memory.
            key: the key of ids.
            distrusted: ids missing at the server; parts with one of them are read again.
        """
        same = b"\0".join(names) == folder.names
        self._names = names if same else folder.names.split(b"\0") if folder.names else []
        self._facts = folder.facts
        self._parts = cache.parts(folder)
        self._key = key
        self._distrusted = distrusted
        self._part: CachedPart | None = None
        self._part_start = self._part_end = 0
        self._lines: list[tuple[bytes, bytes]] | None = None
        self._reused = True
        self.unused: list[CachedPart] = []

    def seek(self, name: bytes, index: int) -> int:
        """Return the index, from ``index`` on, of the first old name at or after a name."""
        names, key = self._names, name.rstrip(b"/")
        while index < len(names) and names[index].rstrip(b"/") < key:
            index += 1
        return index

    def is_same(self, index: int, name: bytes, facts: bytes) -> bool:
        """Return whether an old name is this one, and unchanged."""
        start = index * FACTS.size
        return (
            index < len(self._names)
            and self._names[index] == name
            and self._facts[start : start + FACTS.size] == facts
        )

    def part_at(self, index: int, names: list[bytes], facts: bytearray, at: int) -> CachedPart | None:
        """Return the part at an old index; None if the new listing has another, or an id is distrusted.

        Args:
            index: the old index.
            names: the folder's current names.
            facts: their current facts.
            at: the new index of the part's first name.
        """
        part = self._move_to(index)
        if part is None or self._part_start != index:
            return None
        count, size = part.entries, FACTS.size
        is_last = self._part_end == len(self._names)
        same = (
            names[at : at + count] == self._names[index : index + count]
            and facts[at * size : (at + count) * size] == self._facts[index * size : (index + count) * size]
            and (not is_last or at + count == len(names))
        )
        return part if same and not self._is_distrusted(part) else None

    def reuse(self) -> None:
        """Count the part returned by ``part_at`` as used."""
        self._reused = True

    def line(self, index: int) -> tuple[bytes, bytes] | None:
        """Return the line at an old index, and the ids of its chunks, joined; None with a distrusted id.

        Raises:
            CacheDamaged: the cache is damaged.
        """
        part = self._move_to(index)
        if part is None:
            raise CacheDamaged
        if self._lines is None:
            self._lines = self._decode(part)
        found = self._lines[index - self._part_start]
        if self._distrusted and not self._distrusted.isdisjoint(split(found[1])):
            return None
        return found

    def finish(self) -> None:
        """Pass the remaining parts, and so add them to ``unused``."""
        self._move_to(len(self._names))

    def _move_to(self, index: int) -> CachedPart | None:
        """Pass the parts before the one with the old name at ``index``, and return that part.

        Returns:
            The part; None after the last one.
        """
        while index >= self._part_end:
            if self._part is not None and not self._reused:
                self.unused.append(self._part)
            self._part = next(self._parts, None)
            self._lines, self._reused, self._part_start = None, False, self._part_end
            if self._part is None:
                return None
            self._part_end += self._part.entries
        return self._part

    def _is_distrusted(self, part: CachedPart) -> bool:
        if not self._distrusted:
            return False
        return part.segment in self._distrusted or not self._distrusted.isdisjoint(split(part.chunks))

    def _decode(self, part: CachedPart) -> list[tuple[bytes, bytes]]:
        """Return the lines of a part and the ids of each.

        Raises:
            CacheDamaged: the segment differs from its id, or has another number of entries or ids.
        """
        try:
            plain = decode_chunk(part.encoded)
        except (IntegrityError, UsageError):
            raise CacheDamaged from None
        lines = [line + b"\n" for line in plain[:-1].split(b"\n")]
        if chunk_id(self._key, ChunkKind.LISTING, plain) != part.segment or len(lines) != part.entries:
            raise CacheDamaged
        found, at = [], 0
        for line in lines:
            fields = parse_json(line)
            count = (
                len(fields.get("chunks", ())) + len(fields.get("chunk_lists", ())) + fields.get("listed", 0)
            )
            end = at + count * ID_SIZE
            found.append((line, part.chunks[at:end]))
            at = end
        if at != len(part.chunks):
            raise CacheDamaged
        return found
