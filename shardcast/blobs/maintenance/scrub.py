"""Looking whether the blobs of a directory are what their names say, and what is done where they aren't."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shardcast.blobs.directory.blob_writer import SMALL
from shardcast.blobs.directory.compression import Check, Malformed
from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.directory.layout import SUFFIXES, Folder
from shardcast.blobs.directory.lookup import AS_IT_IS_FIRST
from shardcast.blobs.directory.quarantine import Quarantine, SetAside
from shardcast.blobs.directory.stat import forms_of
from shardcast.errors import LocalDiskError
from shardcast.store.file_errors import UnreadableFile


class Outcome(StrEnum):
    """What became of a file that is not right."""

    REPAIRED = "repaired"
    """The right bytes took its place, or lie beside it."""
    SET_ASIDE = "set aside"
    """It is in quarantine."""
    LEFT = "left"
    """It is where it was."""
    UNREADABLE = "unreadable"
    """It couldn't be looked at."""


Repair = Callable[[str], Awaitable[str | None]]
"""Puts a blob's right bytes into the store; says where they came from, or None where nobody has them."""

_PORTION = 8 << 20
"""Bytes that are hashed before it is looked whether that is still wanted."""
_TRIES = 5
"""Looks at a file that others change meanwhile."""
_MOST_CREDIT = 1.0
"""Seconds of a rate that can be made up for."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is not what its name says, or that can't be read.

    Attributes:
        digest: of the blob that it should be.
        path: the file.
        reason: what is wrong with it.
        outcome: what became of it.
        detail: where the right bytes came from, where the file is now, or why it stayed.
    """

    digest: str
    path: str
    reason: str
    outcome: Outcome
    detail: str = ""


class Pace:
    """Holds a rate."""

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``rate``: bytes a second; None for no bound."""
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._due = clock()

    async def spent(self, count: int) -> None:
        """So many bytes were read; comes back when it is time for more."""
        if self._rate is None:
            return
        now = self._clock()
        self._due = max(self._due, now - _MOST_CREDIT) + count / self._rate
        if self._due > now:
            await self._sleep(self._due - now)


class Scrub:
    """Reads and hashes every blob of a directory, beside those who use it.

    Attributes:
        folder: the directory.
        blobs: files that were looked at.
        bytes: theirs that were read.
        unknown: files of a coding that can't be decoded here.
    """

    def __init__(
        self,
        folder: Folder,
        algorithm: str,
        *,
        quarantine: Quarantine | None = None,
        repair: Repair | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.blobs = self.bytes = self.unknown = 0
        self.folder, self._algorithm = folder, algorithm
        self._quarantine, self._repair = quarantine, repair
        self._pace = pace or Pace(None)

    async def run(self) -> AsyncGenerator[Found, None]:
        """What is not right, as it is found and dealt with.

        Raises:
            LocalDiskError: the directory can't be read.
        """
        async for one in self._look_again():
            yield one
        batches = self.folder.entries()
        while (some := await asyncio.to_thread(next, batches, None)) is not None:
            for digest in some:
                for coding in (None, *SUFFIXES):
                    found = await self._look(digest, coding)
                    if found is not None:
                        yield found

    async def _look_again(self) -> AsyncIterator[Found]:
        """What was set aside before, and isn't here."""
        if self._quarantine is None:
            return
        await asyncio.to_thread(self._quarantine.finish)
        entries = await asyncio.to_thread(_by_digest, self._quarantine)
        for digest, aside in entries.items():
            if await asyncio.to_thread(forms_of, self.folder, digest):
                continue
            try:
                source = await self._repair(digest) if self._repair else None
                detail = aside.file
            except LocalDiskError as error:
                source, detail = None, f"{aside.file}; {error}"
            yield Found(
                digest,
                aside.was,
                aside.reason,
                Outcome.REPAIRED if source else Outcome.SET_ASIDE,
                source or detail,
            )

    async def _look(self, digest: str, coding: str | None) -> Found | None:
        """What is wrong with a file, after something was done about it."""
        path = self.folder.path(digest, coding)
        if coding not in AS_IT_IS_FIRST:
            self.unknown += Path(path).exists()
            return None
        counted = unreadable = False
        for _ in range(_TRIES):
            try:
                file = BlobFile.open(path, coding)
            except LocalDiskError as error:
                source = await self._try_repair(digest) if isinstance(error, UnreadableFile) else None
                return Found(
                    digest, path, str(error), Outcome.REPAIRED if source else Outcome.UNREADABLE, source or ""
                )
            if file is None:
                return None
            with file:
                self.blobs += not counted
                counted = True
                try:
                    reason = await self._wrong(digest, file)
                except UnreadableFile as error:
                    if not unreadable:  # what a disk or a network could not do once may have passed
                        unreadable = True
                        continue
                    reason = f"the disk can't read it ({getattr(error.__cause__, 'strerror', error)})"
                except LocalDiskError as error:
                    return Found(digest, path, str(error), Outcome.UNREADABLE)
                if reason is None:
                    return None
                if file.is_changed:
                    continue
                found = await self._mend(digest, file, reason)
                if found is not None:
                    return found
        return Found(digest, path, "it changes all the time", Outcome.UNREADABLE)

    async def _try_repair(self, digest: str) -> str | None:
        """Who repaired a blob; None where nobody could."""
        try:
            return await self._repair(digest) if self._repair else None
        except LocalDiskError:
            return None

    async def _wrong(self, digest: str, file: BlobFile) -> str | None:
        """Why a file isn't this blob; None where it is.

        Raises:
            LocalDiskError: it can't be read.
        """
        if not file.is_regular:
            return "it is no file"
        check, position = Check(self._algorithm, file.coding), 0
        try:
            while position < file.size:
                end = min(file.size, position + _PORTION)
                if file.size <= SMALL:
                    reach = file.read(check, position, end)
                else:
                    reach = await asyncio.to_thread(file.read, check, position, end)
                self.bytes += reach - position
                await self._pace.spent(reach - position)
                if reach < end:
                    return "it became shorter while it was read"
                position = reach
            is_now = check.finish()
        except Malformed as error:
            return str(error)
        return None if is_now == digest else f"its digest is {is_now}, of {check.length} bytes"

    async def _mend(self, digest: str, file: BlobFile, reason: str) -> Found | None:
        """Repair a file or set it aside; None where it is another one by now."""
        detail = "nothing was to be done about it"
        if self._repair:
            try:
                source = await self._repair(digest)
            except LocalDiskError as error:
                source, detail = None, str(error)
            else:
                detail = "nobody who was asked has it"
            if source:
                if file.coding and self._quarantine:  # the right bytes are beside it
                    await self._set_aside(self._quarantine, digest, file, reason)
                return Found(digest, file.path, reason, Outcome.REPAIRED, source)
        if self._quarantine:
            try:
                aside = await self._set_aside(self._quarantine, digest, file, reason)
            except LocalDiskError as error:
                return Found(digest, file.path, reason, Outcome.LEFT, str(error))
            return Found(digest, file.path, reason, Outcome.SET_ASIDE, aside.file) if aside else None
        return Found(digest, file.path, reason, Outcome.LEFT, detail)

    async def _set_aside(
        self, quarantine: Quarantine, digest: str, file: BlobFile, reason: str
    ) -> SetAside | None:
        return await asyncio.to_thread(quarantine.take, file.path, digest, file.looks, reason)


def _by_digest(quarantine: Quarantine) -> dict[str, SetAside]:
    return {one.digest: one for one in quarantine.entries()}
