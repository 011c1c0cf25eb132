"""What is on the wire: every path, header and media type, and what the statuses mean.

``docs/protocol.md`` tells the same in prose.
"""

from __future__ import annotations

import base64
import re

from shardcast.constants import DISTRIBUTION_FILE, MANIFEST_FILE, VERSION_PREFIX

DISTRIBUTION_PATH = f"/{DISTRIBUTION_FILE}"
HEALTHCHECK_PATH = "/healthcheck"
READY_PATH = "/ready"
STATUS_PATH = "/status"
FEED_PATH = "/feed"
REPORT_PATH = "/report"
PROBE_PATH = "/data1.bin"
"""What 0.3.x fetches first to measure a server."""
PROBE_SIZE = 1 << 20
"""Bytes of the answer to ``PROBE_PATH``; zero bytes break 0.3.x."""
CONFIRMED = "/confirmed"
"""On the data directory's socket, before the path of a change: the caller is asked at the last moment whether
it still waits."""
PUBLISH_PATH = "/publish"
"""On the data directory's socket only: hands a payload to the origin."""
STREAM_PATH = "/stream"
"""There too: hands it bytes as they are made."""
FINISH_PATH, COPIES_PATH = "/finish", "/copies"
"""There too: wait until the origin may end, or until so many nodes have a version."""
MAX_FINISH_WAIT = 7 * 86_400.0
"""Seconds that an origin can be asked to wait before it ends."""
PIN_PATH, UNPIN_PATH = "/pin", "/unpin"
"""There too, and at a middle: keep a version, let it go."""
WITHDRAW_PATH = "/withdraw"
"""There too, at an origin only: take a version back."""

HAS_PATH, HAS_NOW_PATH, LENGTH_PATH = "/has", "/has-now", "/buffer-length"
"""At a hash server, which has its blobs under ``/<checksum>``: which of these are there, how long they
are."""
PROMISE_PATH = "/promise"
"""There too, and the checksum: its blob will come."""

MAX_VERSION = 10**18 - 1
VERSION_PATTERN = "v[1-9][0-9]{0,17}"
"""A version's name in a path, as a regular expression."""

RETRY_AFTER = "5"
"""Seconds after which who met 503 may ask again: of what this machine can't do just now."""

TEXT = "text/plain; charset=utf-8"
NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"

REPR_DIGEST = "Repr-Digest"
ACCEPT = "Shardcast-Accept"
LANDING = "landing"
"""Its value: a shard that is arriving may be sent as it arrives."""
STATE, WHOLE = "Shardcast-State", "whole"
NODE_ID = "Shardcast-Node"
"""Names the node that answers, so that one which finds itself among its upstreams knows."""

PULL_PATH, PUSH_PATH = "/v1/pull", "/v1/push"
"""An archive's: many blobs in one answer, or in one request."""
METADATA_PATH = "/v1/metadata"
VIA = "Shardcast-Via"
"""Names the nodes that ask on, the last one last, so that mirrors of each other don't go round in circles."""
MAX_VIA = 16
"""Nodes that it names; who finds so many asks nobody."""
IMMUTABLE = "public, max-age=31536000, immutable"
"""``Cache-Control`` of what has its digest for a name."""

MAX_SHARDS = 10**6
MAX_DISTRIBUTION_SIZE = 1 << 20
"""Bytes of a distribution list that a reader takes."""

LACKING = frozenset({404, 410, 412, 416, 503})
"""Statuses that say "not here" or "not now": they cost a server no success."""
GATEWAY = frozenset({502, 503, 504})
"""Statuses of a gateway or balancer that can't reach the server behind it; 503 only without ``NODE_ID``."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Statuses that lead to another place."""

_NODE = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_VERSION = re.compile(VERSION_PREFIX + r"([1-9][0-9]{0,17})", re.ASCII)
_SHARD = re.compile(r"shard_([0-9]{3,7})\.bin", re.ASCII)


def version_number(version: str) -> int | None:
    """7 for ``v7``; None when this is not a version's name."""
    found = _VERSION.fullmatch(version)
    return int(found[1]) if found else None


def version_name(number: int) -> str:
    """``v7`` for 7."""
    return f"{VERSION_PREFIX}{number}"


def shard_name(shard: int, digits: int = 3) -> str:
    """``shard_001.bin`` for 1: three digits, more when there are more; 0.3.x has five."""
    return f"shard_{shard:0{digits}d}.bin"


def shard_number(name: str) -> int | None:
    """1 for ``shard_001.bin`` and for 0.3.x's ``shard_00001.bin``; None when it is no shard's name."""
    found = _SHARD.fullmatch(name)
    if not found:
        return None
    shard = int(found[1])
    return shard if shard and name in (shard_name(shard), shard_name(shard, 5)) else None


def manifest_path(version: str) -> str:
    return f"/{version}/{MANIFEST_FILE}"


def lease_path(version: str) -> str:
    return f"/{version}/lease"


def shard_path(version: str, shard: int, digits: int = 3) -> str:
    return f"/{version}/{shard_name(shard, digits)}"


def etag(digest: str) -> str:
    """The entity tag of bytes with this digest."""
    return f'"{digest}"'


def repr_digest(sha256: str) -> str:
    """The value of ``Repr-Digest`` (RFC 9530) for a SHA-256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


_POSITION = re.compile(r"[0-9]{0,18}", re.ASCII)
_CONTENT_RANGE = re.compile(
    r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\s*", re.ASCII | re.IGNORECASE
)


class Unsatisfiable(ValueError):
    """A range that begins behind the end."""


def parse_range(value: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the byte after the last that ``Range`` asks for, of ``size``; None when it asks
    for everything, or in a way that a server may pass over (RFC 9110, 14.2): several ranges, nonsense.

    Raises:
        Unsatisfiable: there is no such byte (416).
    """
    # Split, and not one expression: blanks between digits that may be missing are matched in quadratic time.
    unit, _, positions = (value or "").partition("=")
    first, dash, last = (one.strip(" \t") for one in positions.partition("-"))
    if unit.rstrip().lower() != "bytes" or not dash or first == last == "":
        return None
    if not (_POSITION.fullmatch(first) and _POSITION.fullmatch(last)):
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), int(last) + 1 if last else size
        if start >= end and last:
            return None
    if start >= size:
        raise Unsatisfiable(f"byte {start} of {size}")
    return start, min(end, size)


def parse_content_range(value: str | None) -> tuple[int, int] | None:
    """The first byte and the byte after the last that an answer says it holds."""
    found = _CONTENT_RANGE.fullmatch(value) if value else None
    return (int(found[1]), int(found[2]) + 1) if found else None


def parse_via(value: str | None) -> tuple[str, ...]:
    """The ids in ``VIA``; what is none is passed over."""
    ids = (one.strip() for one in (value or "").split(",")[: MAX_VIA + 1])
    return tuple(one for one in ids if _NODE.fullmatch(one))


def is_same(header: str, tag: str | None) -> bool:
    """Whether an ``If-Range`` names just this entity tag, so that a part fits what its sender has."""
    return tag is not None and header.strip() == etag(tag)


def matches(header: str, digest: str | None) -> bool:
    """Whether an ``If-Match`` or ``If-None-Match`` names this digest, or anything."""
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or (digest is not None and etag(digest) in tags)
