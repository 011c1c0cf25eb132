"""A store in a directory: a file gets its name only after its bytes were synced and read back."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shardcast.directories import DurableFolders, make_folder, sync_folder
from shardcast.disk_errors import is_full
from shardcast.errors import MissingExternalFile, RegistryError, StoreInaccessible, StoreMissing
from shardcast.file_moves import rename, rename_if_free
from shardcast.filesystem import give_name, give_name_if_free
from shardcast.open_files import close, write_all
from shardcast.registry.backend import StorageBackend
from shardcast.registry.hashes import Buffer, checked_path
from shardcast.registry.stores import StoreSpec
from shardcast.temporary_files import PART, create_private

_BUFFER = 1 << 20


class DirectoryBackend(StorageBackend):
    """A store in an existing directory."""

    def __init__(self, spec: StoreSpec, folders: DurableFolders | None = None) -> None:
        """Open a directory.

        Args:
            spec: the store's configuration.
            folders: makes folders in the directory; given if shared with other users of the directory.

        Raises:
            StoreMissing: the directory does not exist.
            StoreInaccessible: the directory cannot be accessed.
        """
        super().__init__(spec)
        self._root = Path(spec.location).absolute()
        self._folders = folders or DurableFolders(self._root)
        with self._failing("use", self._root):
            exists = self._root.is_dir()
        if not exists:
            raise StoreMissing(
                f"store {spec.name!r}: there is no directory {spec.location}; make or mount the directory"
            )

    def put_buffer(self, buffer: Buffer, remote_path: str) -> None:
        """Write a file durably, and read its bytes back before naming the file."""
        full = self._full(remote_path)
        with self._failing("write", full), self._written(full, buffer) as (part, descriptor):
            give_name(descriptor, part, full)

    def get_buffer(self, remote_path: str) -> bytes:
        """Return the bytes of a file."""
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return full.read_bytes()

    def put_file(self, local_path: str | Path, remote_path: str) -> None:
        """Copy a local file into the store, durably."""
        full, local = self._full(remote_path), Path(local_path)
        with (
            self._failing("read", local),
            local.open("rb") as source,
            self._failing(f"copy {local} to", full),
        ):
            self._folders.make(full.parent)
            _copy(source, full)

    def get_file(self, remote_path: str, local_path: str | Path) -> None:
        """Copy a file to a local one, durably."""
        full, local = self._full(remote_path), Path(local_path)
        with (
            self._failing("read", full, reading=True),
            full.open("rb") as source,
            self._failing(f"copy {full} to", local),
        ):
            make_folder(local.parent)
            _copy(source, local)

    def exists(self, remote_path: str) -> bool:
        """Return whether a path has a file or a folder."""
        full = self._full(remote_path)
        with self._failing("look for", full):
            return _mode(full) is not None

    def isdir(self, remote_path: str) -> bool:
        """Return whether a path has a folder."""
        full = self._full(remote_path)
        with self._failing("look for", full):
            return stat.S_ISDIR(_mode(full) or 0)

    def remove(self, remote_path: str) -> None:
        """Remove a file, durably; a missing one is no error."""
        full = self._full(remote_path)
        with self._failing("remove", full):
            try:
                full.unlink()
            except FileNotFoundError:
                return
            sync_folder(full.parent)

    def size(self, remote_path: str) -> int:
        """Return the size of a file, in bytes."""
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return full.stat().st_size

    def open(self, remote_path: str) -> BinaryIO:
        """Open a file for reading."""
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return full.open("rb")

    def get_url(self, remote_path: str) -> str:
        """Return the ``file:///`` URL of a path."""
        return self._full(remote_path).as_uri()

    def create(self, remote_path: str, data: bytes) -> bool:
        """Write a file as ``put_buffer`` does where there is none; return whether there was none."""
        full = self._full(remote_path)
        with self._failing("write", full), self._written(full, data) as (part, descriptor):
            return give_name_if_free(descriptor, part, full)

    def renew(self, remote_path: str, data: bytes) -> bool:
        """Set a file's time to now; another user's file is replaced by one of ours."""
        full = self._full(remote_path)
        with self._failing("set the time of", full):
            try:
                os.utime(full)
            except FileNotFoundError:
                return False
            except PermissionError:  # another user's file: replace it by one of ours
                self.put_buffer(data, remote_path)
        return True

    def files(self, folder: str) -> dict[str, int]:
        """Return the size of each file below a folder, in bytes, by path; links are left out."""
        full = self._full(folder)
        found: dict[str, int] = {}
        with self._failing("list", full):
            if not stat.S_ISDIR(_mode(full) or 0):
                return found
            for place, _, names in os.walk(full, onerror=_fail):
                for name in names:
                    file = Path(place, name)
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        if not file.is_symlink():
                            found[file.relative_to(self._root).as_posix()] = file.stat().st_size
        return found

    def modified(self, remote_path: str) -> float:
        """Return when a file was written, renewed or named, in seconds since 1970."""
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return _changed(full.stat())

    def set_right(self, remote_path: str) -> None:
        """Set a file's time to now."""
        full = self._full(remote_path)
        with self._failing("set the time of", full, reading=True):
            os.utime(full)

    def set_aside(self, remote_path: str, aside: str, before: float, now: float) -> bool:
        """Rename a file to ``aside``; undo the rename if a put renewed the file meanwhile."""
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
        # A put renewed the file between stat and rename, and relies on its name.
        self.bring_back(aside, remote_path)
        return False

    def bring_back(self, aside: str, remote_path: str) -> bool:
        """Rename a file back, unless its path has a new file."""
        full, other = self._full(remote_path), self._full(aside)
        with self._failing("bring back", other, reading=True):
            return rename_if_free(other, full)

    def _full(self, path: str) -> Path:
        """Return the absolute path of a file."""
        return self._root / checked_path(path)

    @contextlib.contextmanager
    def _written(self, full: Path, data: Buffer) -> Iterator[tuple[Path, int]]:
        """Yield a temporary file with ``data``, durable and read back; remove the file unless renamed.

        Args:
            full: the final path, in the same folder.
            data: the bytes.

        Yields:
            The path and the descriptor of the temporary file.

        Raises:
            StoreInaccessible: other bytes were read back.
            OSError: the file cannot be written.
        """
        self._folders.make(full.parent)
        part, descriptor = full.with_name(f".{secrets.token_hex(8)}{PART}"), -1
        try:
            descriptor = create_private(part)
            write_all(descriptor, memoryview(data))
            os.fsync(descriptor)
            if not _has(part, data):
                raise StoreInaccessible(
                    f"store {self.spec.name!r}: other bytes were read from {full} than written; "
                    "nothing was kept, check the disk"
                )
            yield part, descriptor
        finally:
            if descriptor >= 0:
                close(descriptor)
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _failing(self, doing: str, full: Path, reading: bool = False) -> Iterator[None]:
        """Turn errors of the system into the registry's errors."""
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
    """Return the real path of a store's directory, with links resolved."""
    return os.path.realpath(spec.location)


def _mode(path: Path) -> int | None:
    """Return the mode of a path; None for a missing path.

    (From Python 3.14 on, ``Path.exists`` is also False for an inaccessible path.)

    Raises:
        OSError: the path is inaccessible.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _changed(known: os.stat_result) -> float:
    """Return the time of a file's last write, renewal or rename: a restored backup counts as new."""
    return max(known.st_mtime, known.st_ctime)


def _copy(source: BinaryIO, target: Path) -> None:
    """Copy an open file, durably and in one step."""
    part = target.with_name(f".{secrets.token_hex(8)}{PART}")
    try:
        with os.fdopen(create_private(part), "wb") as written:
            shutil.copyfileobj(source, written, _BUFFER)
            written.flush()
            give_name(written.fileno(), part, target)
    finally:
        part.unlink(missing_ok=True)


def _has(file: Path, data: Buffer) -> bool:
    """Return whether a file has these bytes and no others."""
    view = memoryview(data)
    position = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_BUFFER):
            if chunk != view[position : position + len(chunk)]:
                return False
            position += len(chunk)
    return position == len(view)


def _fail(error: OSError) -> None:
    """Raise the error of an unreadable folder: a listing without the folder would be wrong."""
    raise error
