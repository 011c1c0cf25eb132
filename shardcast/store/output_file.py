"""The output file of a receiving client: one sparse temporary file beside the output, renamed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from pathlib import Path

from shardcast.digest import PIECE_DIGEST_SIZE, piece_digest
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.filesystem import replace
from shardcast.open_files import close
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.store.interfaces import Confirm
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_part import OutputPart, resolve_output, seed_files
from shardcast.store.output_pieces import OutputPieces
from shardcast.store.span_digest import has_digest, wrong_shard

_SAMPLES = 16
"""Pieces of another file compared before the whole file is used as a seed."""
_MAX_SEEDS = 4
"""Other files whose pieces may serve again, open at once."""


class OutputFile:
    """A file for a version, received piece by piece (a ``ShardSink``).

    Pieces are written at their offsets in a temporary file next to the output (``output_part``), with the
    manifest beside it; a later run verifies the present pieces and continues. Several processes may write the
    same output, each in a temporary file of its own. If the output is a link, the file at the end is written.

    Attributes:
        output: the path of the output.
        final: the state of the verified file when it got its name; None before.
        confirm: awaited before the file gets its name; raises to prevent the naming.
        hashes_whole: whether the payload's SHA-256 is computed during the transfer; else that of each shard.
    """

    def __init__(self, output: Path, live: LiveManifest) -> None:
        """Open the temporary file, and other files with reusable pieces.

        Args:
            output: the path of the output.
            live: the version's growing manifest.

        Raises:
            LocalDiskError: the output can't be written there, or has no room.
        """
        self.output = output
        self.final: os.stat_result | None = None
        self.confirm: Confirm | None = None
        self.hashes_whole = True
        self._live = live
        self._seeds: list[int] = []
        self._writing = threading.Lock()
        with disk_errors("could not write", output):
            self._target = resolve_output(output)
            make_folder(self._target.parent)
            self._part = OutputPart(self._target)
            try:
                self._check_room()
                if live.manifest:
                    self._seeds = _open_seeds(self._part, live.manifest)
                if live.raw:
                    replace(self._part.manifest, bytes(live.raw))
            except BaseException:
                self.close()
                raise

    def _check_room(self) -> None:
        """Fail now rather than when the disk is full.

        The room is not reserved: reserving keeps all writers of the file waiting, 15 ms a shard where memory
        is the disk.

        Raises:
            OSError: there is no room (ENOSPC).
        """
        part = self._part.descriptor
        room, written = os.fstatvfs(part), os.fstat(part).st_blocks * 512
        if room.f_bavail * room.f_frsize + written < self._live.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_pieces(self) -> OutputPieces:
        """Open the file once more, to give pieces to neighbours.

        Raises:
            LocalDiskError: the file can't be opened.
        """
        with disk_errors("could not open", self.output):
            return OutputPieces(self._part.descriptor, self._target)

    async def next_wanted(self) -> Shard:
        """Wait for ever: no reader requests shards of an incomplete file."""
        never: asyncio.Future[Shard] = asyncio.get_running_loop().create_future()
        return await never

    async def landing(self, shard: Shard) -> Landing:
        """Open the landing of a shard, with the pieces already here.

        Raises:
            LocalDiskError: the file can't be read or written.
        """
        with disk_errors("could not write", self.output):
            descriptor = os.dup(self._part.descriptor)
        piece_size = self._live.header.piece_size
        landing = Landing(
            shard,
            piece_size,
            path=self._part.path,
            descriptor=descriptor,
            base=shard.offset,
            writing=self._writing,
        )
        try:
            await landing.recover_pieces(self._seeds)
        except BaseException:
            await close_landings([landing])
            raise
        return landing

    async def commit_shard(self, landing: Landing) -> None:
        """Check the SHA-256 of a shard, where the payload's is not computed.

        Raises:
            IntegrityError: the shard has another one.
            LocalDiskError: the file can't be read.
        """
        if self.hashes_whole:
            return
        shard = landing.shard
        with disk_errors("could not read", self.output):
            right = shard.sha256 is not None and await landing.in_thread(
                has_digest, landing.descriptor, shard.offset, shard.size, shard.sha256
            )
        if not right:
            raise wrong_shard(self._live.version, shard.number)

    async def complete(self, manifest: Manifest) -> None:
        """Give the file the name of the output, durably, and close it.

        Raises:
            ShardcastError: ``confirm`` refused.
            LocalDiskError: the file can't have the name.
        """
        if self.confirm:
            await self.confirm(manifest)
        under_way = asyncio.ensure_future(asyncio.to_thread(self._complete, manifest))
        try:
            await asyncio.shield(under_way)
        finally:
            await asyncio.wait([under_way])  # the thread uses the file, which is closed next

    def _complete(self, manifest: Manifest) -> None:
        """Cut the file to its size and give it the name; blocks on the disk."""
        with disk_errors("could not finish", self.output):
            os.ftruncate(self._part.descriptor, manifest.size)
            self.final = self._part.give_name()
        self.close()

    def discard(self) -> None:
        """Remove the temporary file: the landed pieces have become useless."""
        self._part.discard()
        self.close()

    def close(self) -> None:
        """Close the files. Landed pieces stay for the next run; an empty temporary file is removed."""
        if self._part.descriptor >= 0:
            with contextlib.suppress(OSError):
                if _is_hole(self._part.descriptor):
                    self._part.discard()
            self._part.close()
        while self._seeds:
            close(self._seeds.pop())


def _is_hole(descriptor: int) -> bool:
    """Return whether no byte was ever written to a file."""
    try:
        os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def _open_seeds(part: OutputPart, manifest: Manifest) -> list[int]:
    """Open the files with reusable pieces: the output itself, and temporary files of other runs.

    Returns:
        Descriptors of at most ``_MAX_SEEDS`` files with right pieces.
    """
    found: list[int] = []
    if not manifest.size or not manifest.verifiable:
        return found
    for path in seed_files(part):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        if len(found) < _MAX_SEEDS and _is_seed(descriptor, manifest):
            found.append(descriptor)
        else:
            close(descriptor)
    return found


def _is_seed(descriptor: int, manifest: Manifest) -> bool:
    """Return whether any of ``_SAMPLES`` pieces of a file, spread over the version, is right."""
    for shard in manifest.shards[:: max(1, len(manifest.shards) // _SAMPLES)]:
        try:
            piece = os.pread(descriptor, min(manifest.header.piece_size, shard.size), shard.offset)
        except OSError:
            return False
        if piece_digest(piece) == shard.pieces[:PIECE_DIGEST_SIZE]:
            return True
    return False
