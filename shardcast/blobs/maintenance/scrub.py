"""Verification of all blobs of a directory, and repair or quarantine of the wrong ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shardcast.blobs.directory.compression import DigestCheck, MalformedCoding
from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.directory.incoming_folder import MAX_INLINE_SIZE
from shardcast.blobs.directory.layout import SUFFIXES, Folder
from shardcast.blobs.directory.lookup import FORMS
from shardcast.blobs.directory.quarantine import Quarantine, QuarantinedFile
from shardcast.blobs.directory.stat import forms_of
from shardcast.errors import LocalDiskError
from shardcast.policy.byte_limit import Schedule
from shardcast.store.file_errors import UnreadableFile


class Outcome(StrEnum):
    """The fate of a wrong file."""

    REPAIRED = "repaired"
    """The right bytes replaced the wrong ones, or lie beside them."""
    SET_ASIDE = "set aside"
    """Moved to quarantine."""
    LEFT = "left"
    """Left in its place."""
    UNREADABLE = "unreadable"
    """Not readable at all."""


Repair = Callable[[str], Awaitable[str | None]]
"""Puts a blob's right bytes into the store, and returns their source, or None where no server gave them.

Raises LocalDiskError if they can't be stored.
"""

_PORTION = 8 << 20
"""Bytes hashed in one job; a cancelled scrub ends after its job."""
_TRIES = 5
"""Attempts at a file changed by other processes meanwhile."""
_MOST_CREDIT = 1.0
"""Maximum seconds of unused rate available later."""


@dataclass(frozen=True, slots=True)
class ScrubFinding:
    """An unreadable file, or one whose bytes have another digest than its name.

    Attributes:
        digest: the blob of its name.
        path: the file.
        reason: the error, or the actual digest.
        outcome: its fate.
        detail: the source of the right bytes, the file in quarantine, or the reason for leaving the file.
    """

    digest: str
    path: str
    reason: str
    outcome: Outcome
    detail: str = ""


class RateLimiter:
    """A limiter of the rate of reading, in bytes."""

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Hold ``rate`` bytes a second, or any rate where None; ``clock`` is monotonic."""
        self._schedule = None if rate is None else Schedule(rate, clock(), _MOST_CREDIT)
        self._clock, self._sleep = clock, sleep

    async def account(self, count: int) -> None:
        """Account for ``count`` read bytes, and wait until more may be read."""
        if self._schedule is None:
            return
        now = self._clock()
        self._schedule.reserve(count, now)
        if seconds := self._schedule.seconds_ahead(now):
            await self._sleep(seconds)


class Scrub:
    """A run over a directory that reads and hashes every blob, beside the directory's users.

    Attributes:
        folder: the directory.
        blobs: number of read files so far.
        bytes: read bytes so far.
        unknown: files of a coding unknown here.
    """

    def __init__(
        self,
        folder: Folder,
        algorithm: str,
        *,
        quarantine: Quarantine | None = None,
        repair: Repair | None = None,
        pace: RateLimiter | None = None,
    ) -> None:
        """Verify the blobs of ``folder``, by ``algorithm``.

        Args:
            folder: the directory.
            algorithm: the digest of its blobs.
            quarantine: takes wrong files without a repair; without it they are left.
            repair: fetches the right bytes; without it nothing is repaired.
            pace: the limiter of the rate; by default none.
        """
        self.blobs = self.bytes = self.unknown = 0
        self.folder, self._algorithm = folder, algorithm
        self._quarantine, self._repair = quarantine, repair
        self._pace = pace or RateLimiter(None)

    async def run(self) -> AsyncGenerator[ScrubFinding, None]:
        """Yield a finding for each wrong or unreadable file, after dealing with it.

        First come the blobs in quarantine and absent from the directory: their repair is tried again.

        Raises:
            LocalDiskError: the directory or the quarantine can't be read.
        """
        async for aside in self._retry_quarantined():
            yield aside
        batches = self.folder.entries()
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            for digest in batch:
                for coding in (None, *SUFFIXES):
                    found = await self._verify(digest, coding)
                    if found is not None:
                        yield found

    async def _retry_quarantined(self) -> AsyncIterator[ScrubFinding]:
        """Try to repair the blobs set aside before and still absent, and yield each."""
        if self._quarantine is None:
            return
        await asyncio.to_thread(self._quarantine.finish_interrupted)
        entries = await asyncio.to_thread(_by_digest, self._quarantine)
        for digest, aside in entries.items():
            if await asyncio.to_thread(forms_of, self.folder, digest):
                continue
            try:
                source = await self._repair(digest) if self._repair else None
                detail = aside.file
            except LocalDiskError as error:
                source, detail = None, f"{aside.file}; {error}"
            yield ScrubFinding(
                digest,
                aside.was,
                aside.reason,
                Outcome.REPAIRED if source else Outcome.SET_ASIDE,
                source or detail,
            )

    async def _verify(self, digest: str, coding: str | None) -> ScrubFinding | None:
        """Verify a file of a blob; repair or set aside a wrong file, and return the finding.

        Returns:
            None for a right file, a missing one, and one of a coding unknown here, which is counted.
        """
        path = self.folder.path(digest, coding)
        if coding not in FORMS:
            self.unknown += Path(path).exists()
            return None
        counted = unreadable = False
        for _ in range(_TRIES):
            try:
                file = BlobFile.open(path, coding)
            except LocalDiskError as error:
                source = await self._try_repair(digest) if isinstance(error, UnreadableFile) else None
                return ScrubFinding(
                    digest, path, str(error), Outcome.REPAIRED if source else Outcome.UNREADABLE, source or ""
                )
            if file is None:
                return None
            with file:
                self.blobs += not counted
                counted = True
                try:
                    reason = await self._find_fault(digest, file)
                except UnreadableFile as error:
                    if not unreadable:  # an error of a disk or a network may have passed
                        unreadable = True
                        continue
                    reason = f"the disk can't read it ({getattr(error.__cause__, 'strerror', error)})"
                except LocalDiskError as error:
                    return ScrubFinding(digest, path, str(error), Outcome.UNREADABLE)
                if reason is None:
                    return None
                if file.is_changed:
                    continue
                found = await self._repair_or_set_aside(digest, file, reason)
                if found is not None:
                    return found
        return ScrubFinding(digest, path, "it changes all the time", Outcome.UNREADABLE)

    async def _try_repair(self, digest: str) -> str | None:
        """Repair a blob whose file can't be opened, and return the source of the right bytes.

        Returns:
            None without a repairer, and where the right bytes were not found or can't be stored.
        """
        try:
            return await self._repair(digest) if self._repair else None
        except LocalDiskError:
            return None

    async def _find_fault(self, digest: str, file: BlobFile) -> str | None:
        """Hash a file, and return its difference from this blob in words, or None without one.

        Raises:
            LocalDiskError: the file can't be read.
        """
        if not file.is_regular:
            return "it is no file"
        check, position = DigestCheck(self._algorithm, file.coding), 0
        try:
            while position < file.size:
                end = min(file.size, position + _PORTION)
                if file.size <= MAX_INLINE_SIZE:
                    reach = file.read(check, position, end)
                else:
                    reach = await asyncio.to_thread(file.read, check, position, end)
                self.bytes += reach - position
                await self._pace.account(reach - position)
                if reach < end:
                    return "it became shorter while being read"
                position = reach
            actual = check.finish()
        except MalformedCoding as error:
            return str(error)
        return None if actual == digest else f"its digest is {actual}, of {check.length} bytes"

    async def _repair_or_set_aside(self, digest: str, file: BlobFile, reason: str) -> ScrubFinding | None:
        """Repair a file or set it aside, and return the finding; None for a file replaced meanwhile."""
        detail = "there is neither a server to repair it from nor a quarantine"
        if self._repair:
            try:
                source = await self._repair(digest)
            except LocalDiskError as error:
                source, detail = None, str(error)
            else:
                detail = "no asked server gave the right bytes"
            if source:
                if file.coding and self._quarantine:  # the right bytes did not replace it: they lie beside it
                    await self._set_aside(self._quarantine, digest, file, reason)
                return ScrubFinding(digest, file.path, reason, Outcome.REPAIRED, source)
        if self._quarantine:
            try:
                aside = await self._set_aside(self._quarantine, digest, file, reason)
            except LocalDiskError as error:
                return ScrubFinding(digest, file.path, reason, Outcome.LEFT, str(error))
            return ScrubFinding(digest, file.path, reason, Outcome.SET_ASIDE, aside.file) if aside else None
        return ScrubFinding(digest, file.path, reason, Outcome.LEFT, detail)

    async def _set_aside(
        self, quarantine: Quarantine, digest: str, file: BlobFile, reason: str
    ) -> QuarantinedFile | None:
        """Set a file aside in a thread."""
        return await asyncio.to_thread(quarantine.set_aside, file.path, digest, file.stat_result, reason)


def _by_digest(quarantine: Quarantine) -> dict[str, QuarantinedFile]:
    """Return one record for each digest in quarantine."""
    return {aside.digest: aside for aside in quarantine.entries()}
