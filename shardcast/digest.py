"""Digests of payloads and shards (SHA-256, hex) and of pieces (BLAKE3, 32 bytes each)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

from blake3 import blake3

PIECE_DIGEST_SIZE = 32
"""Bytes of a piece's digest."""

_HEX_256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ZEROS = memoryview(bytes(1 << 18))

Buffer = bytes | bytearray | memoryview


class Hasher(Protocol):
    """The common interface of hash objects from hashlib and blake3."""

    def update(self, data: Buffer, /) -> object:
        """Hash the next bytes."""

    def hexdigest(self) -> str:
        """Return the digest of the bytes so far, in hex."""


def is_digest(text: object) -> bool:
    """Return whether a value is a 256-bit digest in lower-case hex."""
    return isinstance(text, str) and _HEX_256.fullmatch(text) is not None


def new_hasher(algorithm: str) -> Hasher:
    """Return a hasher, given the name in a manifest or a store: ``sha256``, ``blake3``, ``sha3-256``.

    Raises:
        ValueError: hashlib knows no such algorithm.
    """
    return blake3() if algorithm == "blake3" else hashlib.new(algorithm.replace("sha3-", "sha3_"))


def piece_digest(piece: Buffer) -> bytes:
    """Return the BLAKE3 digest of one piece."""
    return blake3(piece).digest()


@lru_cache(maxsize=16)
def zeros_digest(length: int) -> bytes:
    """Return the digest of a piece of zeros."""
    hasher, left = blake3(), length
    while left:
        count = min(left, len(_ZEROS))
        hasher.update(_ZEROS[:count])
        left -= count
    return hasher.digest()


def pieces_of(data: Buffer, piece_size: int) -> Iterator[memoryview]:
    """Yield the pieces of ``data``, without a copy; the last piece may be shorter."""
    view = memoryview(data)
    for start in range(0, len(view), piece_size):
        yield view[start : start + piece_size]


class PieceDigests:
    """The digests of a shard's pieces, from bytes in chunks of any length."""

    def __init__(self, piece_size: int) -> None:
        """Begin the first shard."""
        self._piece_size = piece_size
        self._digests = bytearray()
        self._open = blake3()
        self._length = 0  # of the piece that is open

    def update(self, data: Buffer) -> None:
        """Hash the next bytes of the shard."""
        view = memoryview(data)
        while view:
            part = view[: self._piece_size - self._length]
            self._open.update(part)
            self._length += len(part)
            if self._length == self._piece_size:
                self._close()
            view = view[len(part) :]

    def _close(self) -> None:
        """End a piece."""
        self._digests += self._open.digest()
        self._open = blake3()
        self._length = 0

    def finish(self) -> bytes:
        """End a shard, and return the joined digests of its pieces, 32 bytes each."""
        if self._length:
            self._close()
        digests = bytes(self._digests)
        self._digests.clear()
        return digests
