"""Payloads, and their manifests as an origin would write them, computed without the code under test."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3
from hypothesis import HealthCheck, settings

from shardcast.protocol.manifest import Header, Manifest, Shard, build_manifest
from shardcast.store.versions import VersionFolders

PIECE = 4096
"""Bytes of a piece in these tests: a file system's block, so that holes are whole pieces."""
SHARD = 4 * PIECE
ORIGIN = "0f" * 16

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For properties: the machine may be busy with something else."""


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Return bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size)


def cut(data: bytes, size: int) -> list[bytes]:
    """Cut ``data`` into parts of ``size`` bytes; nothing is one empty part."""
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


def sha256(data: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def pieces(shard: bytes, piece_size: int = PIECE) -> bytes:
    """Return the digests of a shard's pieces, one after the other."""
    return b"".join(blake3(piece).digest() for piece in cut(shard, piece_size)) if shard else b""


def shards(parts: Iterable[bytes], piece_size: int = PIECE) -> list[Shard]:
    """Return the shards that these parts make."""
    found: list[Shard] = []
    for number, part in enumerate(parts, 1):
        offset = found[-1].end if found else 0
        found.append(Shard(number, offset, len(part), sha256(part), pieces(part, piece_size)))
    return found


def manifest(
    data: bytes,
    version: str = "v1",
    shard_size: int = SHARD,
    piece_size: int = PIECE,
    *,
    name: str = "model.bin",
    origin: str | None = ORIGIN,
) -> Manifest:
    """Return the manifest of a payload."""
    header = Header(version, origin, name, "file", len(data), shard_size, piece_size, created=1.5)
    return build_manifest(header, shards(cut(data, shard_size), piece_size), {"sha256": sha256(data)})


async def publish(
    folders: VersionFolders, data: bytes, shard_size: int = SHARD, origin: str | None = None
) -> str:
    """Publish bytes as the next version, and return its name.

    Args:
        folders: the version folders of an origin.
        data: the payload.
        shard_size: bytes of a shard.
        origin: id of the version's line; None for the directory's own.
    """
    opened = folders.open(folders.data_dir.allot())
    for number, part in enumerate(cut(data, shard_size), 1):
        opened.files.part(number).write_bytes(part)
        opened.files.commit_shard(number, sha256(part))
    described = manifest(data, f"v{opened.number}", shard_size, origin=origin or folders.data_dir.origin_id)
    await opened.complete(described)
    return described.version


def read_shards(folder: Path) -> bytes:
    """Return a version's payload from its shards' files."""
    return b"".join(file.read_bytes() for file in sorted(folder.glob("shard_*.bin")))
