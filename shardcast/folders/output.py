"""The output of a client for a version that is a folder: built beside its name, renamed at the end."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError
from shardcast.filesystem import replace
from shardcast.folders.contents import check_shards, layout_of_lines
from shardcast.folders.finishing import finish_folder
from shardcast.folders.kept import keep, kept_manifest
from shardcast.folders.layout import FolderLayout, FolderShard
from shardcast.folders.part_folder import PartFolder, new_part_folder, resolve_folder
from shardcast.folders.places import FolderPlaces
from shardcast.folders.scattered_landing import RecentPieces, ScatteredLanding
from shardcast.folders.taking_over import take_over
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.store.interfaces import Confirm
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest


class FolderOutput:
    """A version that is received into a folder (a ``ShardSink``).

    Large files are received straight into their places in a temporary folder (``part_folder``); of the shards
    between them each verified piece goes into the small files that it is a part of, so that no tar is on the
    disk. After a kill the pieces that the files hold are verified again. The folder gets its name when all of
    it is there.

    Attributes:
        output: the path of the output.
        final: the state of the folder when it got its name; None before.
        confirm: awaited before the folder gets its name; raises where it must not.
    """

    def __init__(self, output: Path, live: LiveManifest) -> None:
        """Open the temporary folder.

        Args:
            output: the path of the output.
            live: the version's manifest, as it grows.

        Raises:
            LocalDiskError: the output can't be written there, or has no room.
        """
        self.output = output
        self.final: os.stat_result | None = None
        self.confirm: Confirm | None = None
        self._live = live
        self._places: FolderPlaces | None = None
        self._shards: list[FolderShard] = []
        self._recent = RecentPieces()
        self._writing: dict[int, threading.Lock] = {}
        with disk_errors("could not write", output):
            self._target = resolve_folder(output, kept_manifest(output))
            self._part: PartFolder = new_part_folder(self._target)
            try:
                self._check_room()
                if live.raw:
                    replace(self._part.manifest, bytes(live.raw))
            except BaseException:
                self.close()
                raise

    def _check_room(self) -> None:
        """Fail now rather than when the disk is full.

        Raises:
            OSError: there is no room (ENOSPC).
        """
        room = os.fstatvfs(self._part.root)
        if self._part.is_new and room.f_bavail * room.f_frsize < self._live.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def next_wanted(self) -> Shard:
        """Wait for ever: no reader requests shards of a folder that is not whole."""
        never: asyncio.Future[Shard] = asyncio.get_running_loop().create_future()
        return await never

    async def landing(self, shard: Shard) -> Landing:
        """Open the places where a shard arrives, with the pieces that are here already.

        Raises:
            IntegrityError: the manifest's entries and shards are not those of one folder.
            LocalDiskError: the folder can't be read or written.
        """
        with disk_errors("could not write", self.output):
            if self._places is None:
                await asyncio.to_thread(self._lay_out)
            assert self._places
            placed = self._shards[shard.number - 1] if shard.number <= len(self._shards) else None
            if placed is None or (placed.offset, placed.size) != (shard.offset, shard.size):
                raise self._wrong(f"shard {shard.number} is not the one that follows from its entries")
            landing = self._open(shard, placed, self._places)
        try:
            await landing.recover_pieces()
        except BaseException:
            await close_landings([landing])
            raise
        return landing

    def _open(self, shard: Shard, placed: FolderShard, places: FolderPlaces) -> Landing:
        """Open the landing of a shard: at its place in a large file, or scattered over small ones."""
        path = self._part.path
        if placed.index is None:
            return ScatteredLanding(shard, places, self._recent, header=self._live.header, path=path)
        landing = Landing(
            shard,
            self._live.header.piece_size,
            path=path,
            descriptor=places.open_large(placed.index),
            base=placed.file_offset,
            writing=self._writing.setdefault(placed.index, threading.Lock()),
        )
        landing.keeps_holes = True
        return landing

    def _lay_out(self) -> None:
        """Lay the entries out, which are all in the manifest before its first shard; blocks on the disk."""
        try:
            layout = layout_of_lines(self._live.header, bytes(self._live.raw))
        except ManifestError as error:
            raise self._wrong(str(error)) from None
        self._shards = list(layout.shards())
        places = FolderPlaces(self._part.root, layout)
        if not self._part.is_new:
            take_over(self._part.root, places)
        self._places = places

    def _wrong(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"the manifest of {self._live.version} is not that of a folder: {what}; "
            "nothing was kept under a final name; name other servers, or broadcast it again"
        )

    async def commit_shard(self, landing: Landing) -> None:
        """Do nothing: the shard's bytes are where they belong."""

    async def complete(self, manifest: Manifest) -> None:
        """Make the rest of the folder, give it the name of the output, durably, and close it.

        Raises:
            IntegrityError: the manifest's entries and shards are not those of one folder.
            LocalDiskError: the folder can't be made, or can't have the name.
        """
        if self.confirm:
            await self.confirm(manifest)
        under_way = asyncio.ensure_future(asyncio.to_thread(self._complete, manifest))
        try:
            await asyncio.shield(under_way)
        finally:
            await asyncio.wait([under_way])  # the thread uses the folder, which is closed next

    def _complete(self, manifest: Manifest) -> None:
        """Finish the folder and name it; blocks on the disk."""
        assert self._places
        try:
            check_shards(self._places.layout, manifest)
        except ManifestError as error:
            raise self._wrong(str(error)) from None
        with disk_errors("could not finish", self.output):
            states = finish_folder(self._part.root, self._places)
            keep(self._target, manifest, states)
            self.final = self._part.give_name()
        self.close()

    @property
    def layout(self) -> FolderLayout | None:
        """The entries of the folder; None until they are known."""
        return self._places.layout if self._places else None

    def discard(self) -> None:
        """Remove the temporary folder: what landed is of no use any more."""
        self._part.discard()
        self.close()

    def close(self) -> None:
        """Close the folder. What landed stays for the next run; a temporary folder without anything goes."""
        if self._places:
            self._places.close()
            self._places = None
        if self._part.root >= 0 and not os.listdir(self._part.root):
            self._part.discard()
        self._part.close()
