"""Paths, headers, media types and statuses on the wire.

``docs/protocol.md`` tells the same in prose.
"""

from __future__ import annotations

import base64
import re
from typing import TypeGuard

from shardcast.constants import DISTRIBUTION_FILE, MANIFEST_FILE, VERSION_PREFIX

DISTRIBUTION_PATH = f"/{DISTRIBUTION_FILE}"
HEALTHCHECK_PATH = "/healthcheck"
READY_PATH = "/ready"
STATUS_PATH = "/status"
FEED_PATH = "/feed"
REPORT_PATH = "/report"
SWARM_CHECK_PATH = "/swarm/check"
"""At a member of a swarm: give the nonce back that ``CHECK_HEADER`` asks for."""
CHECK_HEADER = "Shardcast-Challenge"
PROBE_PATH = "/data1.bin"
"""The file that 0.3.x fetches first to measure a server."""
PROBE_SIZE = 1 << 20
"""Bytes of the answer to ``PROBE_PATH``; zero bytes break 0.3.x."""
CONFIRMED_PREFIX = "/confirmed"
"""On the data directory's socket, before the path of a change: the node asks its caller to confirm just
before it makes the change."""
PUBLISH_PATH = "/publish"
"""On the data directory's socket only: publish a payload."""
STREAM_PATH = "/stream"
"""On the socket: publish bytes while the caller makes them."""
FINISH_PATH, COPIES_PATH = "/finish", "/copies"
"""On the socket: wait until the origin may end, or until a number of nodes have a version."""
RUNNING_PATH = "/running"
"""On the socket, of an origin only: where it listens, and how it was started."""
MAX_FINISH_WAIT = 7 * 86_400.0
"""Seconds that an origin can be asked to wait before it ends."""
PIN_PATH, UNPIN_PATH = "/pin", "/unpin"
"""On the socket, of a middle too: keep a version, release it."""
WITHDRAW_PATH = "/withdraw"
"""On the socket, of an origin only: withdraw a version."""

UPLOADS_PATH = "/uploads"
"""At an origin with ``--publish``: payloads from elsewhere, each under ``/uploads/<id>``."""
UPLOAD_OFFSET_HEADER = "Upload-Offset"
"""Header with the number of an upload's bytes: before the body of a request, or kept so far."""

SWARM_PATH, SWARM_PROTOCOL = "/swarm", "shardcast-swarm/1"
"""At a node that shares: a two-way stream between neighbours, begun by ``Upgrade`` to this protocol."""

HAS_PATH, HAS_NOW_PATH, LENGTH_PATH = "/has", "/has-now", "/buffer-length"
"""At a hash server, which serves each blob under ``/<checksum>``: which of these blobs are present, and how
long they are."""
PROMISE_PATH = "/promise"
"""At a hash server, followed by ``/<checksum>``: announce a blob that will be uploaded."""

MAX_VERSION = 10**18 - 1
VERSION_PATTERN = "v[1-9][0-9]{0,17}"
"""Regular expression of a version's name in a path."""

RETRY_AFTER = "5"
"""Seconds of ``Retry-After`` in a 503 about a lack of this machine: memory, descriptors, disk."""

TEXT = "text/plain; charset=utf-8"
NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"

REPR_DIGEST = "Repr-Digest"
ACCEPT_HEADER = "Shardcast-Accept"
LANDING = "landing"
"""Value of ``ACCEPT_HEADER``: a shard may be sent while it lands.

Value of ``STATE_HEADER``: the answer is such a shard.
"""
STATE_HEADER, WHOLE = "Shardcast-State", "whole"
SHARD_HEADER = "Shardcast-Shard"
"""Header with the number of the shard whose bytes a server hands out."""
NOT_NOW_HEADER = "Shardcast-Not-Now"
"""Header that says why a server hands out no bytes."""
CLAIMS_HEADER = "Shardcast-Claims"
"""Header with the pieces that a node may ask from neighbours in other sites, as runs."""
RETRY_MS_HEADER = "Shardcast-Retry-After-Ms"
"""Header with the milliseconds after which to ask a server for a next range again."""
NODE_ID_HEADER = "Shardcast-Node"
"""Header with the id of the answering node, by which a node finds itself among its upstreams."""

PULL_PATH, PUSH_PATH = "/v1/pull", "/v1/push"
"""At an archive: fetch many blobs in one answer, push many in one request."""
METADATA_PATH = "/v1/metadata"
VIA_HEADER = "Shardcast-Via"
"""Header with the ids of the nodes that forwarded a request, the last one last, so that mirrors of each other
do not forward in circles."""
MAX_VIA = 16
"""Maximum ``VIA_HEADER`` hops; a request that reaches it is not forwarded."""
IMMUTABLE = "public, max-age=31536000, immutable"
"""``Cache-Control`` of bytes whose name is their digest."""

MAX_SHARDS = 10**6
MAX_DISTRIBUTION_SIZE = 1 << 20
"""Bytes of a distribution list that a reader takes."""

ABSENT_STATUSES = frozenset({404, 410, 412, 416, 503})
"""Statuses that mean "not here" or "not now": they do not lower the success of a server."""
GATEWAY_STATUSES = frozenset({502, 503, 504})
"""Statuses of a gateway or balancer that cannot reach the server behind it.

503 is one only without ``NODE_ID_HEADER``.
"""
DENIED_STATUSES = frozenset({401, 403})
"""Statuses that refuse a request: no token, a wrong one, or one without the scope."""
TLS_ONLY_REASON = "this port speaks TLS only; write https:// before its address"
"""The phrase beside the status 400 with which a TLS port answers plain HTTP."""
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
"""Statuses that redirect to another URL."""

MAX_SITE = 64
"""Characters of a site's name."""
_MAX_ID = 64
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_VERSION = re.compile(VERSION_PREFIX + r"([1-9][0-9]{0,17})", re.ASCII)
_SHARD = re.compile(r"shard_([0-9]{3,7})\.bin", re.ASCII)


def is_id(value: object) -> TypeGuard[str]:
    """Return whether a value is the id of a node, a feed or an origin: 1 to 64 ASCII letters and digits."""
    return isinstance(value, str) and 1 <= len(value) <= _MAX_ID and value.isascii() and value.isalnum()


def is_site(value: object) -> TypeGuard[str]:
    """Return whether a value is a site's name: letters, digits and ``._:/-``, a letter or digit first."""
    return isinstance(value, str) and len(value) <= MAX_SITE and _SITE.fullmatch(value) is not None


def version_number(version: str) -> int | None:
    """Return 7 for ``v7``; None for text that is no version's name."""
    match = _VERSION.fullmatch(version)
    return int(match[1]) if match else None


def version_name(number: int) -> str:
    """Return ``v7`` for 7."""
    return f"{VERSION_PREFIX}{number}"


def shard_name(shard: int, digits: int = 3) -> str:
    """Return ``shard_001.bin`` for 1: ``digits`` digits, or as many as the number needs; 0.3.x has five."""
    return f"shard_{shard:0{digits}d}.bin"


def shard_number(name: str) -> int | None:
    """Return 1 for ``shard_001.bin`` and 0.3.x's ``shard_00001.bin``; None for other text."""
    match = _SHARD.fullmatch(name)
    if not match:
        return None
    shard = int(match[1])
    return shard if shard and name in (shard_name(shard), shard_name(shard, 5)) else None


def manifest_path(version: str) -> str:
    """Return the path of a version's manifest."""
    return f"/{version}/{MANIFEST_FILE}"


def lease_path(version: str) -> str:
    """Return the path of a version's lease."""
    return f"/{version}/lease"


def swarm_path(version: str) -> str:
    """Return the path at which members of a version announce themselves."""
    return f"/{version}/swarm"


def next_path(version: str) -> str:
    """Return the path at which a server hands out ranges of a version."""
    return f"/{version}/next"


def shard_path(version: str, shard: int, digits: int = 3) -> str:
    """Return the path of a shard."""
    return f"/{version}/{shard_name(shard, digits)}"


def etag(digest: str) -> str:
    """Return the entity tag of bytes with this digest."""
    return f'"{digest}"'


def repr_digest(sha256: str) -> str:
    """Return the value of ``Repr-Digest`` (RFC 9530) for a SHA-256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


_POSITION = re.compile(r"[0-9]{0,18}", re.ASCII)
_CONTENT_RANGE = re.compile(
    r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\s*", re.ASCII | re.IGNORECASE
)


class Unsatisfiable(ValueError):
    """A range whose first byte lies beyond the end."""


def parse_range(value: str | None, size: int) -> tuple[int, int] | None:
    """Parse a ``Range`` header.

    Returns:
        The first byte and the byte after the last, of ``size`` bytes; None where the whole is to be sent: no
        header, several ranges, or a header that RFC 9110, 14.2, lets a server ignore.

    Raises:
        Unsatisfiable: the range selects no byte (416).
    """
    # Split, since one regular expression matches blanks between optional digits in quadratic time.
    unit, _, positions = (value or "").partition("=")
    first, dash, last = (position.strip(" \t") for position in positions.partition("-"))
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
    """Return the first byte and the byte after the last of ``Content-Range``; None where it names none."""
    match = _CONTENT_RANGE.fullmatch(value) if value else None
    return (int(match[1]), int(match[2]) + 1) if match else None


def parse_via(value: str | None) -> tuple[str, ...]:
    """Return the node ids in ``VIA_HEADER``, without malformed ones; at most ``MAX_VIA`` + 1."""
    ids = (node_id.strip() for node_id in (value or "").split(",")[: MAX_VIA + 1])
    return tuple(node_id for node_id in ids if _NODE.fullmatch(node_id))


def matches_if_range(header: str, tag: str | None) -> bool:
    """Return whether ``If-Range`` names exactly this entity tag, so that a part fits its sender's bytes."""
    return tag is not None and header.strip() == etag(tag)


def matches_if_match(header: str, digest: str | None) -> bool:
    """Return whether ``If-Match`` or ``If-None-Match`` names this digest, or ``*``."""
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or (digest is not None and etag(digest) in tags)
