"""A data directory held by this process: lock, ids, counter and settings."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

from shardcast.constants import DISTRIBUTION_FILE, MAX_DISTRIBUTION_FOLDERS
from shardcast.directories import make_folder, new_folder, remove_tree, sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.filesystem import replace
from shardcast.protocol.wire import MAX_VERSION
from shardcast.store.data_dir_layout import DataDirLayout
from shardcast.store.directory_lock import DirectoryLock
from shardcast.store.link_changes import LinkChanges
from shardcast.temporary_files import PART, clear_leftovers


class DataDir(DataDirLayout):
    """A data directory held by this process; no other process can publish or fetch into it meanwhile.

    Attributes:
        origin_id: names the line of versions published here.
        is_new: whether the directory got its id just now.
        links: reports changes of links to files of the publisher.
    """

    def __init__(self, root: Path, role: str) -> None:
        """Take hold of a directory; make a missing one.

        Args:
            root: path of the directory.
            role: the holder's role, for the message to other processes.

        Raises:
            DataDirInUse: another process holds the directory.
            LocalDiskError: the directory can't be made or written.
        """
        super().__init__(root)
        self.is_new = False
        self.links = LinkChanges()
        self._counting = threading.Lock()
        with disk_errors("could not use the data directory", self.root):
            # Before anything in them is acknowledged: a used number is never given again.
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

    def close(self) -> None:
        """Release the directory's lock: another process can take the directory."""
        self._lock.release()

    # The hold

    @property
    def held(self) -> bool:
        """Whether the held directory is still at the path; it may have been moved or replaced."""
        return self._lock.held

    @property
    def lost_reason(self) -> str:
        """Reason for not writing into another directory at the path, with advice."""
        return (
            f"the data directory {self.root} was moved, removed or replaced while this node ran; nothing is "
            "published, fetched or offered from it. Put it back, or stop the node and start it again"
        )

    def check_held(self) -> None:
        """Check for the held directory at the path.

        Raises:
            LocalDiskError: another one is there.
        """
        if not self.held:
            raise LocalDiskError(self.lost_reason)

    def checked_own(self) -> Path:
        """Return the node's own folder, to write into it.

        Raises:
            LocalDiskError: the directory at the path is not the held one.
        """
        self.check_held()
        return self.own

    # Leftovers of a crash

    def clear_leftovers(self) -> None:
        """Remove leftovers of a crash: temporary names, folders in removal, and records without a folder.

        Raises:
            OSError: something can't be removed.
        """
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

    # Numbers

    @property
    def next(self) -> int:
        """Minimum number of the next version."""
        return self._next()

    def allot(self, min_number: int = 1) -> int:
        """Return the next version's number, durable and never given again.

        Args:
            min_number: the lowest number to give, for an origin in succession of another.

        Raises:
            UsageError: no number is left.
            LocalDiskError: the number could not be written down.
        """
        with self._counting, disk_errors("could not number a version in", self.root):
            self.check_held()
            number = max(self._next(), min_number, max(self.numbers(), default=0) + 1)
            if number > MAX_VERSION:
                raise UsageError(f"no version after v{MAX_VERSION} can be made; choose another --data-dir")
            self._put_next(number + 1)
        return number

    def mark_used(self, number: int) -> None:
        """Mark the number of a present or former version as used: it is never given again.

        Raises:
            LocalDiskError: the number could not be recorded.
        """
        with self._counting:
            if number >= self._next():
                self._put_next(number + 1)

    def _next(self) -> int:
        return _read_int(self.own / "next", default=1)

    def _put_next(self, number: int) -> None:
        replace(self.own / "next", b"%d\n" % number)

    # Settings

    def remembered_keep(self, keep: int | None) -> int:
        """Return the number of versions to keep here.

        Args:
            keep: the number to keep, to be remembered; None for the remembered number.

        Raises:
            LocalDiskError: the number could not be written down.
        """
        return self._remembered("keep", keep) or MAX_DISTRIBUTION_FOLDERS

    def remembered_max_bytes(self, max_bytes: int | None, given: bool = True) -> int | None:
        """Return the maximum bytes of all versions; None for no bound.

        Args:
            max_bytes: the bound, to be remembered; None for no bound.
            given: whether ``max_bytes`` counts; otherwise the remembered bound does.

        Raises:
            LocalDiskError: the bound could not be written down.
        """
        return self._remembered("max_bytes", (max_bytes or 0) if given else None) or None

    def _remembered(self, name: str, value: int | None) -> int:
        record = self.own / name
        if value is not None:
            replace(record, b"%d\n" % value)
            return value
        return _read_int(record)

    # The origin id

    def adopt_origin_id(self, origin: str) -> None:
        """Publish under this origin id from now on, durably.

        Raises:
            LocalDiskError: the id could not be written down.
        """
        replace(self.own / "origin", origin.encode() + b"\n")
        self.origin_id = origin

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


def _read_int(file: Path, default: int = 0) -> int:
    text = file.read_text().strip() if file.exists() else ""
    return int(text) if text.isdigit() else default
