"""A file that may hold a blob: opening, verifying and reading it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from shardcast.blobs.directory.compression import DigestCheck, MalformedCoding, decoder
from shardcast.blobs.directory.hashing import HashingPool
from shardcast.blobs.directory.incoming_folder import MAX_INLINE_SIZE
from shardcast.blobs.directory.verify_cache import VerifiedFile, VerifyCache
from shardcast.disk_errors import disk_errors
from shardcast.errors import BlobCorrupt
from shardcast.file_identity import FileIdentity
from shardcast.open_files import close
from shardcast.store.file_errors import UnreadableFile, file_errors, is_absent
from shardcast.store.interfaces import Span

PORTION = 16 << 20
"""Bytes hashed in one job; a cancelled hash ends after its job."""
_CHUNK = 1 << 20


class BlobFile:
    """An open file; its content is not verified. A context to close the file.

    Attributes:
        path: path.
        coding: coding; None for a file with a blob's bytes unchanged.
        descriptor: descriptor.
        size: bytes at the opening.
        stat_result: stat result at the opening.
        length: bytes of the blob, decoded; None for unknown.
        seal: see ``VerifiedFile``; None for unknown.
    """

    def __init__(self, path: str, coding: str | None, descriptor: int) -> None:
        self.path, self.coding, self.descriptor = path, coding, descriptor
        self.stat_result = os.fstat(descriptor)
        self.size = self.stat_result.st_size
        self.length: int | None = None if coding else self.size
        self.seal: str | None = None

    @classmethod
    def open(cls, path: str, coding: str | None) -> Self | None:
        """Open a file; return None for a missing one.

        Raises:
            UnreadableFile: the file cannot be opened, for a reason of this file alone.
            LocalDiskError: the file cannot be opened, for another reason.
        """
        try:
            # O_NONBLOCK: else opening a pipe waits for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if is_absent(error):
                return None
            with file_errors("could not open", path):
                raise
        try:
            with file_errors("could not look at", path):
                return cls(path, coding, descriptor)
        except BaseException:
            close(descriptor)
            raise

    @property
    def is_regular(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.stat_result.st_mode)

    @property
    def is_changed(self) -> bool:
        """Whether the file has changed since its opening."""
        return FileIdentity.from_stat(self.stat_result) != FileIdentity.from_stat(os.fstat(self.descriptor))

    def read_all(self) -> bytes:
        """Return all bytes, and one more of a grown file, to fail its verification.

        Raises:
            LocalDiskError: the file cannot be read.
        """
        with file_errors("could not read", self.path):
            return os.pread(self.descriptor, self.size + 1, 0)

    def read_small(self, max_size: int) -> bytes | None:
        """Return the blob's bytes, unverified.

        Returns:
            None where they are too many or can't be decoded, or where this is no regular file.

        Raises:
            LocalDiskError: the file can't be read.
        """
        if not self.is_regular or (self.coding is None and self.size > max_size):
            return None
        if self.coding is None:
            return self.read_all()
        data = bytearray()
        try:
            for part in self.decoded():
                data += part
                if len(data) > max_size:
                    return None
        except MalformedCoding:
            return None
        return bytes(data)

    def read(self, check: DigestCheck, position: int, end: int, ahead: bool = False) -> int:
        """Have ``check`` take the bytes from ``position`` to ``end``; see ``DigestCheck.read``.

        Raises:
            MalformedCoding: the bytes are not of the file's coding.
            LocalDiskError: the file can't be read.
        """
        with file_errors("could not read", self.path):
            return check.read(self.descriptor, position, end, ahead)

    def decoded(self) -> Iterator[bytes]:
        """Yield the blob's bytes, in parts; blocks on the disk.

        Raises:
            MalformedCoding: the file is not of its coding, or not whole.
            LocalDiskError: the file cannot be read.
        """
        decoding, position = decoder(self.coding), 0
        while True:
            with file_errors("could not read", self.path):
                data = os.pread(self.descriptor, _CHUNK, position)
            if not data:
                break
            position += len(data)
            yield from decoding.decode(data)
        decoding.finish()

    def decoded_length(self) -> int:
        """Return the number of bytes of the blob; blocks on the disk.

        Those of a coded file are counted by decoding the file once.

        Raises:
            BlobCorrupt: the file cannot be decoded, or not read for a reason of this file alone.
            LocalDiskError: the file cannot be read for another reason.
        """
        if self.length is None:
            try:
                self.length = sum(len(part) for part in self.decoded())
            except (MalformedCoding, UnreadableFile) as error:
                raise BlobCorrupt(f"{self.path}: {error}; put the blob again to repair it") from None
        return self.length

    def reader(self, digest: str) -> FileReader:
        """Return a reader of the verified blob in the file."""
        return FileReader(self, digest)

    def duplicate(self) -> BlobFile:
        """Return the same file with a descriptor of its own, to be closed by the caller.

        Raises:
            LocalDiskError: no descriptors are left.
        """
        with disk_errors("could not open", self.path):
            return BlobFile(self.path, self.coding, os.dup(self.descriptor))

    def close(self) -> None:
        """Close the file, once."""
        if self.descriptor >= 0:
            close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FileReader:
    """Reader of a verified blob (a ``BlobReader``); the file stays its opener's to close."""

    def __init__(self, file: BlobFile, digest: str) -> None:
        self.size = file.decoded_length()
        self.span = None if file.coding else Span(Path(file.path), 0, self.size, digest)
        self._file = file
        self._parts = file.decoded() if file.coding else None
        self._rest = b""
        self._position = 0

    async def read(self, max_bytes: int) -> bytes:
        """Return the next bytes, at most ``max_bytes``; empty at the end.

        Raises:
            BlobCorrupt: the file changed, and can't be decoded any more.
            LocalDiskError: the file can't be read.
        """
        data = (
            self._next(max_bytes)
            if max_bytes <= MAX_INLINE_SIZE and not self._parts
            else await asyncio.to_thread(self._next, max_bytes)
        )
        self._position += len(data)
        return data

    def _next(self, most: int) -> bytes:
        """Read or decode the next bytes; blocks on the disk."""
        if self._parts is None:
            with file_errors("could not read", self._file.path):
                return os.pread(self._file.descriptor, most, self._position)
        if not self._rest:
            try:
                self._rest = next(self._parts, b"")
            except MalformedCoding as error:
                raise BlobCorrupt(f"{self._file.path}: {error}; the file changed while being read") from None
        data, self._rest = self._rest[:most], self._rest[most:]
        return data


async def verify(verified: VerifyCache, algorithm: str, digest: str, file: BlobFile) -> bool:
    """Return whether a file holds this blob: by an earlier verification, or by hashing all of it now.

    Concurrent callers share the hashing of a large file. The ``length`` and ``seal`` of a right file are set.

    Raises:
        UnreadableFile: the file cannot be read, for a reason of this file alone.
        LocalDiskError: the file cannot be read, for another reason.
    """
    if not file.is_regular:
        return False
    known = verified.get(digest, file.stat_result)
    if known is None:
        if _is_small(file):
            known = await _look_into(algorithm, digest, file, verified.hashing)
        else:
            known = await verified.verify_shared(
                digest, file.stat_result, lambda: _begin_hashing(algorithm, digest, file, verified.hashing)
            )
        if known is None:
            return False
        verified.add(digest, file.stat_result, known)
    file.length, file.seal = known
    return True


def _is_small(file: BlobFile) -> bool:
    """Return whether hashing a file here takes less time than starting a thread's work."""
    return file.size <= MAX_INLINE_SIZE and file.coding is None


def _begin_hashing(
    algorithm: str, digest: str, file: BlobFile, hashing: HashingPool
) -> asyncio.Future[VerifiedFile | None]:
    """Hash a file for several callers; the descriptor is its own, since the first may leave early."""
    own = file.duplicate()
    task = asyncio.ensure_future(_look_into(algorithm, digest, own, hashing))
    task.add_done_callback(lambda _: own.close())
    return task


async def _look_into(
    algorithm: str, digest: str, file: BlobFile, hashing: HashingPool
) -> VerifiedFile | None:
    """Hash a file, and return its record, or None for another blob or a change meanwhile."""
    check, position = DigestCheck(algorithm, file.coding), 0
    try:
        while position < file.size:
            end = min(file.size, position + PORTION)
            reach = (
                file.read(check, position, end)
                if _is_small(file)
                else await hashing.run(file.read, check, position, end, True)
            )
            if reach < end:
                return None
            position = reach
        right = check.finish() == digest
    except MalformedCoding:
        return None
    return VerifiedFile(check.length) if right and not file.is_changed else None
