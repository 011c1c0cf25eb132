"""Directories of blobs, made, damaged and looked at."""

from __future__ import annotations

import os
import random
from pathlib import Path

from shardcast.store.blob_layout import MARKER, OWN, SUFFIXES
from tests.support.payloads import sha256


def blob_file(root: Path, digest: str) -> Path:
    return root / digest[:2] / digest


def fill(root: Path, *blobs: bytes) -> list[str]:
    """Blobs as they lie in a store of the prefix layout; their digests."""
    root.mkdir(exist_ok=True)
    (root / MARKER).write_text("1\n")
    for blob in blobs:
        file = blob_file(root, sha256(blob))
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(blob)
        file.chmod(0o444)
    return [sha256(blob) for blob in blobs]


def damage(file: Path, position: int = 0) -> bytes:
    """Change one byte of a file that nobody may write to; what it is now."""
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    file.chmod(0o444)
    return bytes(data)


def random_blobs(seed: int, count: int, most: int = 3000) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randint(1, most)) for _ in range(count)]


def content(root: Path) -> dict[str, bytes]:
    """The blobs of a store by their names, coded ones by their whole names."""
    files = (Path(folder) / name for folder, _, names in os.walk(root) for name in names if OWN not in folder)
    suffixes = ("", *SUFFIXES.values())
    return {
        file.name: file.read_bytes() for file in files if file.name[64:] in suffixes and len(file.name) >= 64
    }
