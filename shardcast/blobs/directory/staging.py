"""Blobs that are put together: none has its name before all of them are on the disk, right.

Meanwhile they are in a directory of blobs of their own, on the same disk, which goes with its process. Then
each is renamed, which copies nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.blob_writer import Incoming
from shardcast.blobs.directory.layout import FINAL, FLAT, LENGTH
from shardcast.concurrency import in_thread
from shardcast.filesystem import disk_errors, give_name, sync_folder


class Staged:
    """Blobs that wait for each other.

    Attributes:
        blobs: where they are put.
    """

    def __init__(self, target: BlobDirectory, place: Path) -> None:
        """``place``: a folder for them, on the disk of the ``target``.

        Raises:
            LocalDiskError: it can't be used.
        """
        self._target = target
        self._unpublished: set[bytes] = set()
        self.blobs = BlobDirectory(
            place,
            target.algorithm,
            FLAT,
            writable=True,
            on_put=lambda digest: self._unpublished.add(bytes.fromhex(digest)),
        )

    async def publish(self) -> AsyncGenerator[list[str], None]:
        """Give all of them their names, some at a time; the digests of those that have them, durably. What is
        there under such a name, and may be wrong, is replaced.

        Raises:
            LocalDiskError: one is gone, or can't have its name; those before it have theirs.
        """
        await asyncio.to_thread(self._prepare)
        while self._unpublished:
            yield await asyncio.to_thread(self._publish_some)

    def _prepare(self) -> None:
        """See to all that may be wrong before the first of them has its name: each has to be there, and the
        disk to have room for their folders."""
        folder, staging = self._target.folder, self.blobs.folder
        with disk_errors("could not make folders in", Path(folder.root)):
            gone, parents = set(self._unpublished), {}
            for digest in (one for some in staging.entries() for one in some):
                gone.discard(bytes.fromhex(digest))
                parents[folder.parent(digest)] = digest
            if gone:
                raise _gone(len(gone), staging.root)
            for digest in parents.values():
                folder.make_parent(digest)
            sync_folder(Path(folder.root))  # also for those that another process has just made

    def _publish_some(self) -> list[str]:
        folder = self._target.folder
        with disk_errors("could not keep blobs in", Path(folder.root)):
            some = next(self.blobs.folder.entries(), None)  # of those that are left
            if not some:
                raise _gone(len(self._unpublished), self.blobs.folder.root)
            for digest in some:
                self._publish(digest)
                self._unpublished.discard(bytes.fromhex(digest))
            for parent in {folder.parent(digest) for digest in some}:
                sync_folder(Path(parent))
        return some

    def _publish(self, digest: str) -> None:
        staged, name = self.blobs.folder.path(digest), self._target.folder.path(digest)
        with Path(staged).open("rb") as file:
            known = self.blobs.verified.known(digest, os.fstat(file.fileno()))
            give_name(file.fileno(), staged, name, durable=False, mode=FINAL)
            if known is not None:
                self._target.verified.add(digest, os.fstat(file.fileno()), known)
        Path(name + LENGTH).unlink(missing_ok=True)


def _gone(count: int, place: str) -> OSError:
    return OSError(f"{count} of the blobs that waited in {place} are gone: somebody removed them")


@asynccontextmanager
async def staged(target: BlobDirectory, incoming: Incoming) -> AsyncIterator[Staged]:
    """A place for blobs that are to be put into a directory together, in the folder of ``incoming``, which is
    on the same disk. What isn't published when it is left is gone.

    Raises:
        LocalDiskError: it can't be made.
    """
    with disk_errors("could not make a place for blobs in", target.folder.root):
        place = await in_thread(incoming.create_folder, undo=incoming.remove_folder)
    try:
        waiting = await asyncio.to_thread(Staged, target, place)
        try:
            yield waiting
        finally:
            await waiting.blobs.close()
    finally:
        await asyncio.to_thread(incoming.remove_folder, place)
