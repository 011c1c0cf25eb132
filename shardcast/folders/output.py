"""A client's output for a folder: built in a temporary folder, renamed at the end."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError, LocalDiskError
from shardcast.filesystem import replace
from shardcast.folders.contents import check_shards, layout_of_lines, note_digests
from shardcast.folders.file_checks import check_payload, check_small_files
from shardcast.folders.file_states import FileStates
from shardcast.folders.finishing import finish_folder
from shardcast.folders.growing_list import GrowingList
from shardcast.folders.kept import KeptStates, keep, keep_states, kept_manifest
from shardcast.folders.layout import FolderLayout, FolderShard
from shardcast.folders.name_folding import find_collision, probe_folding
from shardcast.folders.options import SHARDS, WHOLE, FolderOptions
from shardcast.folders.part_folder import PartFolder, new_part_folder, resolve_folder
from shardcast.folders.pieces import FolderPieces
from shardcast.folders.places import FolderPlaces
from shardcast.folders.reusing import FolderReuse, seed_folders
from shardcast.folders.scattered_landing import RecentPieces, ScatteredLanding
from shardcast.folders.seeds import FolderSeeds
from shardcast.folders.selection import FolderSelection
from shardcast.folders.taking_over import take_over
from shardcast.folders.tree import OpenTree
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.store.interfaces import Confirm
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.span_digest import has_digest, wrong_shard


class FolderOutput:
    """A folder for a version, received shard by shard (a ``ShardSink``).

    Large files are received straight into their places in a temporary folder (``part_folder``). From the
    shards between them each verified piece is written into its small files, so no tar is on the disk. Files
    of seeds are taken first, and verified like received bytes. After a kill the pieces already in the files
    are verified again. The complete folder gets its name.

    Attributes:
        output: the path of the output.
        final: the state of the folder when it got its name; None before.
        confirm: awaited before the folder gets its name; raises to prevent the naming.
        is_authentic: returns whether the deciding server lists this manifest. If not, the digests of shards
            are not authentic, and the payload's digest is computed in any case.
        hashes_whole: whether the payload's SHA-256 is computed during the transfer; else the digest of each
            received shard or file.
    """

    def __init__(self, output: Path, live: LiveManifest, options: FolderOptions | None = None) -> None:
        """Open the temporary folder.

        Args:
            output: the path of the output.
            live: the version's manifest with all entries, possibly still growing.
            options: reusable folders, and the kind of verification.

        Raises:
            IntegrityError: the manifest's entries are not those of a folder.
            LocalDiskError: the output can't be written there, or has no room, or the file system takes two
                names for one.
            UsageError: a pattern is malformed, or a part of the folder shall be verified by the whole digest.
        """
        options = (options or FolderOptions()).checked()
        self.output = output
        self.final: os.stat_result | None = None
        self.confirm: Confirm | None = None
        self.is_authentic: Callable[[], bool] = lambda: True
        self._live = live
        self._pieces: FolderPieces | None = None
        self._recent = RecentPieces()
        self._writing: dict[int, threading.Lock] = {}
        self._hashed_bytes: dict[int, int] = {}
        self._taking = asyncio.Lock()
        self._growing = self._grow_list() if live.manifest is None else None
        layout = self._growing.layout if self._growing else self._lay_out()
        selection = FolderSelection(layout.table, options.only, options.exclude)
        self._shards = list(layout.shards())
        with disk_errors("could not write", output):
            self._target = resolve_folder(output, kept_manifest(output))
            self._part: PartFolder = new_part_folder(self._target)
            self._places = FolderPlaces(self._part.root, layout, selection)
            seeds = FolderSeeds([] if self._growing else seed_folders(self._target, options.seeds))
            self._reuse = FolderReuse(self._places, seeds, links=options.links)
            try:
                self._check_names()
                if not self._part.is_new:
                    take_over(self._part.root, self._places)
                self.reuses = self._reuse.is_useful()
                self._check_room()
                replace(self._part.manifest, bytes(live.raw))
            except BaseException:
                self.close()
                raise
        by_parts = options.verify == SHARDS or not selection.is_all
        self.hashes_whole = options.verify == WHOLE or not (by_parts or self.reuses)

    def _lay_out(self) -> FolderLayout:
        """Return the entries in their places.

        Raises:
            IntegrityError: they are not those of a folder.
        """
        try:
            return layout_of_lines(self._live.header, bytes(self._live.raw))
        except ManifestError as error:
            raise self._wrong(str(error)) from None

    def _check_names(self) -> None:
        """Fail before any fetch if the file system takes two names for one.

        Raises:
            LocalDiskError: two names are one.
        """
        folding, selection = probe_folding(self._part.root), self._places.selection
        if not folding:
            return
        same = find_collision((entry.path for _, entry in selection.entries()), folding)
        if same:
            first, second = (os.fsdecode(path) for path in same)
            raise LocalDiskError(
                f"{first!r} and {second!r} of {self._live.version} are one name on the file system of "
                f"{self.output.parent}; choose an output on another one, or leave one of them out (--exclude)"
            )

    def _grow_list(self) -> GrowingList | None:
        """Return the list so far of a folder written file by file; None for other folders.

        Raises:
            IntegrityError: the list is not that of a folder.
        """
        facts = self._live.header.folder
        if facts is None or facts.entries is not None:
            return None
        try:
            growing = GrowingList(self._live.header)
            growing.take(self._live.raw)
        except ManifestError as error:
            raise self._wrong(str(error)) from None
        return growing

    def _grow(self) -> None:
        """Take new entries since the last shard.

        Raises:
            IntegrityError: the entries are not those of a folder.
        """
        try:
            if self._growing is None:
                return
            settled = self._growing.layout.settled
            if self._growing.take(self._live.raw):
                self._places.extend()
                while self._shards and self._shards[-1].offset >= settled:
                    self._shards.pop()
                self._shards += self._growing.layout.shards(settled)
        except ManifestError as error:
            raise self._wrong(str(error)) from None

    def _check_room(self) -> None:
        """Fail now rather than on a full disk later, if nothing of the folder is here.

        The sizes of files count, not the tar: with many empty or tiny files, the headers of 512 bytes are a
        large part of the tar.

        Raises:
            OSError: there is no room (ENOSPC).
        """
        room = os.fstatvfs(self._part.root)
        is_fresh = self._part.is_new and not self.reuses and self._places.selection.is_all
        if is_fresh and room.f_bavail * room.f_frsize < sum(self._places.layout.table.sizes):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def next_wanted(self) -> Shard:
        """Wait for ever: no reader requests shards of an incomplete folder."""
        never: asyncio.Future[Shard] = asyncio.get_running_loop().create_future()
        return await never

    async def landing(self, shard: Shard) -> Landing:
        """Open the landing of a shard, with the pieces already here or in a seed.

        Raises:
            IntegrityError: the manifest's entries and shards do not match.
            LocalDiskError: the folder can't be read or written.
        """
        self._grow()
        placed = self._shards[shard.number - 1] if shard.number <= len(self._shards) else None
        if placed is None or (placed.offset, placed.size) != (shard.offset, shard.size):
            raise self._wrong(f"shard {shard.number} is not the one that follows from its entries")
        with disk_errors("could not write", self.output):
            if self.reuses and self._is_wanted(placed):
                async with self._taking:
                    await asyncio.to_thread(self._take, placed)
            landing = self._open(shard, placed)
        try:
            if self._is_known(placed) or not self._is_wanted(placed):
                landing.mark_whole()
                return landing
            await landing.recover_pieces()
            if isinstance(landing, ScatteredLanding):
                landing.leave_out()
            if not landing.whole and placed.index is not None and self.reuses:
                await self._copy_shard(landing, placed)
        except BaseException:
            await close_landings([landing])
            raise
        return landing

    def _take(self, placed: FolderShard) -> None:
        """Take the files of a shard from the seeds, as far as possible; blocks on the disk."""
        if placed.index is None:
            self._reuse.take_small(placed.offset, placed.offset + placed.size)
            return
        manifest = self._live.manifest
        if manifest and placed.file_offset == 0:
            index = placed.index
            shards = zip(self._shards, manifest.shards, strict=False)
            self._reuse.take_large(index, [pair for pair in shards if pair[0].index == index])

    async def _copy_shard(self, landing: Landing, placed: FolderShard) -> None:
        """Copy a shard of a large file from a seed, and verify the pieces."""
        with disk_errors("could not write", self.output):
            async with self._taking:
                copied = await landing.in_thread(
                    self._reuse.copy_shard, landing.shard, landing.descriptor, placed.file_offset
                )
        if copied:
            await landing.recover_pieces()

    def _open(self, shard: Shard, placed: FolderShard) -> Landing:
        """Open the landing of a shard: at its place in a large file, or scattered over small ones."""
        path = self._part.path
        if placed.index is None or not self._is_wanted(placed):
            return ScatteredLanding(shard, self._places, self._recent, header=self._live.header, path=path)
        landing = Landing(
            shard,
            self._live.header.piece_size,
            path=path,
            descriptor=self._places.open_large(placed.index),
            base=placed.file_offset,
            writing=self._writing.setdefault(placed.index, threading.Lock()),
        )
        landing.keeps_holes = True
        return landing

    def _is_wanted(self, placed: FolderShard) -> bool:
        """Return whether a shard is wanted; shards of unwanted large files are not."""
        return placed.index is None or self._places.selection.has_bytes_of(placed.index)

    def _is_known(self, placed: FolderShard) -> bool:
        """Return whether all files in a shard are known to have the digests in the manifest."""
        hashed, layout = self._places.hashed, self._places.layout
        if placed.index is not None:
            return bool(hashed[placed.index])
        files = layout.files_between(placed.offset, placed.offset + placed.size)
        first = next(files, None)
        return first is not None and bool(hashed[first]) and all(hashed[index] for index in files)

    def _wrong(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"the manifest of {self._live.version} is not that of a folder: {what}; "
            "nothing was kept under a final name; name other servers, or broadcast it again"
        )

    async def commit_shard(self, landing: Landing) -> None:
        """Check the SHA-256 of a shard of a large file, where the payload's is not computed.

        Raises:
            IntegrityError: the shard has another one.
            LocalDiskError: the file can't be read.
        """
        placed, shard = self._shards[landing.shard.number - 1], landing.shard
        if self.hashes_whole or placed.index is None or self._places.hashed[placed.index]:
            return
        if not self._is_wanted(placed):
            return
        with disk_errors("could not read", self.output):
            right = shard.sha256 is not None and await landing.in_thread(
                has_digest, landing.descriptor, placed.file_offset, shard.size, shard.sha256
            )
        if not right:
            raise wrong_shard(self._live.version, shard.number)
        index = placed.index
        self._hashed_bytes[index] = self._hashed_bytes.get(index, 0) + shard.size
        if self._hashed_bytes[index] == self._places.layout.table.size(index):
            self._places.hashed[index] = 1

    async def complete(self, manifest: Manifest) -> None:
        """Make the rest of the folder, give the folder the name of the output, durably, and close it.

        Raises:
            IntegrityError: the manifest's entries and shards do not match, or a file has another digest.
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
        """Complete and name the folder; blocks on the disk."""
        places = self._places
        self._grow()
        try:
            check_shards(places.layout, manifest)
            if not self.hashes_whole:
                note_digests(places.layout, manifest)
        except ManifestError as error:
            raise self._wrong(str(error)) from None
        with disk_errors("could not finish", self.output):
            if not self.hashes_whole:
                check_small_files(places, manifest.version)
                if not self.is_authentic():
                    check_payload(places, manifest)  # of a part of the folder it is never right
            states = finish_folder(self._part.root, places)
            self._reuse.close()
            keep(self._target, manifest, states, places.selection)
            self.final = self._part.give_name()
            if places.has_links:  # the names that were replaced are gone, which the linked files' ctimes show
                with OpenTree.at(self._target) as tree:
                    states = FileStates.of(tree, places.layout.table, places.hashed)
                keep_states(self._target, manifest, states, places.selection)
            if self._pieces:
                kept = KeptStates(self._target, manifest, len(places.layout.table))
                self._pieces.mark_named(self._target, states, kept.reload)
        self.close()

    @property
    def is_part(self) -> bool:
        """Whether only a part of the folder is wanted."""
        return not self._places.selection.is_all

    def open_pieces(self) -> FolderPieces:
        """Open the folder once more, to give pieces to neighbours.

        Raises:
            LocalDiskError: the folder can't be opened.
        """
        with disk_errors("could not open", self.output):
            self._pieces = FolderPieces(self._part.root, self._places.layout)
        return self._pieces

    @property
    def layout(self) -> FolderLayout:
        """The entries of the folder in their places."""
        return self._places.layout

    def discard(self) -> None:
        """Remove the temporary folder: the received bytes have become useless."""
        self._part.discard()
        self.close()

    def close(self) -> None:
        """Close the folder. Received bytes stay for the next run; an empty temporary folder is removed.

        Raises:
            LocalDiskError: the record of a seed can't be renewed.
        """
        try:
            self._reuse.close()
        finally:
            self._places.close()
            if self._part.root >= 0 and not os.listdir(self._part.root):
                self._part.discard()
            self._part.close()
