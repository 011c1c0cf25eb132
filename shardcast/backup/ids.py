"""Ids of chunks: keyed digests, so equal bytes of two clients have different ids."""

from __future__ import annotations

from enum import Enum

from blake3 import blake3

from shardcast.digest import Buffer

ID_SIZE = 32
"""Bytes of an id."""
KEY_SIZE = 32
"""Bytes of the key of a client's ids."""
MAX_CHUNK = 8 << 20
"""Bytes of a chunk before encoding."""
MAX_ENCODED = MAX_CHUNK + 1
"""Bytes of an encoded chunk: a chunk that compression would enlarge stays plain, behind one byte."""
_COPIED = 16 << 10
"""Bytes up to which a chunk is copied behind its kind, since two calls of the digest cost more."""


class ChunkKind(bytes, Enum):
    """Kinds of chunks; the value is hashed before the bytes."""

    DATA = b"d"
    LISTING = b"l"


def chunk_id(key: bytes, kind: ChunkKind, data: Buffer) -> bytes:
    """Return the id of a chunk: BLAKE3, keyed, of the kind's byte and the plain bytes."""
    if len(data) <= _COPIED:
        return blake3(b"".join((kind, data)), key=key).digest()
    hasher = blake3(kind, key=key)
    hasher.update(data)
    return hasher.digest()
