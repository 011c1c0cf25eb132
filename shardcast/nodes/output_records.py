"""The record beside an output file: the version of the file, and the file's identity at that time.

::

    .download_v3.bin.record   {"origin": "5f0c…", "number": 3, "digest": "9f86…", "size": 300000,
                               "mtime_ns": 1763780000000000000, "inode": 4711, "withdrawn": false,
                               "ctime_ns": 1763780000000000000}

A record counts only while inode, size and mtime of the file are the recorded ones. The record of an output
with a name of its own is ``.output-<hash of its path>.record`` in the folder of outputs, and has its
``path``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from shardcast.digest import is_digest
from shardcast.file_identity import FileIdentity
from shardcast.file_owners import is_trusted
from shardcast.folders.kept import is_unchanged, read_kept
from shardcast.json_text import parse_json
from shardcast.nodes.output_names import names_folder, output_number
from shardcast.protocol.wire import MAX_VERSION

log = logging.getLogger(__name__)

MAX_RECORD = 4096
"""Bytes of a record."""
NO_DIGEST = "0" * 64
"""The digest of an output under way."""
PENDING = FileIdentity(0, 0, 0)
"""In the record of an output with a name of its own, from before the download until completion."""
MAX_ORIGIN = 100
"""Characters of an origin id, as in a manifest."""
_MAX_INTEGER = 2**64
_CHUNK = 1 << 20
"""Bytes hashed between two checks of ``stop``."""


def trusted_identity(path: Path) -> FileIdentity | None:
    """Return the identity of the output at a path, as recorded; for a folder, the identity of its top.

    None for anything but a regular file or a folder, and for an output writable by a stranger.
    """
    try:
        found = path.stat()
        trusted = is_trusted(found, path.parent.stat())
    except OSError:
        return None
    is_folder = S_ISDIR(found.st_mode) and not path.is_symlink()
    if output_number(path.name):
        is_output = is_folder if names_folder(path.name) else S_ISREG(found.st_mode)
    else:
        is_output = is_folder or S_ISREG(found.st_mode)
    return FileIdentity.from_stat(found).recorded if is_output and trusted else None


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """The version of an output file, and the file's identity.

    Attributes:
        origin: the origin id of the version's line; None for versions of nodes without an id.
        number: the version's number; None for a file whose digest is listed by no followed line.
        digest: of the payload, as shown in the distribution list; SHA-256 for a file without a number.
        file: the file's identity when the record was written.
        withdrawn: whether the publisher took the version back.
        path: of an output with a name of its own, below the folder of outputs; empty for others.
        ctime_ns: when the output's inode was last changed, in nanoseconds since 1970; None in records of
            earlier versions, whose outputs are never given without a server.
        followed: whether a follower made the output; only such outputs are removed by ``--keep``.
    """

    origin: str | None
    number: int | None
    digest: str
    file: FileIdentity
    withdrawn: bool = False
    path: str = ""
    followed: bool = False
    ctime_ns: int | None = None

    @property
    def is_pending(self) -> bool:
        """Whether the output was only begun."""
        return self.file == PENDING

    def encode(self) -> bytes:
        """Return the record as stored in its file."""
        record = {
            "origin": self.origin,
            "number": self.number,
            "digest": self.digest,
            "size": self.file.size,
            "mtime_ns": self.file.mtime_ns,
            "inode": self.file.inode,
            "withdrawn": self.withdrawn,
            **({"path": self.path} if self.path else {}),
            **({"followed": True} if self.followed else {}),
            **({} if self.ctime_ns is None else {"ctime_ns": self.ctime_ns}),
        }
        return json.dumps(record).encode() + b"\n"


def parse_record(data: bytes) -> OutputRecord:
    """Read a record. Unknown keys are ignored.

    Raises:
        ValueError: the bytes are no record.
    """
    record = json_object(data, MAX_RECORD)
    number, withdrawn = record.get("number"), record.get("withdrawn", False)
    if number is not None and not is_number(number):
        raise ValueError(f"the version's number in it is {number!r}, not a whole number from 1 on")
    if not isinstance(withdrawn, bool):
        raise ValueError("its mark of withdrawal is neither true nor false")
    path = record.get("path", "")
    if not isinstance(path, str):
        raise ValueError("the path in it is no text")
    identity = FileIdentity(*(_integer(record, key) for key in ("inode", "size", "mtime_ns")))
    digest = parse_digest(record.get("digest"))
    followed = record.get("followed") is True
    ctime_ns = _integer(record, "ctime_ns") if "ctime_ns" in record else None
    return OutputRecord(parse_origin(record), number, digest, identity, withdrawn, path, followed, ctime_ns)


def json_object(data: bytes, limit: int) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    Raises:
        ValueError: the bytes are more than ``limit``, or no JSON object.
    """
    if len(data) > limit:
        raise ValueError(f"more than {limit} bytes")
    parsed = parse_json(data)
    if not isinstance(parsed, dict):
        raise ValueError("no JSON object")
    return parsed


def parse_origin(record: dict[str, Any]) -> str | None:
    """Return the origin id in a JSON object.

    Raises:
        ValueError: the value is neither null nor an id.
    """
    origin = record.get("origin")
    if origin is not None and not (isinstance(origin, str) and 1 <= len(origin) <= MAX_ORIGIN):
        raise ValueError("a malformed origin id")
    return origin


def parse_digest(digest: object) -> str:
    """Return a JSON value as a digest.

    Raises:
        ValueError: the value is not 64 hex digits.
    """
    if not isinstance(digest, str) or not is_digest(digest):
        raise ValueError("a malformed digest")
    return digest


def is_number(number: object) -> bool:
    """Return whether a JSON value is a version's number."""
    return type(number) is int and 1 <= number <= MAX_VERSION


def _integer(record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    if type(value) is not int or abs(value) > _MAX_INTEGER:
        raise ValueError(f"{key} is no integer")
    return value


def read_bounded(path: Path, limit: int) -> bytes:
    """Return at most ``limit`` + 1 bytes of a file, without waiting for a pipe's writer.

    Raises:
        OSError: the file can't be read; PermissionError when a stranger wrote it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not is_trusted(os.fstat(descriptor), path.parent.stat()):
            raise PermissionError(errno.EPERM, "another user wrote it, in a folder writable by every user")
        return file.read(limit + 1)


def hash_output(path: Path, stop: Callable[[], bool]) -> OutputRecord | None:
    """Return a record without a version for an output, with the SHA-256 of its payload.

    A folder is not hashed: while its files are untouched, the manifest beside it has the digest.

    Returns:
        None when the output can't be read, changed meanwhile, or ``stop`` returned True.
    """
    if path.is_dir():
        manifest, identity = read_kept(path), trusted_identity(path)
        if manifest is None or identity is None or not is_unchanged(path, manifest):
            return None
        return OutputRecord(None, None, manifest.digests["sha256"], identity)
    try:
        with path.open("rb") as file:
            before, digest = FileIdentity.from_stat(os.fstat(file.fileno())).recorded, hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if stop():
                    return None
            after = FileIdentity.from_stat(os.fstat(file.fileno())).recorded
    except OSError as error:
        log.warning("could not read %s: %s", path, error)
        return None
    return OutputRecord(None, None, digest.hexdigest(), after) if before == after else None
