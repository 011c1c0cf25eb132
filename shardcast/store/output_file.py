"""The output file of a receiving client: one sparse temporary file beside it, renamed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from pathlib import Path

from shardcast.digest import PIECE_DIGEST_SIZE, piece_digest
from shardcast.disk_errors import disk_errors
from shardcast.filesystem import replace
from shardcast.folders import make_folder
from shardcast.open_files import close
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.store.interfaces import Confirm
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_part import OutputPart, resolve_output, seeds

_SAMPLES = 16
"""Pieces of another file that are looked at to see whether any of it can serve again."""
_MAX_SEEDS = 4


class OutputFile:
    """A version on its way into a file (a ``ShardSink``).

    Pieces are written at their offsets in a temporary file next to the output (``output_part``), with the
    manifest beside it; a later run verifies what is there and goes on. Several processes may write the same
    output, each in a temporary file of its own. Where the output is a link, the file that it leads to is
    written.

    Attributes:
        output: where it goes.
        final: the state of the verified file when it got its name; None before.
        confirm: awaited before it gets its name; raises where it must not.
    """

    def __init__(self, output: Path, live: LiveManifest) -> None:
        """
        Raises:
            LocalDiskError: the output can't be written there.
        """
        self.output = output
        self.final: os.stat_result | None = None
        self.confirm: Confirm | None = None
        self._live = live
        self._seeds: list[int] = []
        self._writing = threading.Lock()
        with disk_errors("could not write", output):
            self._target = resolve_output(output)
            make_folder(self._target.parent)
            self._part = OutputPart(self._target)
            try:
                self._check_room()
                if live.whole:
                    self._seeds = _open_seeds(self._part, live.whole)
                if live.raw:
                    replace(self._part.manifest, bytes(live.raw))
            except BaseException:
                self.close()
                raise

    def _check_room(self) -> None:
        """Say now that there is no room rather than when the disk is full. The room is not taken in advance:
        that keeps all writers of the file waiting, and for long where memory is the disk."""
        part = self._part.descriptor
        room, here = os.fstatvfs(part), os.fstat(part).st_blocks * 512
        if room.f_bavail * room.f_frsize + here < self._live.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def wanted(self) -> Shard:
        nobody: asyncio.Future[Shard] = asyncio.get_running_loop().create_future()
        return await nobody  # reads from it before it is whole

    async def landing(self, shard: Shard) -> Landing:
        with disk_errors("could not write", self.output):
            descriptor = os.dup(self._part.descriptor)
        piece_size = self._live.header.piece_size
        landing = Landing(shard, piece_size, self._part.path, descriptor, shard.offset, self._writing)
        try:
            await landing.recall(self._seeds)
        except BaseException:
            await close_landings([landing])
            raise
        return landing

    async def shelve(self, landing: Landing) -> None:
        """Nothing to do: its bytes are where they belong."""

    async def complete(self, manifest: Manifest) -> None:
        if self.confirm:
            await self.confirm(manifest)
        under_way = asyncio.ensure_future(asyncio.to_thread(self._complete, manifest))
        try:
            await asyncio.shield(under_way)
        finally:
            await asyncio.wait([under_way])  # it uses the file, which is closed next

    def _complete(self, manifest: Manifest) -> None:
        with disk_errors("could not finish", self.output):
            os.ftruncate(self._part.descriptor, manifest.size)
            self.final = self._part.give_name()
        self.close()

    def discard(self) -> None:
        """Give it up: what landed is of no use any more."""
        self._part.discard()
        self.close()

    def close(self) -> None:
        """Let go of it. What landed stays for the next run, if anything did."""
        if self._part.descriptor >= 0:
            with contextlib.suppress(OSError):
                if _is_hole(self._part.descriptor):
                    self._part.discard()
            self._part.close()
        while self._seeds:
            close(self._seeds.pop())


def _is_hole(descriptor: int) -> bool:
    """Whether nothing was ever written to a file."""
    try:
        os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def _open_seeds(part: OutputPart, manifest: Manifest) -> list[int]:
    """Open the files of which pieces can serve again: the one that the output replaces, if it begins like the
    version, and what others left of the version."""
    found: list[int] = []
    if not manifest.size or not manifest.verifiable:
        return found
    for path in seeds(part):
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
    """Return whether one of some pieces of a file, spread over the version, can be read and is right."""
    for shard in manifest.shards[:: max(1, len(manifest.shards) // _SAMPLES)]:
        try:
            piece = os.pread(descriptor, min(manifest.header.piece_size, shard.size), shard.offset)
        except OSError:
            return False
        if piece_digest(piece) == shard.pieces[:PIECE_DIGEST_SIZE]:
            return True
    return False
