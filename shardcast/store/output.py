"""The output file of a receiving client: one sparse temporary file beside it, renamed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import threading
from pathlib import Path

from shardcast.digest import PIECE_DIGEST_SIZE, piece_digest
from shardcast.errors import LocalDiskError
from shardcast.filesystem import PART, disk_errors, rename, replace
from shardcast.manifest import Manifest, Shard
from shardcast.store.landing import Landing
from shardcast.store.live import LiveManifest
from shardcast.store.shelf import Confirm

_SAMPLES = 16
"""Pieces of an earlier file that are looked at to see whether any of it can serve again."""


class OutputFile:
    """A version on its way into a file (a ``Filling``).

    Pieces are written at their offsets in ``.<name>.part`` next to the output, with the manifest beside
    it; a later run verifies what is there and goes on. Several processes may write the same output:
    each has a temporary file of its own, held by a lock that dies with it.

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
        self._seed = -1
        self._renamed = False
        self._writing = threading.Lock()
        with disk_errors("could not write", output):
            if output.is_dir():
                raise LocalDiskError(f"could not write {output}: it is a directory; name a file in it")
            if output.exists() and not output.is_file():
                raise LocalDiskError(f"could not write {output}: it exists and is not a file")
            output.parent.mkdir(parents=True, exist_ok=True)
            self._part, self._descriptor = locked_part(output)
            try:
                self._check_room()
                if live.whole:
                    self._seed = _open_seed(output, live.whole)
                if live.raw:
                    replace(self._beside, bytes(live.raw))
            except BaseException:
                self.close()
                raise

    def _check_room(self) -> None:
        """Say now that there is no room rather than when the disk is full. The room is not taken in advance:
        that keeps all writers of the file waiting, and for long where memory is the disk."""
        room, here = os.fstatvfs(self._descriptor), os.fstat(self._descriptor).st_blocks * 512
        if room.f_bavail * room.f_frsize + here < self._live.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @property
    def _beside(self) -> Path:
        return self._part.with_name(self._part.name + ".manifest")

    async def wanted(self) -> Shard:
        nobody: asyncio.Future[Shard] = asyncio.get_running_loop().create_future()
        return await nobody  # reads from it before it is whole

    async def landing(self, shard: Shard) -> Landing:
        with disk_errors("could not write", self.output):
            descriptor = os.dup(self._descriptor)
        piece_size = self._live.header.piece_size
        landing = Landing(shard, piece_size, self._part, descriptor, shard.offset, self._writing)
        try:
            await landing.recall(self._seed if self._seed >= 0 else None)
        except BaseException:
            landing.close()
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
            os.ftruncate(self._descriptor, manifest.size)
            os.fsync(self._descriptor)
            final = os.fstat(self._descriptor)
            rename(self._part, self.output)
            self.final = final
            self._renamed = True
            self._beside.unlink(missing_ok=True)
            clear_abandoned(self.output)
        self.close()

    def discard(self) -> None:
        """Give it up: what landed is of no use any more."""
        self._part.unlink(missing_ok=True)
        self._beside.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of it. What landed stays for the next run, if anything did."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if not self._renamed and _is_hole(self._descriptor):
                self._part.unlink(missing_ok=True)
                self._beside.unlink(missing_ok=True)
        os.close(self._descriptor)
        if self._seed >= 0:
            os.close(self._seed)
        self._descriptor = self._seed = -1


def clear_abandoned(output: Path) -> None:
    """Remove the temporary files of interrupted runs for this output, which nobody needs any more."""
    ours = re.compile(rf"\.{re.escape(output.name)}{re.escape(PART)}(-[0-9]+)?(\.manifest)?")
    for part in output.parent.iterdir():
        if not ours.fullmatch(part.name):
            continue
        if part.suffix == ".manifest":
            if not part.with_suffix("").exists():
                part.unlink(missing_ok=True)
            continue
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink(missing_ok=True)
            part.with_name(part.name + ".manifest").unlink(missing_ok=True)
        except BlockingIOError:
            pass  # somebody works on it
        finally:
            os.close(descriptor)


def locked_part(output: Path) -> tuple[Path, int]:
    """A temporary file for this output that no other process works on: locked, so that it is known when its
    process has ended, and open, with what such a one left in it.

    Raises:
        LocalDiskError: too many write this output.
        OSError: it can't be made.
    """
    for attempt in range(1, 1000):
        suffix = PART if attempt == 1 else f"{PART}-{attempt}"
        part = output.with_name(f".{output.name}{suffix}")
        while True:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The one who had it may have renamed it just before the lock was free.
                if _same(descriptor, part):
                    return part, descriptor
                os.close(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                break
            except BaseException:
                os.close(descriptor)
                raise
    raise LocalDiskError(f"could not write {output}: a thousand others are writing it")


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_hole(descriptor: int) -> bool:
    """Whether nothing was ever written to a file."""
    try:
        os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def _open_seed(output: Path, manifest: Manifest) -> int:
    """The file that the output replaces, open, if pieces of it can serve again; else -1."""
    if not manifest.size or not manifest.verifiable:
        return -1
    try:
        descriptor = os.open(output, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    piece_size = manifest.header.piece_size
    shards = manifest.shards[:: max(1, len(manifest.shards) // _SAMPLES)]
    for shard in shards:
        piece = os.pread(descriptor, min(piece_size, shard.size), shard.offset)
        if piece_digest(piece) == shard.pieces[:PIECE_DIGEST_SIZE]:
            return descriptor
    os.close(descriptor)
    return -1
