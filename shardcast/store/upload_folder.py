"""The folder of one upload: the received bytes, and a record of their announcement and their version.

::

    .shardcast/uploads/<id>/record     JSON: the announcement, the durable bytes, the version
    .shardcast/uploads/<id>/list       the list of a folder, sent before the tar
    .shardcast/uploads/<id>/payload    the bytes; none of a live upload, written into its version at once
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from shardcast.ages import age_of
from shardcast.digest import new_hasher
from shardcast.directories import make_folder, remove_tree
from shardcast.disk_errors import disk_errors, error_text
from shardcast.file_owners import umask
from shardcast.file_systems import set_permissions
from shardcast.filesystem import replace as replace_file
from shardcast.json_text import parse_json
from shardcast.log_fields import about
from shardcast.open_files import close, write_all
from shardcast.protocol.uploads import UploadRequest
from shardcast.protocol.wire import version_number
from shardcast.temporary_files import create_private

log = logging.getLogger(__name__)

_RECORD, _LIST, _PAYLOAD = "record", "list", "payload"
_READ = 1 << 20
"""Bytes hashed at a time."""


@dataclass(frozen=True)
class UploadRecord:
    """A node's record of an upload, kept over a restart.

    Attributes:
        request: the announcement.
        durable: bytes of list and payload safe from a power cut.
        version: the version's name, recorded before the version is complete; empty before.
        complete: whether this version is complete.
    """

    request: UploadRequest
    durable: int = 0
    version: str = ""
    complete: bool = False

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Return the record in a file's text.

        Raises:
            ValueError: the text is no record.
        """
        values = parse_json(text)
        if not isinstance(values, dict):
            raise ValueError("the record is no JSON object")
        durable, version = values.get("durable"), values.get("version") or ""
        if not isinstance(durable, int) or isinstance(durable, bool) or durable < 0:
            raise ValueError("the record has no valid number of durable bytes")
        if not isinstance(version, str) or (version and version_number(version) is None):
            raise ValueError("the version in the record is malformed")
        request = UploadRequest.parse(values.get("request"))
        return cls(request, durable, version, bool(version) and values.get("complete") is True)

    def to_bytes(self) -> bytes:
        """Return the record as a file's text."""
        values = {
            "request": self.request.as_json(),
            "durable": self.durable,
            "version": self.version or None,
            "complete": self.complete,
        }
        return json.dumps(values).encode() + b"\n"


class UploadFolder:
    """The folder of an upload; every call but the properties blocks on the disk.

    One thread at a time writes.

    Attributes:
        folder: path, named by the upload's id.
        record: the record on the disk.
        listed: written bytes of a folder's list.
        offset: written bytes of the payload.
    """

    def __init__(self, folder: Path, record: UploadRecord) -> None:
        self.folder = folder
        self.record = record
        self._count_durable()
        self._descriptor = -1
        self._hasher = new_hasher("sha256")
        self._hashed = 0

    def _count_durable(self) -> None:
        """Count only durable bytes as received: those left by a power cut."""
        self.listed = min(self.record.request.list_size, self.record.durable)
        self.offset = self.record.durable - self.listed

    @property
    def received(self) -> int:
        """Bytes of list and payload written so far."""
        return self.listed + self.offset

    @classmethod
    def create(cls, folder: Path, request: UploadRequest) -> Self:
        """Make the folder of a new upload, durably.

        Raises:
            LocalDiskError: the disk failed; ``remove_upload`` removes the leftovers.
        """
        created = cls(folder, UploadRecord(request))
        with disk_errors("could not begin an upload in", folder):
            make_folder(folder.parent)
            make_folder(folder)
            if not request.live:
                close(create_private(created.payload))
                close(create_private(created.list))
            replace_file(folder / _RECORD, created.record.to_bytes())
        return created

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Take up an upload left by an earlier run of the node; possibly undurable bytes are dropped.

        Raises:
            ValueError: the record or the payload is missing or damaged.
            LocalDiskError: the disk failed; the upload may still be sound.
        """
        with disk_errors("could not take up the upload in", folder):
            try:
                loaded = cls(folder, UploadRecord.parse((folder / _RECORD).read_bytes()))
                if not loaded.record.request.live and not loaded.record.complete:
                    size = loaded.payload.stat().st_size
                    if size < loaded.offset:
                        raise ValueError("the payload is shorter than in its record")
                    if loaded.listed and loaded.list.stat().st_size < loaded.listed:
                        raise ValueError("the list is shorter than in its record")
                    if size > loaded.offset:
                        os.truncate(loaded.payload, loaded.offset)
            except FileNotFoundError as error:
                raise ValueError(f"{error.filename} is missing") from None
        return loaded

    def idle_seconds(self) -> float:
        """Return the seconds since the record was written.

        Raises:
            LocalDiskError: the record can't be read.
        """
        record = self.folder / _RECORD
        with disk_errors("could not read", record):
            return age_of(record, record.stat())

    @property
    def payload(self) -> Path:
        """The file of the bytes."""
        return self.folder / _PAYLOAD

    @property
    def list(self) -> Path:
        """The file of a folder's list."""
        return self.folder / _LIST

    def read_list(self) -> bytes:
        """Return the completely received list of a folder.

        Raises:
            LocalDiskError: the list can't be read.
        """
        with disk_errors("could not read", self.list):
            return self.list.read_bytes()[: self.listed]

    def append(self, data: bytes | bytearray) -> None:
        """Write the next bytes, and hash those of the payload.

        Raises:
            LocalDiskError: the disk failed; the bytes count as not received.
        """
        head = memoryview(data)[: self.record.request.list_size - self.listed]
        if head:
            with disk_errors("could not write", self.list), self.list.open("r+b", buffering=0) as file:
                file.seek(self.listed)
                write_all(file.fileno(), head)
                os.fsync(file.fileno())
            self.listed += len(head)
        if len(head) < len(data):
            self._append(bytes(data[len(head) :]) if head else data)

    def _append(self, data: bytes | bytearray) -> None:
        """Write the next bytes of the payload, and hash them.

        Raises:
            LocalDiskError: the disk failed; the bytes count as not received.
        """
        with disk_errors("could not write", self.payload):
            if self._descriptor < 0:
                self._descriptor = os.open(self.payload, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.lseek(self._descriptor, self.offset, os.SEEK_SET)
            write_all(self._descriptor, memoryview(data))
        if self._hashed == self.offset:  # else `digest` reads what an earlier run received
            self._hasher.update(data)
            self._hashed += len(data)
        self.offset += len(data)

    def sync(self) -> None:
        """Make the bytes durable, and record their number.

        Raises:
            LocalDiskError: the disk failed; undurable bytes count as not received.
        """
        if self.received == self.record.durable:
            return
        with disk_errors("could not write", self.payload):
            try:
                if self._descriptor >= 0:
                    os.fsync(self._descriptor)
                self.write_record(durable=self.received)
            except OSError:
                # The system may have dropped the bytes, and a second fsync would report success.
                self._count_durable()
                self._hasher, self._hashed = new_hasher("sha256"), 0
                raise

    def seal(self) -> None:
        """Make the payload ready to be published: cut after the last byte, and as readable as versions.

        Raises:
            LocalDiskError: the disk failed.
        """
        self.sync()
        self.release()
        with disk_errors("could not write", self.payload):
            descriptor = os.open(self.payload, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_size != self.offset:  # a write that failed may have left a part
                    os.ftruncate(descriptor, self.offset)
                set_permissions(descriptor, 0o666 & ~umask(), self.payload)
            finally:
                close(descriptor)

    def release(self) -> None:
        """Close the file between two requests."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            close(descriptor)

    def hash_more(self, max_bytes: int) -> bool:
        """Hash bytes received by an earlier run of the node; return whether some are left.

        Raises:
            LocalDiskError: the disk failed, or the file has become shorter.
        """
        with disk_errors("could not read", self.payload), self.payload.open("rb", buffering=0) as file:
            file.seek(self._hashed)
            end = min(self.offset, self._hashed + max_bytes)
            while self._hashed < end:
                data = file.read(min(_READ, end - self._hashed))
                if not data:
                    raise OSError(f"it ends at byte {self._hashed}")
                self._hasher.update(data)
                self._hashed += len(data)
        return self._hashed < self.offset

    @property
    def hashed(self) -> int:
        """Number of bytes in the digest."""
        return self._hashed

    def digest(self) -> str:
        """Return the SHA-256 of all bytes, in hex, once ``hash_more`` has returned False."""
        return self._hasher.hexdigest()

    def write_record(
        self, *, durable: int | None = None, version: str | None = None, complete: bool | None = None
    ) -> None:
        """Change the record, durably.

        Raises:
            OSError: the disk failed.
        """
        record = self.record
        record = replace(
            record,
            durable=record.durable if durable is None else durable,
            version=record.version if version is None else version,
            complete=record.complete if complete is None else complete,
        )
        replace_file(self.folder / _RECORD, record.to_bytes())
        self.record = record

    def note_complete(self) -> None:
        """Record that the version is complete, and remove the bytes now in the version.

        A failure of the disk is only logged: the version is published, and the next start finds it on the
        list.
        """
        try:
            self.write_record(complete=True)
            self.release()
            self.payload.unlink(missing_ok=True)
            self.list.unlink(missing_ok=True)
        except OSError as error:
            log.warning(
                "%s is complete, but its upload in %s could not be cleared, and goes later: %s",
                self.record.version, self.folder, error_text(error),
            extra=about(version=self.record.version))  # fmt: skip
            self.record = replace(self.record, complete=True)


def remove_upload(folder: Path) -> bool:
    """Remove the folder of an upload as far as possible, and return whether nothing is left.

    The record is removed first, so that a later start does not take up the leftovers.
    """
    with contextlib.suppress(OSError):
        (folder / _RECORD).unlink(missing_ok=True)
    return remove_tree(folder)
