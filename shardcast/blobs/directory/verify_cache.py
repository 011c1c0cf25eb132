"""Which files were verified, told by what they looked like then."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from shardcast.blobs.directory.hashing import Hashing
from shardcast.file_identity import FileIdentity

MOST_VERIFIED = 100_000
"""Files that are remembered; some 300 bytes each, and another 100 for a seal."""
WORTH_A_SEAL = 4 << 20
"""Bytes of a file from which on it has one."""


class VerifiedFile(NamedTuple):
    """What is known of a file that was verified.

    Attributes:
        length: bytes of its blob, decoded.
        seal: the BLAKE3 digest of its own bytes, which tells in a fraction of the time whether they are still
            the same. None as long as it wasn't made: when a file is read for the second time.
    """

    length: int
    seal: str | None = None


class VerifiedFiles:
    """What verified files looked like: device, inode, size, mtime, ctime. A file that looks otherwise, or
    that was forgotten, is verified again.

    Threads and the event loop change ``_known``, an entry in one step each; what was there a moment ago need
    not be there any more.

    Attributes:
        hashing: where files are verified.
    """

    def __init__(self, most: int = MOST_VERIFIED) -> None:
        self._most = most
        self._known: dict[bytes, VerifiedFile] = {}
        self.hashing = Hashing()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, digest: str, looks: os.stat_result, found: VerifiedFile) -> None:
        """The file that looks like this has, decoded, this digest."""
        if len(self._known) >= self._most:  # the older half goes at once: one by one would walk over the gaps
            for key in list(islice(self._known, self._most // 2 + 1)):
                self._known.pop(key, None)  # another thread may make room at the same time
        self._known[_key(digest, looks)] = found

    def seal(self, digest: str, looks: os.stat_result, seal: str) -> None:
        """The file that looks like this has this seal, if it is known."""
        key = _key(digest, looks)
        known = self._known.get(key)
        if known is not None:
            self._known[key] = known._replace(seal=seal)

    def forget(self, digest: str, looks: os.stat_result) -> None:
        self._known.pop(_key(digest, looks), None)

    def known(self, digest: str, looks: os.stat_result) -> VerifiedFile | None:
        """What is known of a file that looks like this; None where it wasn't verified."""
        return self._known.get(_key(digest, looks))

    async def together(
        self, digest: str, looks: os.stat_result, begin: Callable[[], asyncio.Future[VerifiedFile | None]]
    ) -> VerifiedFile | None:
        """What comes of verifying a file that looks like this: done once for all who want it at a time, and
        given up when the last of them has gone. ``begin`` does it; None says that it is wrong."""
        return await self.hashing.once(_key(digest, looks), begin)


def _key(digest: str, found: os.stat_result) -> bytes:
    return bytes.fromhex(digest) + struct.pack("<QqqQq", *FileIdentity.from_stat(found))
