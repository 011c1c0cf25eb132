"""The SHA-256 of a part of an open file."""

from __future__ import annotations

import os
from hashlib import sha256

from shardcast.errors import IntegrityError

_CHUNK = 1 << 20
"""Bytes read at a time."""


def has_digest(descriptor: int, offset: int, size: int, digest: str) -> bool:
    """Return whether bytes of an open file have a SHA-256; False for a file that ends before them.

    Args:
        descriptor: the file.
        offset: the first byte.
        size: the number of bytes.
        digest: in hex.

    Raises:
        OSError: the bytes can't be read.
    """
    hasher, end = sha256(), offset + size
    buffer = memoryview(bytearray(min(size, _CHUNK) or 1))
    while offset < end:
        count = os.preadv(descriptor, [buffer[: min(len(buffer), end - offset)]], offset)
        if not count:
            return False
        hasher.update(buffer[:count])
        offset += count
    return hasher.hexdigest() == digest


def wrong_shard(version: str, number: int) -> IntegrityError:
    """Return the error for a shard with right pieces and a SHA-256 other than in the manifest."""
    return IntegrityError(
        f"{version} shard {number}: its bytes have another SHA-256 than in the manifest; nothing was kept "
        "under a final name; name other servers, or broadcast it again"
    )
