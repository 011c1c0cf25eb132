"""A store in a directory: a name appears only when its bytes are on the disk and were read back."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shardcast.durable_folders import DurableFolders
from shardcast.errors import MissingExternalFile, RegistryError, StoreInaccessible, StoreMissing
from shardcast.filesystem import (
    PART,
    close,
    create_private,
    give_free_name,
    give_name,
    is_full,
    make_folder,
    rename,
    rename_free,
    sync_folder,
    write_all,
)
from shardcast.registry.backend import StorageBackend
from shardcast.registry.hashes import Buffer, checked_path
from shardcast.registry.stores import StoreSpec

_BUFFER = 1 << 20


class DirectoryBackend(StorageBackend):
    """A store in a directory, which must exist.

    Raises:
        StoreMissing: it does not.
    """

    def __init__(self, spec: StoreSpec, folders: DurableFolders | None = None) -> None:
        """``folders``: makes folders in it, where others use it, too."""
        super().__init__(spec)
        self._root = Path(spec.location).absolute()
        self._folders = folders or DurableFolders(self._root)
        with self._failing("use", self._root):
            there = self._root.is_dir()
        if not there:
            raise StoreMissing(
                f"store {spec.name!r}: there is no directory {spec.location}; make it, or mount what it is on"
            )

    def put_buffer(self, buffer: Buffer, remote_path: str) -> None:
        full = self._full(remote_path)
        with self._failing("write", full), self._written(full, buffer) as (part, descriptor):
            give_name(descriptor, part, full)

    def get_buffer(self, remote_path: str) -> bytes:
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return full.read_bytes()

    def put_file(self, local_path: str | Path, remote_path: str) -> None:
        full = self._full(remote_path)
        with self._failing("write", full):
            self._folders.make(full.parent)
            _copy(Path(local_path), full)

    def get_file(self, remote_path: str, local_path: str | Path) -> None:
        full, local = self._full(remote_path), Path(local_path)
        with self._failing("read", full, reading=True):
            make_folder(local.parent)
            _copy(full, local)

    def exists(self, remote_path: str) -> bool:
        full = self._full(remote_path)
        with self._failing("look for", full):
            return _mode(full) is not None

    def isdir(self, remote_path: str) -> bool:
        full = self._full(remote_path)
        with self._failing("look for", full):
            return stat.S_ISDIR(_mode(full) or 0)

    def remove(self, remote_path: str) -> None:
        full = self._full(remote_path)
        with self._failing("remove", full):
            try:
                full.unlink()
            except FileNotFoundError:
                return
            sync_folder(full.parent)

    def size(self, remote_path: str) -> int:
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return full.stat().st_size

    def open(self, remote_path: str) -> BinaryIO:
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return full.open("rb")

    def get_url(self, remote_path: str) -> str:
        return self._full(remote_path).as_uri()

    def create(self, remote_path: str, data: bytes) -> bool:
        full = self._full(remote_path)
        with self._failing("write", full), self._written(full, data) as (part, descriptor):
            return give_free_name(descriptor, part, full)

    def renew(self, remote_path: str, data: bytes) -> bool:
        full = self._full(remote_path)
        try:
            os.utime(full)
        except FileNotFoundError:
            return False
        except PermissionError:  # it is another user's: have one of our own
            self.put_buffer(data, remote_path)
        return True

    def files(self, folder: str) -> dict[str, int]:
        full = self._full(folder)
        found: dict[str, int] = {}
        with self._failing("list", full):
            if not stat.S_ISDIR(_mode(full) or 0):
                return found
            for place, _, names in os.walk(full, onerror=_fail):
                for name in names:
                    file = Path(place, name)
                    with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                        if not file.is_symlink():
                            found[file.relative_to(self._root).as_posix()] = file.stat().st_size
        return found

    def modified(self, remote_path: str) -> float:
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return _changed(full.stat())

    def set_right(self, remote_path: str) -> None:
        full = self._full(remote_path)
        with self._failing("set the time of", full, reading=True):
            os.utime(full)

    def set_aside(self, remote_path: str, aside: str, before: float, now: float) -> bool:
        full, other = self._full(remote_path), self._full(aside)
        with self._failing("set aside", full):
            try:
                known = full.stat()
                if _changed(known) > before:
                    return False
                rename(full, other)
            except FileNotFoundError:
                return False
            if other.stat().st_mtime_ns == known.st_mtime_ns:
                with contextlib.suppress(PermissionError):  # another user's: the rename changed its ctime
                    os.utime(other, (now, now))
                return True
        # A put renewed it between the two: it relies on it.
        self.bring_back(aside, remote_path)
        return False

    def bring_back(self, aside: str, remote_path: str) -> bool:
        full, other = self._full(remote_path), self._full(aside)
        with self._failing("bring back", other, reading=True):
            return rename_free(other, full)

    def _full(self, path: str) -> Path:
        return self._root / checked_path(path)

    @contextlib.contextmanager
    def _written(self, full: Path, data: Buffer) -> Iterator[tuple[Path, int]]:
        """A file beside ``full`` that has ``data``, durable and read back; removed if it isn't renamed."""
        self._folders.make(full.parent)
        part, descriptor = full.with_name(f".{secrets.token_hex(8)}{PART}"), -1
        try:
            descriptor = create_private(part)
            write_all(descriptor, memoryview(data))
            os.fsync(descriptor)
            if not _has(part, data):
                raise StoreInaccessible(
                    f"store {self.spec.name!r}: {full} was written, and read back it is something else; "
                    "nothing was kept, check the disk"
                )
            yield part, descriptor
        finally:
            if descriptor >= 0:
                close(descriptor)
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _failing(self, doing: str, full: Path, reading: bool = False) -> Iterator[None]:
        try:
            yield
        except RegistryError:
            raise
        except (OSError, UnicodeError) as error:
            if reading and isinstance(error, FileNotFoundError | NotADirectoryError):
                raise MissingExternalFile(f"there is nothing at {full}") from error
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            hint = "; free some space and try again, what is here is kept" if is_full(error) else ""
            raise StoreInaccessible(
                f"store {self.spec.name!r}: could not {doing} {full}: {what}{hint}"
            ) from error


def directory_root(spec: StoreSpec) -> str:
    """Where a store's directory really is, whichever way its location names it."""
    return os.path.realpath(spec.location)


def _mode(path: Path) -> int | None:
    """What there is under a path; None where there is nothing. (``exists`` of Python 3.14 says so of whatever
    can't be looked at, too.)

    Raises:
        OSError: it can't be told.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _changed(known: os.stat_result) -> float:
    """When a file was written, renewed, or got its name: one that a backup brought back is new."""
    return max(known.st_mtime, known.st_ctime)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, durably and in one step."""
    part = target.with_name(f".{secrets.token_hex(8)}{PART}")
    try:
        with source.open("rb") as read, os.fdopen(create_private(part), "wb") as written:
            shutil.copyfileobj(read, written, _BUFFER)
            written.flush()
            give_name(written.fileno(), part, target)
    finally:
        part.unlink(missing_ok=True)


def _has(file: Path, data: Buffer) -> bool:
    """Whether a file has these bytes and no others."""
    view = memoryview(data)
    at = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_BUFFER):
            if chunk != view[at : at + len(chunk)]:
                return False
            at += len(chunk)
    return at == len(view)


def _fail(error: OSError) -> None:
    """A folder that can't be listed hides what is in it; the whole listing fails."""
    raise error
