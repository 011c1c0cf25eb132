"""The store of a backup server: database and packs, and a pack's way from a request into both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterable, Callable
from pathlib import Path

from shardcast.backup.packs import FOOTER_SIZE, MAGIC, PackedChunk, index_length, parse_index
from shardcast.backup.server.database import Database
from shardcast.backup.server.pack_table import (
    accept_pack,
    announce_pack,
    discard,
    remove_discarded,
    withdraw_pack,
)
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.runs import ActiveRun
from shardcast.backup.server.store_folder import StoreFolder
from shardcast.concurrency import Notifier, run_to_completion
from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError, LocalDiskError
from shardcast.store.spare import Spare

log = logging.getLogger(__name__)

_SPARE_BYTES = 16 << 20
"""Bytes that let a prune begin on a full disk."""


class BackupStore:
    """The store of a backup server; several processes can work on one store at once.

    Attributes:
        folder: the store's folder.
        database: accounts, snapshots and where each chunk lies.
        packs: the packs by SHA-256.
        clock: the wall clock, in seconds since 1970.
        spare: blocks for the database on a full disk.
    """

    def __init__(self, folder: StoreFolder, clock: Callable[[], float] = time.time) -> None:
        """Open the store; blocks on the disk.

        Raises:
            LocalDiskError, WrongStore: the folder or database cannot be used.
        """
        self.folder, self.clock = folder, clock
        self.spare = Spare(folder.spare, _SPARE_BYTES)
        self.database = Database(folder.database)
        try:
            self.packs = folder.open_packs()
        except BaseException:
            self.database.close()
            raise
        self._indexing = asyncio.Lock()
        self._receiving = 0
        self._received = Notifier()

    async def close(self) -> None:
        """Release the store after arriving packs are accepted or withdrawn."""
        await self._received.wait_for(lambda: not self._receiving)
        await self.packs.close()
        await asyncio.to_thread(self.database.close)

    async def receive_pack(
        self,
        client: int,
        run: ActiveRun | None,
        digest: str,
        size: int,
        parts: AsyncIterable[bytes],
        quota: int | None = None,
    ) -> tuple[int, int]:
        """Store a pack durably, and return the number of its chunks and the number of new ones among them.

        Args:
            client: the client.
            run: the run that sends the pack; None for a pack written by prune.
            digest: the announced SHA-256, in hex.
            size: the announced size in bytes.
            parts: the bytes.
            quota: maximum bytes of clients without a quota of their own; None for no bound.

        Raises:
            BackupRefused: the quota has no room, the run has ended, or the bytes are no pack of this digest
                and size.
            LocalDiskError: the disk is full, or failed.
        """
        self._receiving += 1
        try:
            return await self._receive(client, run, digest, size, parts, quota)
        finally:
            self._receiving -= 1
            self._received.notify()

    async def _receive(
        self,
        client: int,
        run: ActiveRun | None,
        digest: str,
        size: int,
        parts: AsyncIterable[bytes],
        quota: int | None,
    ) -> tuple[int, int]:
        """Announce a pack, write the file, and accept or withdraw the pack; see ``receive_pack``."""
        key = bytes.fromhex(digest)
        pack = await self.database.write(announce_pack, client, run, key, size, quota)
        try:
            await self._write_pack(digest, size, parts)
            async with self._indexing:  # the index of one pack at a time is in memory
                chunks = await asyncio.to_thread(self._read_index, digest)
                new = await self.database.write(accept_pack, client, pack, key, chunks)
                return len(chunks), new
        except BaseException:
            await run_to_completion(self._withdraw(pack, key))
            raise

    def pack_path(self, digest: str) -> Path:
        """Return the file of a pack."""
        return Path(self.packs.folder.path(digest))

    def remove_file(self, digest: bytes) -> None:
        """Remove the file of a pack; a missing file is no error.

        Raises:
            LocalDiskError: the file cannot be removed.
        """
        file = self.pack_path(digest.hex())
        with disk_errors("could not remove", file):
            file.unlink(missing_ok=True)

    async def _write_pack(self, digest: str, size: int, parts: AsyncIterable[bytes]) -> None:
        """Write the file of a pack, and name it after its digest once the digest is right.

        Raises:
            BackupRefused: the bytes differ from the announced digest or size.
            LocalDiskError: the disk is full, or failed.
        """
        count = 0
        async with self.packs.put(digest) as writer:
            async for part in parts:
                count += len(part)
                if count > size:
                    break
                await writer.write(part)
            if count != size:
                raise BackupRefused(f"the pack does not have the announced {size} bytes", status=422)
            try:
                await writer.commit()
            except IntegrityError as error:
                raise BackupRefused(str(error), status=422) from None

    def _read_index(self, digest: str) -> list[PackedChunk]:
        """Return the chunks of a pack; blocks on the disk.

        Raises:
            BackupRefused: the file is no pack.
            LocalDiskError: the file cannot be read.
        """
        file = self.pack_path(digest)
        try:
            return read_index(file)
        except IntegrityError as error:
            raise BackupRefused(f"pack {digest} is refused: {error}", status=422) from None

    async def _withdraw(self, pack: int, digest: bytes) -> None:
        """Withdraw a pack that was not accepted, and remove its file unless another row needs the file.

        If the disk fails, or is full, the next sweep does so.
        """
        with contextlib.suppress(LocalDiskError):
            await self.database.write(withdraw_pack, pack, digest)
            await self.database.write(discard, digest)  # also where another sweep withdrew the pack before
            await self.database.write(remove_discarded, self.remove_file, 1)


def read_index(file: Path) -> list[PackedChunk]:
    """Return the chunks of a pack; blocks on the disk.

    Raises:
        IntegrityError: the file is no pack.
        LocalDiskError: the file cannot be read.
    """
    with disk_errors("could not read", file), file.open("rb") as pack:
        size = pack.seek(0, 2)
        pack.seek(max(0, size - FOOTER_SIZE))
        length = index_length(pack.read(FOOTER_SIZE), size)
        pack.seek(0)
        head = pack.read(len(MAGIC))
        pack.seek(size - FOOTER_SIZE - length)
        return parse_index(head, pack.read(length + FOOTER_SIZE), size)
