"""The manifest: what a version is. A header line, a line a shard, a closing line, each JSON.

::

    {"format": 1, "version": "v3", "origin": "…", "name": "model.bin", "kind": "file", "size": 123, …}
    {"shard": 1, "size": 50000000, "sha256": "…", "blake3": "<base64 of its pieces' digests>"}
    {"complete": true, "size": 123, "shards": 1, "sha256": "…"}

The bytes are kept and passed on verbatim; keys and lines that are not known here are ignored
(``manifest_reading``).
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

FORMAT = 1
MAX_METADATA = 16 * 1024
"""Bytes of the metadata as JSON."""
MAX_PIECE_SIZE = 64 << 20
"""Bytes of a piece: what a receiver must hold to verify one."""
FILE = "file"

_LINE_OVERHEAD = 1024
"""Bytes of a shard's line beside its pieces' digests, generously."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a version when it opens.

    Attributes:
        version: ``v3``.
        origin: the origin id; None where an old node, which has none, published it.
        name: the payload's file name, for people; never a path.
        kind: ``file``.
        size: bytes of the payload; None while unknown.
        shard_size: bytes of a shard, but for the last; None where that is not known.
        piece_size: bytes of a piece, but for a shard's last.
        created: seconds since the epoch; None where an old node published it.
        metadata: whatever the publisher adds.
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


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a version.

    Attributes:
        number: from 1.
        offset: where it begins in the payload: the sum of the sizes before it.
        size: its bytes.
        sha256: its digest in hex; None where it isn't known (old nodes).
        pieces: the BLAKE3 digests of its pieces, 32 bytes each; empty where they aren't known.
    """

    number: int
    offset: int
    size: int
    sha256: str | None = None
    pieces: bytes = b""

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest.

    Attributes:
        header: its first line.
        shards: in order.
        digests: of the payload, by algorithm: ``sha256``, and ``blake3`` for 0.3.x's readers.
        raw: its bytes, verbatim; empty for one that was put together from what an old node tells.
    """

    header: Header
    shards: Sequence[Shard]
    digests: Mapping[str, str]
    raw: bytes = b""

    @property
    def version(self) -> str:
        return self.header.version

    @property
    def size(self) -> int:
        return self.shards[-1].end if self.shards else 0

    @property
    def identity(self) -> str | None:
        """SHA-256 of its bytes, in hex, by which servers are told to mean the same version; None where it
        names no origin, since each node makes such a manifest by itself of what an old node left."""
        return sha256(self.raw).hexdigest() if self.header.origin and self.raw else None

    @property
    def verifiable(self) -> bool:
        """Whether single shards can be verified; else only the whole payload can."""
        return all(shard.pieces or not shard.size for shard in self.shards)


def piece_size_for(shard_size: int) -> int:
    """Bytes of a piece for shards of this size: 256 KiB, doubled until a shard's line fits its bound.

    Raises:
        UsageError: the shard is so large that its pieces would be too large to hold.
    """
    piece_size = PIECE_SIZE
    while -(-shard_size // piece_size) * PIECE_DIGEST_SIZE * 4 // 3 > MAX_LINE - _LINE_OVERHEAD:
        piece_size *= 2
    if piece_size > MAX_PIECE_SIZE:
        raise UsageError(f"a shard of {shard_size} bytes is too large; at most some 98 GB can be one")
    return piece_size


def check_metadata(metadata: object) -> None:
    """
    Raises:
        UsageError: it is no JSON object, or is too long.
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
    """The first line.

    Raises:
        UsageError: the metadata is no JSON object, or is too long.
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
        }
    )


def shard_line(shard: Shard) -> bytes:
    """The line of one shard, whose digests are known."""
    return _line(
        {
            "shard": shard.number,
            "size": shard.size,
            "sha256": shard.sha256,
            "blake3": base64.b64encode(shard.pieces).decode(),
        }
    )


def closing_line(size: int, shards: int, digests: Mapping[str, str]) -> bytes:
    """The last line of a complete version."""
    return _line({"complete": True, "size": size, "shards": shards, **digests})


def aborted_line(why: str) -> bytes:
    """The last line of a version that was given up."""
    return _line({"aborted": why[:1000]})


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def provisional(version: str, sizes: Sequence[int], digests: Mapping[str, str]) -> Manifest:
    """What is known of a version that an old node serves: its shards' sizes and its whole digest."""
    shards, offset = [], 0
    for number, size in enumerate(sizes, 1):
        shards.append(Shard(number, offset, size))
        offset += size
    header = Header(version, None, f"{version}.bin", size=offset)
    return Manifest(header, tuple(shards), dict(digests))


def complete(header: Header, shards: Sequence[Shard], digests: Mapping[str, str]) -> Manifest:
    """A whole manifest from its parts, with the bytes that say so."""
    size = shards[-1].end if shards else 0
    raw = header_line(header) + b"".join(map(shard_line, shards)) + closing_line(size, len(shards), digests)
    return Manifest(header, tuple(shards), dict(digests), raw)
