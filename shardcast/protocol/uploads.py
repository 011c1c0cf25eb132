"""Uploads: how a payload from elsewhere is announced to an origin, and how far it has come.

``docs/protocol.md`` (*Publishing from elsewhere*) has the requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from shardcast.digest import is_digest
from shardcast.errors import ShardcastError
from shardcast.protocol.manifest import MAX_ENTRIES, check_metadata
from shardcast.protocol.manifest_reader import MAX_MANIFEST, is_folder_name
from shardcast.protocol.wire import UPLOADS_PATH, version_number

MAX_PAYLOAD = 1 << 62
"""Bytes of a payload that an announcement may name."""
_MAX_NAME = 255
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


class WrongOffset(ShardcastError):
    """Bytes that do not continue an upload where it stands.

    Attributes:
        offset: bytes that the origin has.
    """

    def __init__(self, offset: int) -> None:
        """Keep the offset."""
        super().__init__(f"the upload stands at byte {offset}")
        self.offset = offset


class UploadUnknown(ShardcastError):
    """An id that no upload has: it was never given, or the upload expired or was given up."""


class UploadsBusy(ShardcastError):
    """Too many uploads at once; another may begin when one of them has ended."""


class UploadState(StrEnum):
    """How far an upload is."""

    WAITING = "waiting"
    """Live: earlier broadcasts go first, and no byte is taken before."""
    RECEIVING = "receiving"
    """Bytes are taken."""
    PUBLISHING = "publishing"
    """The payload is whole, and is cut or waits for its confirmation."""
    COMPLETE = "complete"
    """The version is published."""


@dataclass(frozen=True)
class UploadedFolder:
    """The folder whose tar is announced; its list comes before the tar.

    Attributes:
        name: of the folder.
        entries: the number of its entries.
        list_size: bytes of the list, which are the lines of a manifest with the entries.
    """

    name: str
    entries: int
    list_size: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the folder in a JSON value; unknown keys are ignored.

        Raises:
            ValueError: the value is no folder.
        """
        values = _object(value)
        name = values.get("name")
        if not isinstance(name, str) or not is_folder_name(name):
            raise ValueError("a folder's name is one of a file, without slashes")
        entries, list_size = (
            _whole(values.get("entries"), 0, "entries"),
            _whole(values.get("list_size"), 0, "list_size"),
        )
        if entries > MAX_ENTRIES or list_size > MAX_MANIFEST:
            raise ValueError(f"a folder has at most {MAX_ENTRIES} entries, in a list of {MAX_MANIFEST} bytes")
        return cls(name, entries, list_size)

    def as_json(self) -> dict[str, Any]:
        """Return the folder as a JSON object."""
        return {"name": self.name, "entries": self.entries, "list_size": self.list_size}


@dataclass(frozen=True)
class UploadRequest:
    """The announcement of a payload.

    Attributes:
        name: of the payload's file.
        size: bytes of the payload, and of a folder's list; None where its sender does not know them yet.
        shard_size: bytes of a shard; None for the origin's own.
        metadata: for the manifest.
        live: whether the version opens at once and grows as the bytes come.
        key: a digest by which a sender finds an upload again that it began earlier; empty for none.
        folder: the folder whose tar is the payload; None for a file.
    """

    name: str
    size: int | None = None
    shard_size: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    live: bool = False
    key: str = ""
    folder: UploadedFolder | None = None

    @property
    def list_size(self) -> int:
        """Bytes that come before those of the payload."""
        return self.folder.list_size if self.folder else 0

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the announcement in a JSON value; unknown keys are ignored.

        Raises:
            ValueError: the value is no announcement.
        """
        values = _object(value)
        name, metadata, key = values.get("name"), values.get("metadata"), values.get("key")
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME:
            raise ValueError(f"an upload needs a name of 1 to {_MAX_NAME} characters")
        if metadata is not None and not isinstance(metadata, dict):
            raise ValueError("metadata is a JSON object")
        check_metadata(metadata or {})
        if key not in (None, "") and not is_digest(key):
            raise ValueError("a key is a SHA-256 in hex")
        size = None if values.get("size") is None else _whole(values["size"], 0, "size")
        shard_size = (
            None if values.get("shard_size") is None else _whole(values["shard_size"], 1, "shard_size")
        )
        folder = None if values.get("folder") is None else UploadedFolder.parse(values["folder"])
        if folder and (size is None or size < folder.list_size):
            raise ValueError("the upload of a folder has a size, that of its list among it")
        return cls(name, size, shard_size, metadata or {}, values.get("live") is True, key or "", folder)

    def as_json(self) -> dict[str, Any]:
        """Return the announcement as a JSON object."""
        return {
            "name": self.name,
            "size": self.size,
            "shard_size": self.shard_size,
            "metadata": dict(self.metadata),
            "live": self.live,
            "key": self.key or None,
            **({"folder": self.folder.as_json()} if self.folder else {}),
        }


@dataclass(frozen=True)
class UploadStatus:
    """An origin's answer about an upload.

    Attributes:
        upload: its id.
        offset: bytes that the origin has and keeps.
        state: how far it is.
        version: of a live or published upload, ``v7``; None before.
        is_folder: whether it is taken as a folder: origins that know none tell nothing of it.
    """

    upload: str
    offset: int
    state: UploadState
    version: str | None = None
    is_folder: bool = False

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the status in a JSON value; unknown keys are ignored.

        Raises:
            ValueError: the value is no status.
        """
        values = _object(value)
        upload, version = values.get("upload"), values.get("version")
        if not is_upload_id(upload):
            raise ValueError("the answer names no upload")
        if version is not None and (not isinstance(version, str) or version_number(version) is None):
            raise ValueError("the answer names no version")
        state = UploadState(str(values.get("state")))
        if state is UploadState.COMPLETE and version is None:
            raise ValueError("the answer does not name the version")
        offset = _whole(values.get("offset"), 0, "offset")
        return cls(str(upload), offset, state, version, values.get("folder") is True)

    def as_json(self) -> dict[str, Any]:
        """Return the status as a JSON object."""
        return {
            "upload": self.upload,
            "offset": self.offset,
            "state": self.state.value,
            "version": self.version,
            **({"folder": True} if self.is_folder else {}),
        }


@dataclass(frozen=True)
class WholePayload:
    """The sender's word on a payload all of whose bytes are sent.

    Attributes:
        size: bytes of the payload.
        sha256: its SHA-256 in hex.
    """

    size: int
    sha256: str

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the word in a JSON value; unknown keys are ignored.

        Raises:
            ValueError: the value has no size, or no digest.
        """
        values = _object(value)
        if not is_digest(values.get("sha256")):
            raise ValueError("the SHA-256 of the payload is 64 hex digits in lower case")
        return cls(_whole(values.get("size"), 0, "size"), str(values["sha256"]))

    def as_json(self) -> dict[str, Any]:
        """Return the word as a JSON object."""
        return {"size": self.size, "sha256": self.sha256}


def is_upload_id(value: object) -> bool:
    """Return whether a value is an upload's id: 32 hex digits."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def upload_path(upload: str, action: str = "") -> str:
    """Return the path of an upload, or of an action on it."""
    return f"{UPLOADS_PATH}/{upload}/{action}" if action else f"{UPLOADS_PATH}/{upload}"


def parse_offset(text: str | None) -> int:
    """Return the number in an ``Upload-Offset`` header.

    Raises:
        ValueError: there is none.
    """
    if text is None or not _NUMBER.fullmatch(text):
        raise ValueError("Upload-Offset is a number of bytes")
    return _whole(int(text), 0, "Upload-Offset")


def _object(value: object) -> Mapping[str, Any]:
    """Return a value that is a JSON object.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError("a JSON object is expected")
    return value


def _whole(value: object, least: int, name: str) -> int:
    """Return a value that is a whole number within bounds.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_PAYLOAD:
        raise ValueError(f"{name} is a whole number of bytes, at least {least}")
    return value
