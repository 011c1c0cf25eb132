"""Files, links and devices of an open folder ─▶ the fields of their entries, and their chunks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from shardcast.backup.attributes import has_xattrs, read_attributes
from shardcast.backup.chunking import ONE_CHUNK, cut_chunks
from shardcast.backup.client.folder_cache import FACTS
from shardcast.backup.client.plain_lines import is_plain, is_sparse, plain_line
from shardcast.backup.entries import SavedKind
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.listings import INLINE_IDS, cut_chunk_list
from shardcast.digest import Buffer
from shardcast.file_identity import WORD

CHANGED = "changed while read"
UNREADABLE = "unreadable"
GONE = (errno.ENOENT, errno.ENOTDIR)
"""Errors of a name removed since its folder was listed."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_REMEMBERED = 10_000
"""Files of several names whose chunks are remembered."""

TakeChunk = Callable[[ChunkKind, bytes, Buffer], None]
"""Takes a chunk to send: kind, id and bytes."""
Fields = dict[str, Any]
"""Fields of an entry, as ``entries.json_fields`` takes them."""


class ChunkingReader:
    """A reader of files that cuts them into chunks.

    Attributes:
        bytes: bytes of the files read so far.
    """

    def __init__(self, key: bytes, take: TakeChunk) -> None:
        """Read nothing yet.

        Args:
            key: the key of ids.
            take: called with each chunk.
        """
        self.bytes = 0
        self._key = key
        self._take = take
        self._remembered: dict[tuple[int, bytes], tuple[Fields, bytes]] = {}

    def file(
        self, folder: int, name: bytes, facts: bytes, device: int | None = None
    ) -> tuple[Fields | bytes, bytes]:
        """Read a file; return the line or the fields of its entry, and the ids of its chunks, joined.

        A file that changes meanwhile is read once more; if this happens again, its fields have a problem.

        Args:
            folder: descriptor of the folder.
            name: the file's name.
            facts: the file's ``FACTS`` when the folder was listed.
            device: of the folder, for a file with several names: the bytes are read under the first name
                only.

        Raises:
            OSError: the file was removed or replaced by another kind, or cannot be read.
            PeerError, UploadRefused: an earlier chunk could not be sent.
        """
        if device is not None and (known := self._remembered.get((device, facts))):
            return {**known[0], "name": name}, known[1]
        expected = facts
        found, ids, seen = self._read(folder, name, expected)
        if seen != expected:
            expected = seen
            found, ids, seen = self._read(folder, name, expected)
        if isinstance(found, dict):
            if seen != expected:
                found.setdefault("problems", []).append(CHANGED)
            elif device is not None and len(self._remembered) < _MAX_REMEMBERED:
                self._remembered[device, facts] = found, ids
        return found, ids

    def stream(self, read: Callable[[int], Buffer]) -> tuple[Fields, bytes]:
        """Read a stream to the end; return the fields of a file with its bytes, and the ids of its chunks."""
        chunks: list[tuple[bytes, int]] = []
        for chunk in cut_chunks(read):
            chunks.append((self._chunk(ChunkKind.DATA, chunk), len(chunk)))
            self.bytes += len(chunk)
        return self._content(chunks)

    def _read(self, folder: int, name: bytes, expected: bytes) -> tuple[Fields | bytes, bytes, bytes]:
        """Read a file; return the fields, the ids, and the file's ``FACTS`` afterwards.

        A small plain file with the expected facts gets a line instead of fields.
        """
        descriptor = os.open(name, _FLAGS, dir_fd=folder)
        try:
            size = FACTS.unpack(expected)[0]
            # One byte more shows a file that grew; a buffer of 512 KiB would cost more than a small file's
            # bytes.
            data = os.read(descriptor, min(size, ONE_CHUNK) + 1)
            if len(data) == size <= ONE_CHUNK:
                found = os.fstat(descriptor)
                if facts_of(found) == expected and is_plain(found) and not has_xattrs(descriptor):
                    chunk = self._only_chunk(data)
                    return plain_line(name, chunk, found), chunk, expected
                fields, ids = self._one_chunk(data)
            else:
                fields, ids = self.stream(_continued(data, descriptor))
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(errno.ENOENT, "it is no file any more")
            fields |= read_attributes(folder, name, found, descriptor=descriptor)
        finally:
            os.close(descriptor)
        fields["name"] = name
        if is_sparse(found, fields["size"]):
            fields["sparse"] = True
        if found.st_nlink > 1:
            fields["hard"] = f"{found.st_dev}:{found.st_ino}"
        return fields, ids, facts_of(found)

    def _one_chunk(self, data: bytes) -> tuple[Fields, bytes]:
        """Return the fields and the id of a small file; no id for an empty one."""
        chunk = self._only_chunk(data)
        return {"kind": "file", "size": len(data), "chunks": (chunk,) if chunk else ()}, chunk

    def _only_chunk(self, data: bytes) -> bytes:
        """Hand on the bytes of a small file, and return their id; no id for an empty file."""
        self.bytes += len(data)
        return self._chunk(ChunkKind.DATA, data) if data else b""

    def _content(self, chunks: list[tuple[bytes, int]]) -> tuple[Fields, bytes]:
        """Return the fields of a file of these chunks, and all ids needed, those of chunk lists first."""
        fields: Fields = {"kind": "file", "size": sum(size for _, size in chunks)}
        lists: list[bytes] = []
        ids = [chunk for chunk, _ in chunks]
        if len(chunks) > INLINE_IDS:
            lists = [self._chunk(ChunkKind.LISTING, piece) for piece in cut_chunk_list(chunks)]
            fields |= {"chunk_lists": lists, "listed": len(ids)}
        else:
            fields["chunks"] = ids
            if len(chunks) > 1:
                fields["sizes"] = [size for _, size in chunks]
        return fields, b"".join((*lists, *ids))

    def _chunk(self, kind: ChunkKind, data: Buffer) -> bytes:
        """Hand on a chunk for sending, and return the chunk's id."""
        found = chunk_id(self._key, kind, data)
        self._take(kind, found, data)
        return found


def other_entry(folder: int, name: bytes) -> Fields:
    """Return the fields of a link, a named pipe or a device.

    Raises:
        OSError: the entry was removed, or replaced by another kind.
    """
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        raise FileNotFoundError(errno.ENOENT, "it is something else by now")
    fields: Fields = {"name": name, "kind": kind.value}
    if kind is SavedKind.LINK:
        fields["target"] = os.readlink(name, dir_fd=folder)
    elif kind is not SavedKind.FIFO:
        fields["device"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    if found.st_nlink > 1:
        fields["hard"] = f"{found.st_dev}:{found.st_ino}"
    return fields | read_attributes(folder, name, found)


def unreadable_entry(folder: int, name: bytes, why: str) -> Fields:
    """Return the fields of an unreadable file.

    Raises:
        OSError: ``stat`` fails as well.
    """
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    fields: Fields = {
        "name": name,
        "kind": "file",
        "size": found.st_size,
        "problems": [f"{UNREADABLE}: {why}"],
    }
    fields |= {"mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}
    return fields | {"mtime": found.st_mtime_ns}


def facts_of(found: os.stat_result) -> bytes:
    """Return the facts that identify an unchanged file."""
    return FACTS.pack(found.st_size, found.st_mtime_ns & WORD, found.st_ctime_ns & WORD, found.st_ino)


def _continued(first: bytes, descriptor: int) -> Callable[[int], Buffer]:
    """Return a function that returns the first bytes of a file, then reads on."""
    begun = [first]

    def read(count: int) -> Buffer:
        if begun and len(begun[0]) <= count:
            return begun.pop() or os.read(descriptor, count)
        return os.read(descriptor, count)

    return read


_KINDS = {
    stat.S_IFLNK: SavedKind.LINK,
    stat.S_IFIFO: SavedKind.FIFO,
    stat.S_IFCHR: SavedKind.CHAR,
    stat.S_IFBLK: SavedKind.BLOCK,
}
