"""Packs: files of many encoded chunks with an index at the end.

::

    magic | encoded chunks | index: for each a 32-byte id, u32 LE length | u32 LE length of the index | magic
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import NamedTuple

from shardcast.backup.ids import ID_SIZE, MAX_ENCODED
from shardcast.digest import Buffer
from shardcast.errors import IntegrityError

MAGIC = b"SCPACK1\n"
PACK_SIZE = 16 << 20
"""Bytes after which a pack is finished."""
MAX_PACK = 32 << 20
"""Maximum bytes of a pack; the server refuses larger packs."""
FOOTER_SIZE = 4 + len(MAGIC)
"""Bytes behind the index."""
_RECORD = struct.Struct(f"<{ID_SIZE}sI")
_LENGTH = struct.Struct("<I")
MAX_CHUNKS = 1 << 16
"""Maximum chunks of one pack: bounds the memory of its index."""


class PackedChunk(NamedTuple):
    """A chunk of a pack.

    Attributes:
        id: the chunk's id.
        offset: of the encoded chunk in the pack.
        length: bytes of the encoded chunk.
    """

    id: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Pack:
    """A finished pack.

    Attributes:
        data: the bytes.
        sha256: digest of the bytes in hex, the name of the stored file.
        chunks: the chunks in order.
    """

    data: Buffer
    sha256: str
    chunks: list[PackedChunk]


class PackWriter:
    """A writer that fills a pack."""

    def __init__(self) -> None:
        self._data = bytearray(MAGIC)
        self._chunks: list[PackedChunk] = []

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def size(self) -> int:
        """Bytes so far, without the index."""
        return len(self._data)

    @property
    def is_full(self) -> bool:
        """Whether the pack has reached the size of a finished one."""
        count = len(self._chunks)
        return len(self._data) + count * _RECORD.size >= PACK_SIZE or count >= MAX_CHUNKS

    def add(self, chunk: bytes, encoded: bytes) -> None:
        """Add an encoded chunk.

        Args:
            chunk: the chunk's id.
            encoded: the bytes returned by ``encode_chunk``.
        """
        self._chunks.append(PackedChunk(chunk, len(self._data), len(encoded)))
        self._data += encoded

    def finish(self) -> Pack:
        """Return the pack with its index; afterwards no chunk can be added."""
        index = b"".join(_RECORD.pack(chunk.id, chunk.length) for chunk in self._chunks)
        self._data += index + _LENGTH.pack(len(index)) + MAGIC
        return Pack(self._data, hashlib.sha256(self._data).hexdigest(), self._chunks)


def index_length(footer: Buffer, size: int) -> int:
    """Return the length of a pack's index; the index lies right before the footer.

    Args:
        footer: the last ``FOOTER_SIZE`` bytes of the pack.
        size: bytes of the pack.

    Raises:
        IntegrityError: the bytes are no footer of a pack of this size.
    """
    if len(footer) != FOOTER_SIZE or bytes(footer[_LENGTH.size :]) != MAGIC or size > MAX_PACK:
        raise IntegrityError(f"the file is no pack of at most {MAX_PACK} bytes, or is truncated")
    (length,) = _LENGTH.unpack(footer[: _LENGTH.size])
    if length % _RECORD.size or length > min(MAX_CHUNKS * _RECORD.size, size - len(MAGIC) - FOOTER_SIZE):
        raise IntegrityError(f"a pack of {size} bytes has an index of {length} bytes")
    return int(length)


def parse_index(head: Buffer, tail: Buffer, size: int) -> list[PackedChunk]:
    """Return the chunks of a pack.

    Args:
        head: the first bytes of the pack: at least the magic.
        tail: the last bytes of the pack: at least the index and footer.
        size: bytes of the pack.

    Raises:
        IntegrityError: these are not the ends of a pack of this size.
    """
    length = index_length(tail[-FOOTER_SIZE:], size)
    if bytes(head[: len(MAGIC)]) != MAGIC or len(tail) < length + FOOTER_SIZE:
        raise IntegrityError("the file is no pack, or its index is truncated")
    found, offset = [], len(MAGIC)
    for chunk, count in _RECORD.iter_unpack(tail[len(tail) - FOOTER_SIZE - length : len(tail) - FOOTER_SIZE]):
        if not 1 <= count <= MAX_ENCODED:
            raise IntegrityError(f"a pack names a chunk of {count} bytes")
        found.append(PackedChunk(chunk, offset, count))
        offset += count
    if offset + length + FOOTER_SIZE != size:
        raise IntegrityError(f"a pack of {size} bytes names chunks of {offset - len(MAGIC)} bytes")
    return found
