"""The manifest: the description of a version. A header line, a line a shard, a closing line, each JSON.

::

    {"format": 1, "version": "v3", "origin": "…", "name": "model.bin", "kind": "file", "size": 123, …}
    {"shard": 1, "size": 50000000, "sha256": "…", "blake3": "<base64 of its pieces' digests>"}
    {"complete": true, "size": 123, "shards": 1, "sha256": "…"}

Nodes keep and forward the bytes verbatim, and ignore unknown keys and lines (``manifest_reader``).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from shardcast.constants import PIECE_SIZE
from shardcast.digest import PIECE_DIGEST_SIZE
from shardcast.errors import UsageError
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.tags import tags_of

FORMAT = 1
MAX_METADATA = 16 * 1024
"""Bytes of the metadata as JSON."""
MAX_PIECE_SIZE = 64 << 20
"""Bytes of a piece, all of which a receiver holds to verify it."""
FILE = "file"
ENTRIES_KEY = "entries"
"""The key of a line with entries of a folder (``folders.listing``)."""
DIGESTS_KEY = "file_digests"
"""The key of a line with digests of small files of a folder."""
MAX_ENTRIES = 2_000_000
"""Entries of one folder, with those of its subfolders."""

_LINE_OVERHEAD = 1024
"""Bytes of a shard's line beside its pieces' digests, a generous bound."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder whose tar is the payload, as a manifest's header tells of it.

    Attributes:
        name: the folder's name, for people; never a path.
        entries: the number of its entries, whose lines follow the header; None for a folder that is written
            file by file, where the lines of entries stand before the shards with them.
    """

    name: str
    entries: int | None


@dataclass(frozen=True, slots=True)
class Header:
    """The facts about a version known to its publisher from the start.

    Attributes:
        version: ``v3``.
        origin: the origin id; None for a version of an old node without one.
        name: the payload's file name, for people; never a path.
        kind: ``file``.
        size: bytes of the payload; None while unknown.
        shard_size: bytes of each shard but the last; None for unknown.
        piece_size: bytes of each piece but the last of a shard.
        created: seconds since the epoch; None for a version of an old node.
        metadata: JSON values added by the publisher.
        folder: the folder behind a tar payload; None for a file. The kind stays ``file``: nodes without
            support for folders receive the tar.
    """

    version: str
    origin: str | None
    name: str
    kind: str = FILE
    size: int | None = None
    shard_size: int | None = None
    piece_size: int = PIECE_SIZE
    created: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    folder: FolderFacts | None = None

    @property
    def content_name(self) -> str:
        """Name of the published file or folder."""
        return self.folder.name if self.folder else self.name

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that its publisher gave it."""
        return tags_of(self.metadata)

    @property
    def content_kind(self) -> str:
        """``folder`` for a folder, else the kind."""
        return "folder" if self.folder else self.kind


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a version.

    Attributes:
        number: from 1.
        offset: offset of the first byte in the payload: the sum of the sizes before.
        size: bytes.
        sha256: digest in hex; None for unknown (old nodes).
        pieces: the BLAKE3 digests of the pieces, 32 bytes each; empty for unknown.
    """

    number: int
    offset: int
    size: int
    sha256: str | None = None
    pieces: bytes = b""

    @property
    def end(self) -> int:
        """Offset in the payload of the first byte after the shard."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete manifest.

    Attributes:
        header: the first line.
        shards: in order.
        digests: digests of the payload, by algorithm: ``sha256``, and ``blake3`` for readers of 0.3.x.
        raw: the bytes, verbatim; empty for a manifest derived from an old node's answers.
    """

    header: Header
    shards: Sequence[Shard]
    digests: Mapping[str, str]
    raw: bytes = b""

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.header.version

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return self.shards[-1].end if self.shards else 0

    @property
    def identity(self) -> str | None:
        """SHA-256 of the bytes, in hex, by which servers are known to mean the same version.

        None where the manifest names no origin: each node derives such a manifest on its own from the files
        of an old node.
        """
        return sha256(self.raw).hexdigest() if self.header.origin and self.raw else None

    @property
    def verifiable(self) -> bool:
        """Whether single shards can be verified; else only the whole payload can."""
        return all(shard.pieces or not shard.size for shard in self.shards)


def piece_size_for(shard_size: int) -> int:
    """Return the bytes of a piece for shards of this size.

    A piece has 256 KiB, doubled until a shard's line fits its bound.

    Raises:
        UsageError: the shard is so large that its pieces would be too large to hold in memory.
    """
    piece_size = PIECE_SIZE
    while -(-shard_size // piece_size) * PIECE_DIGEST_SIZE * 4 // 3 > MAX_LINE - _LINE_OVERHEAD:
        piece_size *= 2
    if piece_size > MAX_PIECE_SIZE:
        raise UsageError(f"a shard of {shard_size} bytes is too large; at most some 98 GB can be one")
    return piece_size


def check_metadata(metadata: object) -> None:
    """Check metadata against the bounds of a manifest.

    Raises:
        UsageError: the metadata are no JSON object, or too long.
    """
    if not isinstance(metadata, Mapping):
        raise UsageError(f"metadata must be a JSON object, not {type(metadata).__name__}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"metadata that JSON can't hold: {error}") from None
    if len(text) > MAX_METADATA:
        raise UsageError(f"metadata of {len(text)} bytes as JSON; at most {MAX_METADATA} fit a manifest")


def header_line(header: Header) -> bytes:
    """Return the first line.

    Raises:
        UsageError: the metadata are no JSON object, or too long.
    """
    check_metadata(header.metadata)
    return _line(
        {
            "format": FORMAT,
            "version": header.version,
            "origin": header.origin,
            "name": header.name,
            "kind": header.kind,
            "size": header.size,
            "shard_size": header.shard_size,
            "piece_size": header.piece_size,
            "created": header.created,
            "metadata": dict(header.metadata),
            **_folder_values(header.folder),
        }
    )


def _folder_values(folder: FolderFacts | None) -> dict[str, Any]:
    """Return what a header says of a folder; readers that don't know the second key receive the tar."""
    if folder is None:
        return {}
    if folder.entries is None:
        return {"written_folder": {"name": folder.name}}
    return {"folder": {"name": folder.name, "entries": folder.entries}}


def shard_line(shard: Shard) -> bytes:
    """Return the line of a shard whose digests are known."""
    return _line(
        {
            "shard": shard.number,
            "size": shard.size,
            "sha256": shard.sha256,
            "blake3": base64.b64encode(shard.pieces).decode(),
        }
    )


def closing_line(size: int, shards: int, digests: Mapping[str, str]) -> bytes:
    """Return the last line of a complete version."""
    return _line({"complete": True, "size": size, "shards": shards, **digests})


def aborted_line(reason: str) -> bytes:
    """Return the last line of an aborted version, with at most 1000 characters of the reason."""
    return _line({"aborted": reason[:1000]})


def _line(values: Mapping[str, Any]) -> bytes:
    """Return an object as a line of compact JSON."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def manifest_of_old_node(version: str, sizes: Sequence[int], digests: Mapping[str, str]) -> Manifest:
    """Return the manifest of a version on an old node, without bytes, origin or digests of shards.

    Args:
        version: name of the version.
        sizes: bytes of each shard, in order.
        digests: digests of the payload, by algorithm.
    """
    shards, offset = [], 0
    for number, size in enumerate(sizes, 1):
        shards.append(Shard(number, offset, size))
        offset += size
    header = Header(version, None, f"{version}.bin", size=offset)
    return Manifest(header, tuple(shards), dict(digests))


def build_manifest(header: Header, shards: Sequence[Shard], digests: Mapping[str, str]) -> Manifest:
    """Return the manifest of these parts, encoded bytes included.

    Raises:
        UsageError: the metadata are no JSON object, or too long.
    """
    raw = header_line(header) + b"".join(map(shard_line, shards))
    return close_manifest(header, shards, digests, raw)


def close_manifest(
    header: Header, shards: Sequence[Shard], digests: Mapping[str, str], raw: bytes | bytearray
) -> Manifest:
    """Return a manifest from its parts and the bytes of all lines before its closing line."""
    size = shards[-1].end if shards else 0
    closing = closing_line(size, len(shards), digests)
    return Manifest(header, tuple(shards), dict(digests), b"".join((raw, closing)))
