"""The protocol of backups: paths, headers, bounds, and the binary bodies."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

FORMAT = 1
"""Version of the protocol; a client refuses a server with a higher one."""
NAME = "shardcast-backup"
"""The name that tells a backup server from other servers."""
ADMIN_KEY_HEADER = "Shardcast-Admin-Key"
"""The header with the admin key, needed to delete snapshots from an append-only server."""

ABOUT_PATH = "/backup"
REGISTER_PATH = "/backup/register"
CLIENT_PATH = "/backup/client"
RUNS_PATH = "/backup/runs"
SNAPSHOTS_PATH = "/backup/snapshots"
LOCATE_PATH = "/backup/locate"
FORGET_PATH = "/backup/forget"
PACKS_PATH = "/backup/packs"

ID_BYTES = 32
"""Bytes of a chunk's id."""
NO_PACK = bytes(32)
"""The pack's digest in the location of a missing chunk."""
MAX_IDS = 65_536
"""Ids in one request about chunks."""
MAX_PROOFS = 4096
"""Maximum chunks in one request to share chunks."""
MIN_SHARED = 4096
"""Minimum bytes of a shared chunk as stored: smaller ones are quickly sent, and easily guessed."""
MAX_PACK = 32 << 20
"""Bytes of a pack."""
MAX_INDEX = 4 << 20
"""Bytes of a pack's index."""
MAX_HEAD = 64 << 10
"""Bytes of the JSON head of a commit."""
MAX_RECORD = 1 << 20
"""Bytes of a snapshot's record."""
MAX_SNAPSHOT_IDS = 1 << 26
"""Maximum ids of one snapshot: at 1 MiB a chunk some 64 TiB."""
MAX_TEXT = 8192
"""Characters of a host, a path (4096 bytes, or these in base64) or a tag."""
MAX_TAGS = 64
"""Tags of a snapshot."""
MAX_JSON = 1 << 20
"""Bytes of a JSON body."""

_COUNT = struct.Struct("<I")
_LOCATION = struct.Struct("<32sQI")
LOCATION_BYTES = _LOCATION.size
"""Bytes of a chunk's location."""


class ChunkLocation(NamedTuple):
    """Where a chunk lies.

    Attributes:
        pack: SHA-256 of the pack; ``NO_PACK`` for a missing chunk.
        offset: offset of the encoded chunk in the pack.
        length: bytes of the encoded chunk.
    """

    pack: bytes
    offset: int
    length: int


NOWHERE = ChunkLocation(NO_PACK, 0, 0)
"""The location of a missing chunk."""


def run_path(run: str, below: str = "") -> str:
    """Return the path of a run, or a path below: ``missing``, ``share``, ``snapshots``, ``packs/…``."""
    return f"{RUNS_PATH}/{run}/{below}" if below else f"{RUNS_PATH}/{run}"


def snapshot_path(snapshot: str, below: str = "") -> str:
    """Return the path of a snapshot's record, or the path ``damaged`` below."""
    return f"{SNAPSHOTS_PATH}/{snapshot}/{below}" if below else f"{SNAPSHOTS_PATH}/{snapshot}"


def pack_path(digest: str) -> str:
    """Return the path of a pack."""
    return f"{PACKS_PATH}/{digest}"


def split_ids(data: bytes | memoryview, max_ids: int = MAX_IDS) -> list[bytes]:
    """Return the ids concatenated in a body.

    Raises:
        ValueError: the body is no whole number of ids, or holds too many.
    """
    if len(data) % ID_BYTES:
        raise ValueError(f"{len(data)} bytes are no whole number of ids of {ID_BYTES} bytes")
    if len(data) > max_ids * ID_BYTES:
        raise ValueError(f"{len(data) // ID_BYTES} ids are more than {max_ids}")
    data = bytes(data)
    return [data[start : start + ID_BYTES] for start in range(0, len(data), ID_BYTES)]


def encode_bitmap(flags: Sequence[bool]) -> bytes:
    """Return a bitmap of flags: bit i, the least significant first, is flag i."""
    bits = bytearray((len(flags) + 7) // 8)
    for position, flag in enumerate(flags):
        if flag:
            bits[position >> 3] |= 1 << (position & 7)
    return bytes(bits)


def decode_bitmap(data: bytes, count: int) -> list[bool]:
    """Return the flags of a bitmap.

    Raises:
        ValueError: the bitmap is not one of ``count`` flags.
    """
    if len(data) != (count + 7) // 8:
        raise ValueError(f"{len(data)} bytes are no bitmap of {count} flags")
    bits = int.from_bytes(data, "little") | 1 << count  # a bit above the flags keeps leading zeros
    return [bit == "1" for bit in f"{bits:b}"[: -count - 1 : -1]]


def encode_commit(
    head: Mapping[str, Any], record: bytes, added: Iterable[bytes], removed: Iterable[bytes] = ()
) -> Iterable[bytes]:
    """Yield the parts of the body that commits a snapshot.

    The body is a length and the JSON ``head``, a length and the ``record``, then ids. If the head's ``base``
    is null, these are all ids the snapshot needs; else a count of ``added`` ids, these, and the ``removed``
    ids. One string of ``added`` or ``removed`` may hold several ids, joined.
    """
    text = json.dumps(head, separators=(",", ":")).encode()
    yield _COUNT.pack(len(text)) + text + _COUNT.pack(len(record)) + record
    new = b"".join(added)
    yield new if head.get("base") is None else _COUNT.pack(len(new) // ID_BYTES) + new + b"".join(removed)


def decode_count(data: bytes) -> int:
    """Return the number in four bytes, as lengths and counts are in bodies.

    Raises:
        ValueError: these are not four bytes.
    """
    if len(data) != _COUNT.size:
        raise ValueError("the body ends where a length should be")
    (count,) = _COUNT.unpack(data)
    return int(count)


def encode_locations(locations: Iterable[ChunkLocation]) -> bytes:
    """Return the body with the locations of chunks."""
    return b"".join(_LOCATION.pack(*location) for location in locations)


def decode_locations(data: bytes, count: int) -> list[ChunkLocation]:
    """Return the locations in a body.

    Raises:
        ValueError: the body does not hold ``count`` locations.
    """
    if len(data) != count * LOCATION_BYTES:
        raise ValueError(f"{len(data)} bytes are not the locations of {count} chunks")
    return [ChunkLocation(*fields) for fields in _LOCATION.iter_unpack(data)]
