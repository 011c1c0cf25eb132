"""Taking files out of a directory of blobs while others put some there: what is set aside, and why.

::

    DIRECTORY/.shardcast-store/quarantine/
      ab3f…-5c01d2e7            a file that is not what its name says, as it was found
      ab3f…-5c01d2e7.json       why it is here, and since when
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from shardcast.constants import LOCK_WAIT
from shardcast.digest import is_digest
from shardcast.file_locks import locked
from shardcast.filesystem import PART, disk_errors, rename, rename_free, replace, temporary_name
from shardcast.store.blobs.layout import OWN, Folder, make_own

_RECORD = ".json"
_LOCK = "lock"
_UNFINISHED = "it was being set aside when that was interrupted, and its place was taken meanwhile"


def take_out(path: Path, place: Path, is_meant: Callable[[os.stat_result], bool]) -> bool:
    """Move a file to another place of its directory, if it still ``is_meant``; whether it did. Whoever
    puts a blob may replace the file at any moment: then the new one goes back where it was.

    Raises:
        OSError: it can't be moved.
    """
    # On another disk it would be another file: it is looked at before it is copied there.
    here = temporary_name(path) if path.parent.stat().st_dev != place.parent.stat().st_dev else place
    try:
        rename(path, here, durable=False)
    except FileNotFoundError:
        return False
    if not is_meant(here.lstat()):
        put_back(here, path)
        return False
    if here != place:
        rename(here, place, durable=False)
    return True


def put_back(place: Path, path: Path) -> bool:
    """Move a file back, unless something has its name by now; whether it did, it has left ``place`` anyway.

    Raises:
        OSError: it can't be moved.
    """
    back = rename_free(place, path)
    if not back:
        place.unlink()
    return back


@contextlib.contextmanager
def one_at_a_time(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Entered by one process at a time; without ``wait``, False when another one is there.

    Raises:
        OSError: the folder can't be locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _LOCK, LOCK_WAIT if wait else 0.0))
        except BlockingIOError:
            if wait:
                raise
            yield False
        else:
            yield True


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file in quarantine.

    Attributes:
        digest: of the blob that it should have been.
        file: where it lies now.
        was: where it lay.
        size: its bytes.
        reason: why it is there.
        since: seconds since 1970.
    """

    digest: str
    file: str
    was: str
    size: int
    reason: str
    since: float


class Quarantine:
    """Files that were set aside from a directory of blobs. None of them is served, and none is removed."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._place = Path(folder.root) / OWN / "quarantine"

    def take(self, path: str, digest: str, looks: os.stat_result, reason: str) -> SetAside | None:
        """Set a file aside that looks like this; None when it is another one by now. Blocks on the disk.

        Raises:
            LocalDiskError: it can't be moved.
        """
        was, name = Path(path), f"{Path(path).name}-{secrets.token_hex(4)}"
        with disk_errors("could not set aside", was), self._alone():
            same = (looks.st_dev, looks.st_ino, looks.st_size, looks.st_mtime_ns)
            if not take_out(
                was,
                self._place / name,
                lambda now: (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) == same,
            ):
                return None
            return self._write(digest, name, was, looks.st_size, reason)

    def finish(self) -> None:
        """See to what was being set aside when that was interrupted: it goes back, and is looked at again.
        Blocks on the disk.

        Raises:
            LocalDiskError: it can't be moved.
        """
        with disk_errors("could not look into", self._place):
            if not self._unfinished() and not self._parts():
                return
        with disk_errors("could not put back from", self._place), self._alone():
            for part in self._parts():  # of records, which are written alone
                part.unlink(missing_ok=True)
            for file in self._unfinished():  # by now: it may have been at work just then
                digest = file.name[:64]
                was = Path(self._folder.parent(digest)) / file.name.rpartition("-")[0]
                if was.exists():
                    self._write(digest, file.name, was, file.stat().st_size, _UNFINISHED)
                else:
                    put_back(file, was)

    def entries(self) -> Iterator[SetAside]:
        """All of it; blocks on the disk.

        Raises:
            LocalDiskError: it can't be read.
        """
        with disk_errors("could not look into", self._place):
            for record in self._records():
                try:
                    yield SetAside(**json.loads(record.read_bytes()))
                except (ValueError, TypeError) as error:
                    raise OSError(f"{record.name} is no record of a file set aside ({error})") from None

    def _records(self) -> list[Path]:
        """(``glob`` passes over a folder that can't be read.)"""
        try:
            return sorted(file for file in self._place.iterdir() if file.suffix == _RECORD)
        except FileNotFoundError:
            return []

    def _parts(self) -> list[Path]:
        return list(self._place.glob(f"*{PART}"))

    def _unfinished(self) -> list[Path]:
        if not self._place.is_dir():
            return []
        files = (
            file for file in self._place.iterdir() if is_digest(file.name[:64]) and file.suffix != _RECORD
        )
        return [file for file in files if not Path(f"{file}{_RECORD}").exists() and file.suffix != PART]

    def _write(self, digest: str, name: str, was: Path, size: int, reason: str) -> SetAside:
        file = self._place / name
        aside = SetAside(digest, str(file), str(was), size, reason, round(time.time(), 3))
        replace(Path(f"{file}{_RECORD}"), json.dumps(asdict(aside)).encode() + b"\n")
        return aside

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        make_own(self._place)
        with one_at_a_time(self._place):
            yield
