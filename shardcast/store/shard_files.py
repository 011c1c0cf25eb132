"""The shard files of an open version: written, named, linked, and opened again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from shardcast.file_copies import hard_link
from shardcast.file_moves import rename
from shardcast.file_systems import reserve
from shardcast.open_files import close, sync_file
from shardcast.protocol.manifest import Shard
from shardcast.protocol.wire import shard_name, shard_number
from shardcast.store.disk_usage import space_of, taken_by
from shardcast.store.hooks import OpenVersionHooks
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_space import OpenSpace
from shardcast.store.shard_part import name_shard, open_shard_part
from shardcast.store.verified import VerificationRecord, recorded_identity
from shardcast.store.version_place import VersionPlace
from shardcast.temporary_files import PART

Touching = Callable[[str, Path], AbstractContextManager[None]]
"""Entered around every use of a version's files, with the action and the file.

Raises ``ShardcastError`` where the version was stopped, and words errors of the disk.
"""


class ShardFiles:
    """The shard files of an open version, each under its temporary or its final name.

    Threads call every method with disk access. A shard counts as verified (``OpenSpace.verified_shards``)
    only after the rename of its file, in one step.
    """

    def __init__(
        self,
        place: VersionPlace,
        live: LiveManifest,
        space: OpenSpace,
        hooks: OpenVersionHooks,
        *,
        touching: Touching,
        on_verified: Callable[[], None],
    ) -> None:
        """Make an object without open files.

        Args:
            place: place of the version.
            live: the growing manifest.
            space: counts the local bytes.
            hooks: the calls to the directory.
            touching: entered around every use of a file.
            on_verified: called after a shard got its name.
        """
        self._place = place
        self._live = live
        self._space = space
        self._hooks = hooks
        self._touching = touching
        self._on_verified = on_verified
        self._record = VerificationRecord(place.verified)

    def part(self, shard: int) -> Path:
        """Return the temporary name of a shard."""
        return self._place.part(shard)

    def final(self, shard: int) -> Path:
        """Return the final name of a shard."""
        return self._place.folder / shard_name(shard)

    def resume(self) -> None:
        """Count the shards of an earlier run: those unchanged since verified, and temporary files."""
        known = self._record.read()
        for shard in self._live.shards:
            if known.get(shard.number) == (shard.sha256, recorded_identity(self.final(shard.number))):
                self._count(shard.number)
        for part in self._place.folder.glob(f"*{PART}"):
            number = shard_number(part.name.removesuffix(PART))
            if number is not None:
                self._space.arrive(number, taken_by(part.stat()))

    # Names

    def publish_shard(self, shard: int, sha256: str) -> None:
        """Give a shard cut here its name, so readers can request it; ``fsync_shard`` follows.

        A shard of another local version is linked instead. If the node ends before the fsync, the version is
        dropped too, so nothing depends on unsynced bytes. Blocks on the disk.

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not keep", self.final(shard)):
            self._name(shard, sha256, sync=False)
            self._count(shard)
        self._on_verified()

    def publish_known(self, shard: Shard) -> bool:
        """Link a shard of another local version, as if cut here; return False if none has the shard.

        ``fsync_shard`` follows. Blocks on the disk.

        Raises:
            LocalDiskError: the disk failed.
        """
        final = self.final(shard.number)
        with self._touching("could not keep", final):
            if not self._link(shard.sha256, final):
                return False
            self._count(shard.number)
        self._on_verified()
        return True

    def fsync_shard(self, shard: int, sha256: str) -> None:
        """Make a published shard durable, and record it as verified; blocks on the disk.

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not keep", self.final(shard)):
            sync_file(self.final(shard))
            self._record.add(shard, sha256, self.final(shard))

    def commit_shard(self, shard: int, sha256: str | None, link: bool = True) -> None:
        """Make a shard's temporary file durable and rename it; blocks on the disk.

        Args:
            shard: number of the shard.
            sha256: digest of the shard; None for unknown.
            link: whether to link a shard with this digest of another local version instead.

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not keep", self.final(shard)):
            self._name(shard, sha256 if link else None, sync=True)
            self._mark_verified(shard, sha256)

    def verify_link(self, shard: Shard) -> None:
        """Count a linked shard whose bytes were verified; blocks on the disk.

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not keep", self.final(shard.number)):
            self._mark_verified(shard.number, shard.sha256)

    def link_shard(self, shard: Shard) -> bool:
        """Link a shard of another local version; return False if none has the shard. Blocks on the disk.

        The link needs no room, and stays after a removal of the other version. The bytes are verified when
        the shard is opened.

        Raises:
            LocalDiskError: the disk failed.
        """
        final = self.final(shard.number)
        with self._touching("could not keep", final):
            if not self._link(shard.sha256, final):
                return False
            self._space.link(shard.number, shard.size)
            self._hooks.usage.add(self._place.folder, final.stat())
            return True

    def keep_only(self, count: int) -> None:
        """Remove shards beyond ``count``, of an earlier, longer payload with this number.

        Raises:
            OSError: a file can't be removed.
        """
        for entry in self._place.folder.iterdir():
            if (shard_number(entry.name.removesuffix(PART)) or 0) > count:
                entry.unlink()
        verified = self._record.read()
        self._record.write({shard: verified[shard] for shard in range(1, count + 1) if shard in verified})

    def forget(self) -> None:
        """Remove the record of verified shards."""
        self._record.remove()

    def _name(self, shard: int, sha256: str | None, *, sync: bool) -> None:
        """Give a shard the final name: by a link to a known shard, or by a rename of the temporary file."""
        part, final = self.part(shard), self.final(shard)
        if self._link(sha256, final):
            part.unlink(missing_ok=True)
        else:
            name_shard(part, final, sync)

    def _link(self, sha256: str | None, final: Path) -> bool:
        """Link the file of a known shard with this digest; return whether there was one."""
        known = self._hooks.find(sha256) if sha256 else None
        if known is None or known == final:
            return False
        final.unlink(missing_ok=True)
        if not hard_link(known, final):
            return False
        self._hooks.usage.share(known.parent, final.stat())
        return True

    def _mark_verified(self, shard: int, sha256: str | None) -> None:
        """Record and count a right shard under its final name."""
        self._record.add(shard, sha256, self.final(shard))
        self._count(shard)
        self._on_verified()

    def _count(self, shard: int) -> None:
        """Count a shard under its final name as local."""
        found = self.final(shard).stat()
        if self._space.add_verified(shard, found.st_size):
            self._hooks.usage.add(self._place.folder, found)

    # Landings

    def open_final(self, shard: Shard) -> Landing:
        """Open a shard under its final name, for reading; blocks on the disk.

        Raises:
            LocalDiskError: the file can't be opened.
        """
        final = self.final(shard.number)
        with self._touching("could not open", final):
            return self._landing(shard, final, os.open(final, os.O_RDONLY | os.O_CLOEXEC))

    def open_part(self, shard: Shard, reserved: bool) -> Landing:
        """Open the temporary file of a shard, to be written; blocks on the disk.

        Args:
            shard: the arriving shard.
            reserved: whether room for the whole shard is taken now.

        Raises:
            LocalDiskError: there is no room, or the disk failed.
        """
        part, final = self.part(shard.number), self.final(shard.number)
        with self._touching("could not write", final):
            if final.exists():  # it changed since it was verified: look again
                if self._space.unlink(shard.number):
                    self._hooks.usage.remove(self._place.folder, final.stat())
                if final.stat().st_nlink > 1:  # never write into another version's shard
                    final.unlink()
                else:
                    rename(final, part, durable=False)
            descriptor = open_shard_part(part)
            try:
                os.ftruncate(descriptor, min(shard.size, os.fstat(descriptor).st_size))
                if shard.size and reserved:
                    reserve(descriptor, 0, shard.size)
                self._space.arrive(
                    shard.number, space_of(shard.size) if reserved else taken_by(os.fstat(descriptor))
                )
            except BaseException:
                close(descriptor)
                raise
            return self._landing(shard, part, descriptor)

    def reserve_part(self, shard: Shard) -> None:
        """Take room on the disk for a shard; blocks on the disk.

        Raises:
            LocalDiskError: there is none.
        """
        if not self.final(shard.number).exists():
            close(self.open_part(shard, reserved=True).descriptor)

    def _landing(self, shard: Shard, path: Path, descriptor: int) -> Landing:
        """Return a landing at the start of an open file."""
        return Landing(shard, self._live.header.piece_size, path=path, descriptor=descriptor)
