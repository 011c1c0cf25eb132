"""Verified files, recognised by their stat results at that time."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from shardcast.blobs.directory.hashing import HashingPool
from shardcast.file_identity import FileIdentity

MAX_VERIFIED = 100_000
"""Files remembered; some 300 bytes of memory each, and another 100 for a seal."""
MIN_SEALED_SIZE = 4 << 20
"""Bytes of the smallest file with a seal."""


class VerifiedFile(NamedTuple):
    """The record of a verified file.

    Attributes:
        length: bytes of its blob, decoded.
        seal: the BLAKE3 digest of the file's bytes, for verifying them again in a fraction of the time. None
            until the second read of the file.
    """

    length: int
    seal: str | None = None


class VerifyCache:
    """The verified files, by digest and by device, inode, size, mtime and ctime.

    A file with another stat result, or a forgotten one, is verified again. Threads and the event loop change
    ``_known`` without a lock, an entry in one step each; so an entry may vanish between two steps.

    Attributes:
        hashing: threads for verifying files.
    """

    def __init__(self, max_files: int = MAX_VERIFIED) -> None:
        self._most = max_files
        self._known: dict[bytes, VerifiedFile] = {}
        self.hashing = HashingPool()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, digest: str, stat_result: os.stat_result, found: VerifiedFile) -> None:
        """Remember the file with this stat result as verified: decoded, it holds this blob.

        When the cache is full, the older half is forgotten.
        """
        if len(self._known) >= self._most:
            # The older half at once: finding the first entry each time would walk over the removed ones.
            for key in list(islice(self._known, self._most // 2 + 1)):
                self._known.pop(key, None)  # another thread may make room at the same time
        self._known[_key(digest, stat_result)] = found

    def set_seal(self, digest: str, stat_result: os.stat_result, seal: str) -> None:
        """Remember the seal of a file, if the file is known."""
        key = _key(digest, stat_result)
        known = self._known.get(key)
        if known is not None:
            self._known[key] = known._replace(seal=seal)

    def forget(self, digest: str, stat_result: os.stat_result) -> None:
        """Have a file verified again at the next read."""
        self._known.pop(_key(digest, stat_result), None)

    def get(self, digest: str, stat_result: os.stat_result) -> VerifiedFile | None:
        """Return the record of the file with this stat result; None if not verified."""
        return self._known.get(_key(digest, stat_result))

    async def verify_shared(
        self,
        digest: str,
        stat_result: os.stat_result,
        begin: Callable[[], asyncio.Future[VerifiedFile | None]],
    ) -> VerifiedFile | None:
        """Return the result of verifying a file, shared by concurrent callers; None for a wrong file.

        ``begin`` starts the verification; cancelling the last caller cancels it.
        """
        return await self.hashing.run_shared(_key(digest, stat_result), begin)


def _key(digest: str, found: os.stat_result) -> bytes:
    """Return a compact key of a file and its stat result: 72 bytes."""
    return bytes.fromhex(digest) + struct.pack("<5Q", *FileIdentity.words(found))
