"""A data directory: its layout, its lock, its ids and its counter.

::

    data_dir/
      distribution.txt            the complete versions
      v1/manifest.jsonl           header line, one line a shard, closing line
      v1/shard_001.bin  …         plain files
      v2/payload                  all of it in one file, where it was published without a copy
      .shardcast/                 the node's own: lock, socket, socket-at, origin, line, next, keep,
                                  max_bytes, verified/, linked/, pinned/, retired/, lines/, changing, spare
"""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

from shardcast.constants import DISTRIBUTION_FILE, MAX_DISTRIBUTION_FOLDERS
from shardcast.errors import LocalDiskError, UsageError
from shardcast.filesystem import (
    PART,
    clear_leftovers,
    disk_errors,
    make_folder,
    new_folder,
    remove_tree,
    replace,
    sync_folder,
)
from shardcast.protocol.wire import MAX_VERSION, version_name, version_number
from shardcast.store.directory_lock import DirectoryLock
from shardcast.store.version_place import VersionPlace


class DataDir:
    """A data directory that this process holds: nobody else publishes into it or fills it meanwhile.

    Attributes:
        root: the directory.
        origin_id: names the line of versions that is published here.
        is_new: whether the directory got that id just now.
    """

    def __init__(self, root: Path, role: str) -> None:
        """Take hold of a directory, which is made where it doesn't exist.

        Raises:
            DataDirInUse: another process holds it.
            LocalDiskError: it can't be made or written.
        """
        self.root = root.absolute()
        self.is_new = False
        self._counting = threading.Lock()
        with disk_errors("could not use the data directory", self.root):
            # Before anything in them is acknowledged: a number that was given is never given again.
            make_folder(self.root)
            make_folder(self.own)
            self._lock = DirectoryLock(self.own / "lock", self.root, role)
            try:
                for folder in (self.verified, self.linked, self.pinned, self.retired):
                    new_folder(folder, exist_ok=True)
                sync_folder(self.own)
                self.origin_id = self._read_origin_id()
            except BaseException:
                self.close()
                raise

    @property
    def own(self) -> Path:
        return own_folder(self.root)

    def checked_own(self) -> Path:
        """Return the node's own folder, to write into it.

        Raises:
            LocalDiskError: the directory at the path is not the one that is held.
        """
        self.check_held()
        return self.own

    @property
    def distribution(self) -> Path:
        return self.root / DISTRIBUTION_FILE

    @property
    def verified(self) -> Path:
        """Which shards of open versions were verified, and what their files looked like then."""
        return self.own / "verified"

    @property
    def linked(self) -> Path:
        """What the payloads of versions that were published without a copy looked like then."""
        return self.own / "linked"

    @property
    def pinned(self) -> Path:
        """An empty file for each version that stays until it is unpinned."""
        return self.own / "pinned"

    @property
    def line(self) -> Path:
        """The record of the line of versions that is here."""
        return self.own / "line"

    @property
    def lines(self) -> Path:
        """The versions of other lines, in a folder for each line."""
        return self.own / "lines"

    @property
    def changing(self) -> Path:
        """The plan of a change of line, there until it is carried out."""
        return self.own / "changing"

    @property
    def spare(self) -> Path:
        """Blocks for the node's own small files where the disk is full."""
        return self.own / "spare"

    @property
    def retired(self) -> Path:
        """Folders that are being removed."""
        return self.own / "retired"

    @property
    def held(self) -> bool:
        """Whether the directory at the path is the one that is held; it may have been moved or replaced."""
        return self._lock.held

    @property
    def lost(self) -> str:
        """Why nothing is written once the directory at the path is another one, and what to do."""
        return (
            f"the data directory {self.root} was moved, removed or replaced while this node ran; nothing is "
            "published, fetched or offered from it. Put it back, or stop the node and start it again"
        )

    def check_held(self) -> None:
        """
        Raises:
            LocalDiskError: the directory at the path is not the one that is held.
        """
        if not self.held:
            raise LocalDiskError(self.lost)

    def clear_leftovers(self) -> None:
        """Remove what a crash left: temporary names, and folders that were being removed."""
        earlier = self.distribution.with_name(DISTRIBUTION_FILE + PART)  # the name until 0.4.0
        clear_leftovers(self.distribution)
        for part in (earlier, *self.own.glob(f"*{PART}")):
            part.unlink(missing_ok=True)
        for grave in self.retired.iterdir():
            if grave.is_dir():
                remove_tree(grave)
            else:
                grave.unlink()
        for record in (*self.verified.iterdir(), *self.linked.iterdir(), *self.pinned.iterdir()):
            if not (self.root / record.name).is_dir():
                record.unlink()

    def folder(self, number: int) -> Path:
        return self.root / version_name(number)

    def place(self, number: int) -> VersionPlace:
        """Return where a version of the current line lies."""
        version = version_name(number)
        return VersionPlace(
            self.root / version, self.verified / version, self.linked / version, self.pinned / version
        )

    def manifest(self, number: int) -> Path:
        return self.place(number).manifest

    def shard(self, number: int, shard: int) -> Path:
        """A shard's file; what 0.3.x left here has five digits."""
        return self.place(number).shard(shard)

    def adopt_origin_id(self, origin: str) -> None:
        """Publish under this origin id from now on, durably.

        Raises:
            LocalDiskError: it could not be written down.
        """
        replace(self.own / "origin", origin.encode() + b"\n")
        self.origin_id = origin

    @property
    def next(self) -> int:
        """The number that the next version is given at the least."""
        return self._next()

    def numbers(self) -> list[int]:
        """The versions that have a folder."""
        found = (version_number(entry.name) for entry in self.root.iterdir() if entry.is_dir())
        return sorted(number for number in found if number is not None)

    def allot(self, least: int = 1) -> int:
        """The next version's number, which is durable and never given again.

        ``least`` lets an origin go on where another left off.

        Raises:
            UsageError: no number is left.
            LocalDiskError: it could not be written down.
        """
        with self._counting, disk_errors("could not number a version in", self.root):
            self.check_held()
            number = max(self._next(), least, max(self.numbers(), default=0) + 1)
            if number > MAX_VERSION:
                raise UsageError(f"no version after v{MAX_VERSION} can be made; choose another --data-dir")
            self._put_next(number + 1)
        return number

    def never_again(self, number: int) -> None:
        """See to it that this number, which was given to a version here, is not given again."""
        with self._counting:
            if number >= self._next():
                self._put_next(number + 1)

    def _next(self) -> int:
        counter = self.own / "next"
        text = counter.read_text().strip() if counter.exists() else ""
        return int(text) if text.isdigit() else 1

    def _put_next(self, number: int) -> None:
        replace(self.own / "next", b"%d\n" % number)

    def close(self) -> None:
        self._lock.release()

    def kept(self, keep: int | None) -> int:
        """How many versions to keep here: what is said, which is remembered, else what was said last."""
        return self._remembered("keep", keep) or MAX_DISTRIBUTION_FOLDERS

    def bounded(self, max_bytes: int | None, said: bool = True) -> int | None:
        """How many bytes the versions may take: what is ``said``, which is remembered, else what was said
        last; None for no bound."""
        return self._remembered("max_bytes", (max_bytes or 0) if said else None) or None

    def _remembered(self, name: str, value: int | None) -> int:
        record = self.own / name
        if value is not None:
            replace(record, b"%d\n" % value)
            return value
        text = record.read_text().strip() if record.exists() else ""
        return int(text) if text.isdigit() else 0

    def _read_origin_id(self) -> str:
        file = self.own / "origin"
        if file.exists():
            known = file.read_text().strip()
            if known:
                return known
        self.is_new = True
        fresh = secrets.token_hex(16)
        replace(file, fresh.encode() + b"\n")
        return fresh


def own_folder(root: Path) -> Path:
    return root / ".shardcast"
