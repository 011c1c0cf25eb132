"""Requests for the next range of a server (``POST /v3/next``), and the heads of the answers.

::

    {"node": "81ab…", "has": [[17, 1]], "count": 12, "asked": [[20, 2]], "offered": true, "max": 1,
     "site": "rack7", "across": [[30, 4]]}

A node tells its news since its last request to the server; the count of all its pieces shows the server
whether a request was lost, and the node must tell all again. The answer has the bytes of consecutive pieces
of one shard, or the reason for having none now, or names pieces for the node to bring across its site's
border.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from shardcast.digest import is_digest
from shardcast.json_text import parse_json
from shardcast.protocol.piece_numbers import (
    MAX_PIECES,
    PieceError,
    PieceRun,
    lowest_runs,
    parse_runs,
    runs_of,
)
from shardcast.protocol.wire import (
    CLAIMS_HEADER,
    MAX_SHARDS,
    NOT_NOW_HEADER,
    RETRY_MS_HEADER,
    SHARD_HEADER,
    etag,
    is_id,
    is_site,
    parse_content_range,
)

MAX_REQUEST = 64 << 10
"""Bytes of a request."""
MAX_RUNS = 1000
"""Maximum runs of each set in a request, to fit its bytes; a node tells the rest by its next request."""
MAX_COUNT = 64
"""Pieces in an answer."""
MAX_ACROSS_RUNS = 200
"""Maximum runs of pieces beyond the border in a request: a node may bring few of them at a time."""
MAX_CLAIMED = 256
"""Maximum pieces for a node to bring across a border, in one answer."""
_MAX_CLAIMS_HEADER = 4096
MAX_RETRY_SECONDS = 60.0
"""Maximum seconds a server may ask a node to wait before the next request."""
MAX_WAIT_MS = 2000
"""Maximum milliseconds a node may ask a server to keep a request."""
AT_ONCE_SECONDS = 0.001
"""Seconds to wait after a request kept by the server: the node asks again at once."""
_DEFAULT_RETRY_SECONDS = 1.0
"""Seconds to wait where a server does not say."""
_ENCODER = json.JSONEncoder(separators=(",", ":"))
"""Made once: ``json.dumps`` would make one for each request."""
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class NextRangeError(ValueError):
    """A request or an answer is malformed, or breaks a bound."""


class HeaderValues(Protocol):
    """The headers of an answer, whatever the case of their names."""

    def get(self, name: str, default: str, /) -> str:
        """Return the value of a header."""
        ...


class NotNow(Enum):
    """The reason for an answer without bytes."""

    WAIT = "wait"
    """All present pieces were handed out, and more will come."""
    PAUSE = "pause"
    """The node holds enough unspread pieces, or is to wait for pieces given to others."""
    ALL_GIVEN = "all-given"
    """All was handed out: ask neighbours, and the server again when none offers a missing piece."""
    BUSY = "busy"
    """The server has no free slot for an answer."""
    CLAIMS = "claims"
    """The node may ask neighbours in other sites for the pieces named in the answer."""
    ABSENT = "absent"
    """The server does not have the version, or cannot hand it out in pieces."""


@dataclass(frozen=True, slots=True)
class NextRequest:
    """A node's request for its next range; sets of pieces are masks.

    Attributes:
        node: id of the node's run.
        has: pieces received since the last request to this server.
        count: number of pieces told to this server, these included.
        asked: pieces asked for elsewhere.
        lost: pieces handed out by this server without arriving.
        offered: whether a neighbour offers a missing piece.
        max_pieces: maximum pieces in the answer.
        site: the node's site; None for unknown: the server guesses one.
        across: pieces on offer in other sites, and nowhere in the node's own; None for a node without
            knowledge of borders.
        proof: shows that the node is the member of the id (``access.proofs.prove_asking``); empty for older
            nodes, and those without announcements.
        wait_ms: milliseconds for which the server may keep the request until there is something to hand out.
    """

    node: str
    has: int = 0
    count: int = 0
    asked: int = 0
    lost: int = 0
    offered: bool = False
    max_pieces: int = 1
    site: str | None = None
    across: int | None = None
    proof: str = ""
    wait_ms: int = 0

    @property
    def asker(self) -> str:
        """The node, distinct from others with the same id but without its proof."""
        return asker_of(self.node, self.proof)


@dataclass(frozen=True, slots=True)
class RangeHead:
    """The head of an answer with bytes.

    Attributes:
        shard: the number of the shard.
        start: the first byte in the shard.
        end: the byte after the last.
        size: bytes of the shard.
        digest: the shard's SHA-256 in hex.
    """

    shard: int
    start: int
    end: int
    size: int
    digest: str


def asker_of(node: str, proof: str) -> str:
    """Return the name of a node by its id, with a proof or an empty one."""
    return f"{node} {proof}" if proof else node


def encode_request(request: NextRequest) -> bytes:
    """Return a request as JSON. Its sets must have at most ``MAX_RUNS`` runs (``lowest_runs``)."""
    values: dict[str, Any] = {"node": request.node, "count": request.count, "offered": request.offered}
    for name, mask in (("has", request.has), ("asked", request.asked), ("lost", request.lost)):
        if mask:
            values[name] = runs_of(mask)
    if request.max_pieces != 1:
        values["max"] = request.max_pieces
    if request.site is not None:
        values["site"] = request.site
    if request.across is not None:
        values["across"] = runs_of(request.across)
    if request.proof:
        values["proof"] = request.proof
    if request.wait_ms:
        values["wait"] = request.wait_ms
    return _ENCODER.encode(values).encode()


def parse_request(raw: bytes) -> NextRequest:
    """Return the request in JSON text.

    Raises:
        NextRangeError: the bytes are no such request.
    """
    try:
        values = parse_json(raw)
    except ValueError:
        raise NextRangeError("no JSON") from None
    if not isinstance(values, dict):
        raise NextRangeError("no JSON object")
    node, offered = values.get("node"), values.get("offered", False)
    if not is_id(node):
        raise NextRangeError("a node without an id")
    proof = values.get("proof", "")
    if proof != "" and not is_id(proof):
        raise NextRangeError("a malformed proof")
    if type(offered) is not bool:
        raise NextRangeError("offered is neither true nor false")
    site = values.get("site")
    if site is not None and not is_site(site):
        raise NextRangeError("a malformed site's name")
    return NextRequest(
        node,
        _pieces(values, "has"),
        _integer(values, "count", 0, MAX_PIECES),
        _pieces(values, "asked"),
        _pieces(values, "lost"),
        offered,
        _integer(values, "max", 1, MAX_COUNT, default=1),
        site,
        None if values.get("across") is None else _pieces(values, "across"),
        proof,
        _integer(values, "wait", 0, MAX_WAIT_MS, default=0),
    )


def range_headers(run: PieceRun, size: int, digest: str) -> dict[str, str]:
    """Return the headers of an answer with pieces.

    Args:
        run: the pieces.
        size: bytes of their shard.
        digest: the shard's SHA-256 in hex.
    """
    return {
        SHARD_HEADER: str(run.shard),
        "Content-Range": f"bytes {run.offset}-{run.end - 1}/{size}",
        "ETag": etag(digest),
    }


def parse_range_head(headers: HeaderValues) -> RangeHead:
    """Return the range named in the head of an answer.

    Raises:
        NextRangeError: the head names none.
    """
    shard, span = headers.get(SHARD_HEADER, ""), headers.get("Content-Range", "")
    bounds, size = parse_content_range(span), span.rpartition("/")[2].strip()
    digest = headers.get("ETag", "").strip().removeprefix("W/").strip('"')
    if not (_NUMBER.fullmatch(shard) and 1 <= int(shard) <= MAX_SHARDS):
        raise NextRangeError(f"{SHARD_HEADER} that is no shard's number")
    if bounds is None or not _NUMBER.fullmatch(size) or not bounds[0] < bounds[1] <= int(size):
        raise NextRangeError("a malformed Content-Range")
    if not is_digest(digest):
        raise NextRangeError("an ETag that is no shard's digest")
    return RangeHead(int(shard), bounds[0], bounds[1], int(size), digest)


def not_now_headers(reason: NotNow, seconds: float, claims: int = 0) -> dict[str, str]:
    """Return the headers of an answer without bytes.

    Args:
        reason: the reason.
        seconds: to wait before the next request.
        claims: the pieces for the node to bring across the border of its site, a bit each.
    """
    headers = {NOT_NOW_HEADER: reason.value, RETRY_MS_HEADER: str(max(1, round(seconds * 1000)))}
    if claims:
        headers[CLAIMS_HEADER] = _ENCODER.encode(runs_of(claims))
    return headers


def parse_not_now(headers: HeaderValues) -> tuple[NotNow | None, float]:
    """Return the reason for an answer without bytes, and the seconds to wait.

    The reason is None for a head without a known one: from a proxy, or a server with nothing to hand out.
    """
    name, milliseconds = headers.get(NOT_NOW_HEADER, ""), headers.get(RETRY_MS_HEADER, "")
    reason = _REASONS.get(name)
    if not _NUMBER.fullmatch(milliseconds):
        return reason, _DEFAULT_RETRY_SECONDS
    return reason, min(max(int(milliseconds), 1) / 1000, MAX_RETRY_SECONDS)


def parse_claims(headers: HeaderValues) -> int:
    """Return the pieces for a node to bring across the border of its site.

    Raises:
        NextRangeError: the head names none, too many, or something else.
    """
    text = headers.get(CLAIMS_HEADER, "")
    try:
        mask = parse_runs(parse_json(text)) if len(text) <= _MAX_CLAIMS_HEADER else 0
    except ValueError:  # of JSON, or of the runs
        mask = 0
    if not 0 < mask.bit_count() <= MAX_CLAIMED:
        raise NextRangeError(f"{CLAIMS_HEADER} without 1 to {MAX_CLAIMED} pieces")
    return mask


_REASONS: Mapping[str, NotNow] = {reason.value: reason for reason in NotNow}


def _pieces(values: Mapping[str, Any], name: str) -> int:
    """Return a set of pieces, checked; no pieces where the request names none.

    Raises:
        NextRangeError: the value is no set of pieces, or has too many runs.
    """
    runs = values.get(name)
    if runs is None:
        return 0
    if isinstance(runs, list) and len(runs) > MAX_RUNS:
        raise NextRangeError(f"more than {MAX_RUNS} runs of pieces")
    try:
        return parse_runs(runs)
    except PieceError as error:
        raise NextRangeError(f"{name}: {error}") from None


def _integer(
    values: Mapping[str, Any], name: str, smallest: int, largest: int, *, default: int | None = None
) -> int:
    """Return an integer within its bounds.

    Raises:
        NextRangeError: the value is no integer, or out of bounds.
    """
    value = values.get(name, default)
    if type(value) is not int or not smallest <= value <= largest:
        raise NextRangeError(f"{name} is no integer from {smallest} to {largest}")
    return value


def reportable(mask: int, runs: int = MAX_RUNS) -> int:
    """Return as many pieces of a set, the lowest ones, as one request can tell: so many runs of them."""
    return lowest_runs(mask, runs)
