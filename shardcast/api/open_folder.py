"""A version written as a folder: each file is sent once closed, or at once if its size is known."""

from __future__ import annotations

import io
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from shardcast.control.writer import BroadcastWriter
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, PayloadChanged, UsageError
from shardcast.file_identity import FileIdentity
from shardcast.folders.entries import PERMISSIONS, EntryKind, FolderEntry, UnsafeEntry, check_entry
from shardcast.folders.listing import entry_values
from shardcast.folders.written_publishing import LENGTH_BYTES
from shardcast.folders.written_table import WrittenTable
from shardcast.protocol.manifest_reader import is_folder_name

_IN_MEMORY = 32 << 20
"""Maximum bytes in memory of an open file of unknown size; a larger file goes to a temporary file."""
_CHUNK = 1 << 20
"""Bytes copied at a time."""
_FOLDER_MODE = 0o755


class FolderWriter:
    """A folder of a new version; files written into it are published in the order of their closing.

    Leaving the block completes the version; an exception in the block aborts the version, on every node::

        with shardcast.open_broadcast_folder("step-1200") as folder:
            with folder.open("model-00001.safetensors", size=n) as file:
                file.write(data)
            folder.write("config.json", b"{}")

    One thread at a time writes, and one file is open at a time.

    Attributes:
        version: the version's name, ``v7``.
    """

    def __init__(
        self,
        data_dir: Path,
        name: str,
        shard_size: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a version at the origin of a data directory.

        Args:
            data_dir: the data directory.
            name: name of the folder.
            shard_size: bytes of a shard; None for the origin's own.
            metadata: JSON object for the version; None for none.

        Raises:
            NoNode: no origin runs on the data directory.
            NodeFailed: the origin went away, or is one of an earlier shardcast.
            UsageError: the name, the shard size or the metadata make no sense.
        """
        if not is_folder_name(name):
            raise UsageError(f"{name!r} is no name of a folder: printable, without slashes, not . or ..")
        self._table = WrittenTable()
        self._file: FolderFile | None = None
        self._is_whole = False
        self._writer = BroadcastWriter(data_dir, name, shard_size, metadata, as_folder=True)
        self.version = self._writer.version

    def open(
        self, path: str, size: int | None = None, *, mode: int = 0o644, mtime: int | None = None
    ) -> FolderFile:
        """Open the next file for writing, in binary.

        Args:
            path: in the folder, with slashes; folders on the way are made.
            size: bytes of the file, to send it while being written; None if unknown: the file is kept here
                until closed, and sent then.
            mode: permission bits.
            mtime: seconds since 1970; None for now.

        Returns:
            The file; use it in a ``with`` block to close it.

        Raises:
            UsageError: the path is unsafe or already used, or another file is still open.
            ShardcastError: publishing failed, with the reason.
        """
        if self._file is not None and not self._file.closed:
            raise UsageError(f"close {self._file.name!r} before {path!r} is opened")
        modified = int(time.time()) if mtime is None else mtime
        entry = FolderEntry(os.fsencode(path), EntryKind.FILE, size or 0, mode & PERMISSIONS, modified)
        self._check(entry)
        self._file = FolderFile(self, entry) if size is None else SizedFile(self, entry)
        return self._file

    def write(self, path: str, data: bytes, *, mode: int = 0o644, mtime: int | None = None) -> None:
        """Write a whole file.

        Args:
            path: in the folder, with slashes; folders on the way are made.
            data: the bytes.
            mode: permission bits.
            mtime: seconds since 1970; None for now.

        Raises:
            UsageError: the path is unsafe or already used, or another file is still open.
            ShardcastError: publishing failed, and why.
        """
        with self.open(path, len(data), mode=mode, mtime=mtime) as file:
            file.write(data)

    def add(self, source: str | os.PathLike[str], name: str | None = None) -> None:
        """Write a file from the disk, with its mode and time.

        Args:
            source: the file.
            name: path in the folder; None for the file's name.

        Raises:
            PayloadChanged: the file changed meanwhile, and the version was aborted.
            LocalDiskError: the source is no file, or cannot be read; a failure while reading aborts the
                version.
            UsageError: the path is unsafe or already used, or another file is still open.
            ShardcastError: publishing failed, with the reason.
        """
        path = Path(source)
        with disk_errors("could not read", path), open(path, "rb", buffering=0, opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise LocalDiskError(f"can't add {path}: no regular file")
            mtime = found.st_mtime_ns // 10**9
            target = self.open(name or path.name, found.st_size, mode=found.st_mode, mtime=mtime)
            with target, self._aborting():
                while data := file.read(_CHUNK):
                    target.write(data)
                after = FileIdentity.from_stat(os.fstat(file.fileno()))
                if not after.same_content(FileIdentity.from_stat(found)):
                    raise PayloadChanged(f"{path} changed while it was read; {self.version} was aborted")

    def complete(self) -> str:
        """End the folder, and wait until the version is complete; a failure aborts the version.

        Returns:
            The version's name.

        Raises:
            UsageError: a file is still open, and the version was aborted.
            ShardcastError: publishing failed, and why.
        """
        with self._aborting():
            if self._file is not None and not self._file.closed:
                raise UsageError(f"{self._file.name!r} is still open; {self.version} was aborted")
            if not self._is_whole:
                self._writer.write(bytes(LENGTH_BYTES))
                self._is_whole = True
        return self._writer.complete()

    def abort(self) -> None:
        """Abort the version, unless complete."""
        self._writer.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.complete()
        finally:
            self._writer.close()

    def _check(self, entry: FolderEntry) -> None:
        """Check the path of an entry; not whether another file is open, or the version has ended.

        Raises:
            UsageError: the path is unsafe, already used, or lies below a file of the version.
        """
        try:
            check_entry(entry)
            if self._table.has(entry.path):
                raise UnsafeEntry(f"{entry.text!r} was written before")
            if any(self._table.find(above[:-1]) is not None for above in _above(entry.path)):
                raise UnsafeEntry(f"{entry.text!r} lies in a file")
        except UnsafeEntry as error:
            raise UsageError(f"{self.version} can't have this file: {error}") from None

    def _missing_above(self, path: bytes) -> Iterator[FolderEntry]:
        """Yield the entries of folders above a path not written yet."""
        for above in _above(path):
            if self._table.find(above) is None:
                yield FolderEntry(above, EntryKind.FOLDER, 0, _FOLDER_MODE)

    def _begin(self, entry: FolderEntry) -> None:
        """Send the entry of a file, after those of the folders above; a failure aborts the version.

        Raises:
            UsageError: the entry cannot be written next.
            ShardcastError: publishing failed, with the reason.
        """
        with self._aborting():
            try:
                for each in (*self._missing_above(entry.path), entry):
                    self._table.append(each)
                    self._send_entry()
            except UnsafeEntry as error:
                raise UsageError(f"{self.version} can't have this file: {error}") from None

    def _send_entry(self) -> None:
        """Send the last entry of the table."""
        text = json.dumps(entry_values(self._table, len(self._table) - 1)).encode()
        self._writer.write(len(text).to_bytes(LENGTH_BYTES, "big") + text)

    def _send(self, data: memoryview) -> None:
        """Send bytes of the current file."""
        self._writer.write(data)

    def _flush(self) -> None:
        """Send the buffered bytes."""
        self._writer.flush()

    @contextmanager
    def _aborting(self) -> Iterator[None]:
        """Abort the version where the block raises."""
        try:
            yield
        except BaseException:
            self.abort()
            raise


class FolderFile(io.RawIOBase):
    """A file of a folder with a size unknown until closing; its bytes are kept here until then.

    An exception in the block drops the file; the folder goes on without it.
    """

    def __init__(self, folder: FolderWriter, entry: FolderEntry) -> None:
        super().__init__()
        self.name = entry.text
        self._folder = folder
        self._entry = entry
        self._written = 0
        self._kept: BinaryIO | None = self._keep()

    def _keep(self) -> BinaryIO | None:
        """Return the place for the file's bytes until closing."""
        return tempfile.SpooledTemporaryFile(_IN_MEMORY)  # type: ignore[return-value]

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._written

    def write(self, data: Any, /) -> int:
        """Write the next bytes.

        Raises:
            LocalDiskError: they can't be kept.
            UsageError: they are more than the announced size, and the version was aborted.
            ShardcastError: publishing failed, and why.
            ValueError: the file was closed.
        """
        if self.closed:
            raise ValueError(f"{self.name!r} is closed")
        view = memoryview(data).cast("B")
        self._put(view)
        self._written += len(view)
        return len(view)

    def _put(self, view: memoryview) -> None:
        """Keep the next bytes until closing."""
        assert self._kept
        with disk_errors("could not keep", tempfile.gettempdir()):
            self._kept.write(view)

    def close(self) -> None:
        """Send the file, or the last bytes of one with an announced size; a failure aborts the version.

        Raises:
            UsageError: the file's size differs from the announced size, or the path was used meanwhile.
            ShardcastError: publishing failed, with the reason.
        """
        if self.closed:
            return
        super().close()
        self._end()

    def _end(self) -> None:
        """Send the entry, then the kept bytes."""
        folder, kept = self._folder, self._kept
        assert kept
        with kept, folder._aborting():
            folder._begin(
                FolderEntry(
                    self._entry.path, EntryKind.FILE, self._written, self._entry.mode, self._entry.mtime
                )
            )
            kept.seek(0)
            while data := kept.read(_CHUNK):
                folder._send(memoryview(data))
            folder._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._drop()

    def _drop(self) -> None:
        """Close the file, and drop the kept bytes: nothing is sent."""
        if self._kept:
            self._kept.close()
        super().close()

    def __del__(self) -> None:
        """Drop a file never closed, as for an exception in the block."""
        if not self.closed:
            self._drop()


class SizedFile(FolderFile):
    """A file of a folder, sent while being written; an exception in the block aborts the version."""

    def __init__(self, folder: FolderWriter, entry: FolderEntry) -> None:
        super().__init__(folder, entry)
        folder._begin(entry)
        folder._flush()  # its header goes out before its first byte

    def _keep(self) -> None:
        """Return None: the bytes are sent at once."""

    def _put(self, view: memoryview) -> None:
        """Send the next bytes.

        Raises:
            UsageError: they are more than the announced size, and the version was aborted.
        """
        if self._written + len(view) > self._entry.size:
            self._folder.abort()
            raise UsageError(
                f"{self.name!r} has more than its {self._entry.size} bytes; "
                f"{self._folder.version} was aborted"
            )
        self._folder._send(view)

    def _end(self) -> None:
        """Check that all announced bytes were written, and send the buffered ones.

        Raises:
            UsageError: bytes are missing, and the version was aborted.
        """
        if self._written != self._entry.size:
            self._folder.abort()
            raise UsageError(
                f"{self.name!r} has {self._written} of its {self._entry.size} bytes; "
                f"{self._folder.version} was aborted"
            )
        self._folder._flush()

    def _drop(self) -> None:
        """Abort the version: the file's size is announced, and the bytes will not follow."""
        self._folder.abort()
        super()._drop()


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; open a named pipe without waiting for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the folders above a path, the outermost first, each with a slash at the end."""
    at = path.find(b"/")
    while at >= 0:
        yield path[: at + 1]
        at = path.find(b"/", at + 1)
