"""Blobs put together: no blob gets its name before all are verified and on the disk.

Meanwhile they lie in a directory of blobs of their own, on the same disk, removed at the end of the process.
Then each file is renamed, without a copy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.incoming_folder import IncomingFolder
from shardcast.blobs.directory.layout import BLOB_MODE, FLAT, LENGTH_SUFFIX, OWN_FOLDER
from shardcast.concurrency import in_thread
from shardcast.directories import sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.filesystem import give_name


class StagedBlobs:
    """Blobs waiting for each other.

    Attributes:
        blobs: the store for putting them; its blobs are not visible in the target.
    """

    def __init__(self, target: BlobDirectory, place: Path) -> None:
        """Stage blobs for ``target`` in the folder ``place`` on the same disk.

        Raises:
            LocalDiskError: the folder cannot be used.
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
        """Rename all blobs into the target, in batches, and yield the digests durable there.

        An existing file of the same name may be wrong, and is replaced.

        Raises:
            LocalDiskError: a blob was removed, or cannot be renamed; those yielded before have their names.
        """
        await asyncio.to_thread(self._prepare)
        while self._unpublished:
            yield await asyncio.to_thread(self._publish_some)

    def _prepare(self) -> None:
        """Check, before the first rename, that every blob has its file and every folder can be made.

        A program may have removed temporary files. Then the whole push must fail, so its sender sends
        everything again: hence the comparison of the digests put with the files.

        Raises:
            LocalDiskError: a blob was removed, or a folder cannot be made.
        """
        folder, staging = self._target.folder, self.blobs.folder
        with disk_errors("could not make folders in", Path(folder.root)):
            gone, parents = set(self._unpublished), {}
            for digest in (digest for batch in staging.entries() for digest in batch):
                gone.discard(bytes.fromhex(digest))
                parents[folder.parent(digest)] = digest
            if gone:
                raise _gone(len(gone), staging.root)
            for digest in parents.values():
                folder.make_parent(digest)
            sync_folder(Path(folder.root))  # also for folders that another process has just made

    def _publish_some(self) -> list[str]:
        """Rename one batch, sync its folders, and return its digests."""
        folder = self._target.folder
        with disk_errors("could not keep blobs in", Path(folder.root)):
            batch = next(self.blobs.folder.entries(), None)  # of the blobs that are still staged
            if not batch:
                raise _gone(len(self._unpublished), self.blobs.folder.root)
            for digest in batch:
                self._publish(digest)
                self._unpublished.discard(bytes.fromhex(digest))
            for parent in {folder.parent(digest) for digest in batch}:
                sync_folder(Path(parent))
        return batch

    def _publish(self, digest: str) -> None:
        """Rename a blob; its folder is synced later. Its verification is valid for the new name, too."""
        staged, name = self.blobs.folder.path(digest), self._target.folder.path(digest)
        with Path(staged).open("rb") as file:
            known = self.blobs.verified.get(digest, os.fstat(file.fileno()))
            give_name(file.fileno(), staged, name, durable=False, mode=BLOB_MODE)
            if known is not None:
                self._target.verified.add(digest, os.fstat(file.fileno()), known)
        Path(name + LENGTH_SUFFIX).unlink(missing_ok=True)


def _gone(count: int, place: str) -> OSError:
    """Return the error for staged blobs removed by another program."""
    return OSError(
        f"{count} of the blobs waiting in {place} were removed by another program; have it spare "
        f"{OWN_FOLDER}, and push again"
    )


@asynccontextmanager
async def staging_area(target: BlobDirectory, incoming: IncomingFolder) -> AsyncIterator[StagedBlobs]:
    """Yield a place for blobs to be put into a directory together.

    Blobs not published at the end of the context are discarded.

    Args:
        target: the directory.
        incoming: a folder for temporary files on the same disk, for the new place.

    Raises:
        LocalDiskError: the place cannot be made.
    """
    with disk_errors("could not make a place for blobs in", target.folder.root):
        place = await in_thread(incoming.create_folder, undo=incoming.remove_folder)
    try:
        waiting = await asyncio.to_thread(StagedBlobs, target, place)
        try:
            yield waiting
        finally:
            await waiting.blobs.close()
    finally:
        await asyncio.to_thread(incoming.remove_folder, place)
