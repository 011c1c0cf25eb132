"""Requests for the next range that a server hands out (``POST /v3/next``), and the heads of its answers.

::

    {"node": "81ab…", "has": [[17, 1]], "count": 12, "asked": [[20, 2]], "offered": true, "max": 1,
     "site": "rack7", "across": [[30, 4]]}

A node tells what is new since its last request to the server; the count of all its pieces shows the server
whether a request was lost, so that the node must tell all. The answer has the bytes of consecutive pieces of
one shard, or says why there are none now, or names pieces that the node may bring across its site's border.
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
"""Runs of each set in a request, all of which fit its bytes; a node tells the rest by its next request."""
MAX_COUNT = 64
"""Pieces in an answer."""
MAX_ACROSS_RUNS = 200
"""Runs of pieces beyond the border that a node names in a request: it may bring few of them at a time."""
MAX_CLAIMED = 256
"""Pieces that one answer lets a node bring across a border."""
_MAX_CLAIMS_HEADER = 4096
MAX_RETRY_SECONDS = 60.0
"""Seconds that a server can have a node wait before the next request."""
MAX_WAIT_MS = 2000
"""Milliseconds for which a node can have a server keep its request."""
AT_ONCE_SECONDS = 0.001
"""Seconds to wait after a request that the server has kept: the node asks again at once."""
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
    """The reason for which a server hands out no bytes."""

    WAIT = "wait"
    """All that the server has by now was handed out, and more comes."""
    PAUSE = "pause"
    """The node holds enough that no other node has yet, or is to wait for what others were given."""
    ALL_GIVEN = "all-given"
    """All was handed out: ask neighbours, and the server again when none offers what is missing."""
    BUSY = "busy"
    """The server gives as many answers as it can."""
    CLAIMS = "claims"
    """The node may ask neighbours in other sites for the pieces that the answer names."""
    ABSENT = "absent"
    """The server does not have the version, or cannot hand it out in pieces."""


@dataclass(frozen=True, slots=True)
class NextRequest:
    """A node's request for its next range; sets of pieces are masks.

    Attributes:
        node: the id of the node's run.
        has: the pieces that it got since its last request to this server.
        count: how many pieces it has told this server, these included.
        asked: the pieces that it has asked for elsewhere.
        lost: pieces that this server handed out to it, and that did not come.
        offered: whether a neighbour offers a piece that it lacks.
        max_pieces: pieces in the answer at most.
        site: the node's site; None where it has yet to hear of it: the server guesses it.
        across: the pieces that neighbours in other sites offer, and none in its own; None for a node that
            knows no borders.
        proof: shows that the node is the member of that id (``access.proofs.prove_asking``); empty for older
            nodes, and those that announce themselves nowhere.
        wait_ms: milliseconds for which the server may keep the request until it has something to hand out.
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
        """The node, told from others that ask by its id without its proof."""
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
    """Return the name of a node that asks by an id, with a proof or an empty one."""
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
    """Return the request that JSON tells.

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
        raise NextRangeError("a proof that is none")
    if type(offered) is not bool:
        raise NextRangeError("offered is neither true nor false")
    site = values.get("site")
    if site is not None and not is_site(site):
        raise NextRangeError("a site's name that is none")
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
    """Return the range that the head of an answer names.

    Raises:
        NextRangeError: the head names none.
    """
    shard, span = headers.get(SHARD_HEADER, ""), headers.get("Content-Range", "")
    bounds, size = parse_content_range(span), span.rpartition("/")[2].strip()
    digest = headers.get("ETag", "").strip().removeprefix("W/").strip('"')
    if not (_NUMBER.fullmatch(shard) and 1 <= int(shard) <= MAX_SHARDS):
        raise NextRangeError(f"{SHARD_HEADER} that is no shard's number")
    if bounds is None or not _NUMBER.fullmatch(size) or not bounds[0] < bounds[1] <= int(size):
        raise NextRangeError("a Content-Range that is none")
    if not is_digest(digest):
        raise NextRangeError("an ETag that is no shard's digest")
    return RangeHead(int(shard), bounds[0], bounds[1], int(size), digest)


def not_now_headers(reason: NotNow, seconds: float, claims: int = 0) -> dict[str, str]:
    """Return the headers of an answer without bytes.

    Args:
        reason: why there are none.
        seconds: to wait before the next request.
        claims: the pieces that the node may bring across the border of its site.
    """
    headers = {NOT_NOW_HEADER: reason.value, RETRY_MS_HEADER: str(max(1, round(seconds * 1000)))}
    if claims:
        headers[CLAIMS_HEADER] = _ENCODER.encode(runs_of(claims))
    return headers


def parse_not_now(headers: HeaderValues) -> tuple[NotNow | None, float]:
    """Return why there are no bytes, and the seconds to wait.

    The reason is None where the head names none that is known: a proxy answered, or a server that hands
    nothing out.
    """
    name, milliseconds = headers.get(NOT_NOW_HEADER, ""), headers.get(RETRY_MS_HEADER, "")
    reason = _REASONS.get(name)
    if not _NUMBER.fullmatch(milliseconds):
        return reason, _DEFAULT_RETRY_SECONDS
    return reason, min(max(int(milliseconds), 1) / 1000, MAX_RETRY_SECONDS)


def parse_claims(headers: HeaderValues) -> int:
    """Return the pieces that an answer lets a node bring across the border of its site.

    Raises:
        NextRangeError: the head names none, or too many.
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
    """Return a set of pieces, checked; no pieces where the request names none."""
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
    """Return an integer within its bounds."""
    value = values.get(name, default)
    if type(value) is not int or not smallest <= value <= largest:
        raise NextRangeError(f"{name} is no integer from {smallest} to {largest}")
    return value


def reportable(mask: int, runs: int = MAX_RUNS) -> int:
    """Return as many pieces of a set, the lowest ones, as one request can tell: so many runs of them."""
    return lowest_runs(mask, runs)
