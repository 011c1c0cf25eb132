"""Current state of a folder ─▶ the parts of its listing: unchanged ones from the cache, the others read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shardcast.backup.client.chunk_sender import ChunkSender
from shardcast.backup.client.file_reader import (
    GONE,
    ChunkingReader,
    Fields,
    other_entry,
    unreadable_entry,
)
from shardcast.backup.client.folder_cache import CachedPart, FolderCacheWriter
from shardcast.backup.client.folder_state import FolderState, Problem
from shardcast.backup.client.id_changes import IdChanges
from shardcast.backup.client.old_listing import CacheDamaged, OldListing
from shardcast.backup.encoding import encode_chunk
from shardcast.backup.entries import MAX_LINE, fields_line
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.listings import SegmentCutter
from shardcast.disk_errors import error_text


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder whose listing is being built.

    Attributes:
        descriptor: of the folder.
        path: from the top, with ``/`` at the end; empty for the top.
        device: of the folder's file system.
        state: the current state.
    """

    descriptor: int
    path: bytes
    device: int
    state: FolderState


@dataclass(frozen=True, slots=True)
class BuiltListing:
    """A finished listing.

    Attributes:
        index: of the listing's parts in the cache.
        segments: ids of the segments.
        gone: indexes of names without an entry, removed meanwhile.
    """

    index: bytes
    segments: tuple[bytes, ...]
    gone: frozenset[int]


class ListingBuilder:
    """Builds listings of folders."""

    def __init__(self, key: bytes, reader: ChunkingReader, sender: ChunkSender, problem: Problem) -> None:
        """Build nothing yet.

        Args:
            key: the key of ids.
            reader: reads files.
            sender: takes segments.
            problem: called with each entry not saved whole.
        """
        self._key = key
        self._reader = reader
        self._sender = sender
        self._problem = problem

    def build(
        self,
        folder: OpenFolder,
        subfolders: Mapping[int, Fields | None],
        old: OldListing | None,
        writer: FolderCacheWriter,
        changes: IdChanges,
    ) -> BuiltListing:
        """Build the listing of a folder, send the listing and write it to the cache.

        Args:
            folder: the folder.
            subfolders: fields of the entry of each subfolder, by index; None for an unchanged subfolder, no
                fields for a removed one.
            old: the listing in the cache; None without one.
            writer: of the next cache.
            changes: collects the added and removed ids.

        Raises:
            PeerError, UploadRefused: a chunk could not be sent.
            OSError: the cache cannot be written.
            CacheDamaged: the last cache is damaged.
        """
        names, facts = folder.state.names, folder.state.facts
        changed = [index for index, fields in subfolders.items() if fields is not None]
        cutter, ids, gone = SegmentCutter(), list[bytes](), set[int]()
        index, segments = bytearray(), list[bytes]()

        def end_segment() -> None:
            count = len(cutter)
            part = self._send_segment(cutter.take(), count, b"".join(ids))
            ids.clear()
            changes.add_new(part.segment + part.chunks)
            index.extend(writer.add_part(part))
            segments.append(part.segment)

        at = before = 0
        while at < len(names):
            if old is not None:
                before = old.seek(names[at], before)
                part = old.part_at(before, names, facts, at) if not len(cutter) else None
                if part is not None and not any(at <= one < at + part.entries for one in changed):
                    old.reuse()
                    index.extend(writer.add_part(part))
                    segments.append(part.segment)
                    at, before = at + part.entries, before + part.entries
                    continue
            found = self._entry(folder, at, subfolders, old, before)
            if found is None:
                gone.add(at)
            else:
                ids.append(found[1])
                if cutter.add(names[at].rstrip(b"/"), found[0]):
                    end_segment()
            at += 1
        if len(cutter):
            end_segment()
        if old is not None:
            old.finish()
            for unused in old.unused:
                changes.add_old(unused.segment + unused.chunks)
        return BuiltListing(bytes(index), tuple(segments), frozenset(gone))

    def _send_segment(self, plain: bytes, entries: int, ids: bytes) -> CachedPart:
        """Hand on a segment for sending, and return the segment as a part for the cache."""
        found = chunk_id(self._key, ChunkKind.LISTING, plain)
        encoded = encode_chunk(plain)
        self._sender.take(ChunkKind.LISTING, found, plain, encoded)
        return CachedPart(found, entries, encoded, ids)

    def _entry(
        self,
        folder: OpenFolder,
        at: int,
        subfolders: Mapping[int, Fields | None],
        old: OldListing | None,
        before: int,
    ) -> tuple[bytes, bytes] | None:
        """Return the line of a name and the ids of its chunks, joined.

        None for a removed name, and, with a reported problem, for a name whose ``stat`` fails.

        Raises:
            CacheDamaged: the last cache is damaged.
        """
        state = folder.state
        name, facts = state.names[at], state.facts_at(at)
        fields = subfolders.get(at)
        same = fields is None and old is not None and old.is_same(before, name, facts)
        if same and old is not None and (found := old.line(before)) is not None:
            return found
        if name.endswith(b"/"):
            if fields is None:
                raise CacheDamaged
            return (self._line(folder, name, fields), b"") if fields else None
        try:
            read, ids = self._read(folder, at, name, facts)
        except OSError as error:
            if error.errno not in GONE:
                self._problem(folder.path + name, error.strerror or error_text(error))
            return None
        if isinstance(read, bytes):
            return read, ids
        if "problems" in read:
            state.unsettled.add(at)
            self._problem(folder.path + name, "; ".join(read["problems"]))
        return self._line(folder, name, read), ids

    def _read(self, folder: OpenFolder, at: int, name: bytes, facts: bytes) -> tuple[Fields | bytes, bytes]:
        """Return the line or the fields of a file, link or device, and the ids of its chunks, joined.

        Raises:
            OSError: the name was removed, or its ``stat`` fails.
        """
        if at in folder.state.others:
            return other_entry(folder.descriptor, name), b""
        try:
            device = folder.device if at in folder.state.linked else None
            return self._reader.file(folder.descriptor, name, facts, device)
        except OSError as error:
            if error.errno in GONE:
                raise
            return unreadable_entry(folder.descriptor, name, error.strerror or str(error)), b""

    def _line(self, folder: OpenFolder, name: bytes, fields: Fields) -> bytes:
        """Return the line of an entry; report extended attributes that make it too long, and omit them."""
        line = fields_line(fields)
        if len(line) > MAX_LINE:
            problems = [*fields.get("problems", []), "its extended attributes are too large to be saved"]
            self._problem(folder.path + name, problems[-1])
            line = fields_line(fields | {"xattrs": {}, "problems": problems})
        return line
