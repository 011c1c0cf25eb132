"""Digests: of payloads and shards (SHA-256, hex) and of pieces (BLAKE3, 32 bytes each)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Protocol

from blake3 import blake3

PIECE_DIGEST_SIZE = 32
"""Bytes of a piece's digest."""

_HEX_256 = re.compile(r"[0-9a-f]{64}", re.ASCII)

Buffer = bytes | bytearray | memoryview


class Hasher(Protocol):
    """What hashlib's objects and blake3's have in common."""

    def update(self, data: Buffer, /) -> object: ...
    def hexdigest(self) -> str: ...


def is_digest(text: object) -> bool:
    """Whether this is a 256-bit digest in lower-case hex."""
    return isinstance(text, str) and _HEX_256.fullmatch(text) is not None


def new_hasher(algorithm: str) -> Hasher:
    """A hasher by its name in a manifest or a store: ``sha256``, ``blake3``, ``sha3-256``."""
    return blake3() if algorithm == "blake3" else hashlib.new(algorithm.replace("sha3-", "sha3_"))


def piece_digest(piece: Buffer) -> bytes:
    """The BLAKE3 digest of one piece."""
    return blake3(piece).digest()


def pieces_of(data: Buffer, piece_size: int) -> Iterator[memoryview]:
    """``data`` cut into pieces; the last one may be shorter."""
    view = memoryview(data)
    for start in range(0, len(view), piece_size):
        yield view[start : start + piece_size]


class PieceDigests:
    """The digests of the pieces of one shard, whose bytes come in chunks of any length."""

    def __init__(self, piece_size: int) -> None:
        self._piece_size = piece_size
        self._digests = bytearray()
        self._open = blake3()
        self._length = 0  # of the piece that is open

    def update(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            part = view[: self._piece_size - self._length]
            self._open.update(part)
            self._length += len(part)
            if self._length == self._piece_size:
                self._close()
            view = view[len(part) :]

    def _close(self) -> None:
        self._digests += self._open.digest()
        self._open = blake3()
        self._length = 0

    def finish(self) -> bytes:
        """The digests one after another, 32 bytes each; begins anew with the next shard."""
        if self._length:
            self._close()
        digests = bytes(self._digests)
        self._digests.clear()
        return digests
