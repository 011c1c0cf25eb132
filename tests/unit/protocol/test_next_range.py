"""Requests for a next range, and the heads of their answers: written, read back, and refused when wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.protocol.next_range import (
    MAX_ACROSS_RUNS,
    MAX_CLAIMED,
    MAX_REQUEST,
    MAX_RETRY_SECONDS,
    MAX_RUNS,
    NextRangeError,
    NextRequest,
    NotNow,
    RangeHead,
    encode_request,
    not_now_headers,
    parse_claims,
    parse_not_now,
    parse_range_head,
    parse_request,
    range_headers,
    reportable,
)
from shardcast.protocol.piece_numbers import MAX_PIECES, PieceRun
from tests.support.payloads import patient

DIGEST = "ab" * 32
SETS = st.sets(st.integers(0, 900), max_size=40).map(lambda numbers: sum(1 << number for number in numbers))
REQUESTS = st.builds(
    NextRequest,
    node=st.text("0123456789abcdef", min_size=1, max_size=64),
    has=SETS,
    count=st.integers(0, MAX_PIECES),
    asked=SETS,
    lost=SETS,
    offered=st.booleans(),
    max_pieces=st.integers(1, 64),
    site=st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", fullmatch=True),
    across=st.none() | SETS,
    proof=st.text("0123456789abcdef", max_size=64),
)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
NAMES = ("node", "has", "count", "asked", "lost", "offered", "max", "site", "across", "proof")


@patient
@given(REQUESTS)
def test_written_request_is_parsed(request: NextRequest) -> None:
    assert parse_request(encode_request(request)) == request


def test_request_in_the_documented_form_is_parsed() -> None:
    raw = b'{"node": "81ab", "has": [[17, 1]], "count": 12, "asked": [[20, 2]], "offered": true, "more": {}}'
    assert parse_request(raw) == NextRequest("81ab", 1 << 17, 12, 3 << 20, 0, True)


@patient
@given(st.dictionaries(st.sampled_from(NAMES), JSON_VALUES))
def test_any_json_is_a_request_within_bounds_or_refused(values: dict[str, Any]) -> None:
    try:
        request = parse_request(json.dumps({"node": "1", "count": 0} | values).encode())
    except NextRangeError:
        return
    assert 0 <= request.has < 1 << MAX_PIECES and 1 <= request.max_pieces <= 64


@patient
@given(st.binary(max_size=50))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(NextRangeError):
        parse_request(raw)


@pytest.mark.parametrize(
    "values",
    [
        {"node": ""},
        {"proof": "../"},
        {"proof": 7},
        {"node": "a" * 65},
        {"node": "../../x"},
        {"node": 7},
        {"count": -1},
        {"count": MAX_PIECES + 1},
        {"count": True},
        {"has": [[0, MAX_PIECES + 1]]},
        {"has": [[2 * number, 1] for number in range(MAX_RUNS + 1)]},
        {"offered": 1},
        {"max": 0},
        {"max": 65},
        {"lost": {}},
        {"site": ""},
        {"site": "two words"},
        {"site": "x" * 65},
        {"across": [[0, MAX_PIECES + 1]]},
    ],
)
def test_request_beyond_a_bound_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(NextRangeError):
        parse_request(json.dumps({"node": "1", "count": 0} | values).encode())


def test_largest_sets_fit_a_request() -> None:
    scattered = sum(1 << (MAX_PIECES - 3 * number - 1) for number in range(3 * MAX_RUNS))
    told = reportable(scattered)
    assert told.bit_count() == MAX_RUNS and told == scattered & ((1 << told.bit_length()) - 1)
    across = reportable(scattered, MAX_ACROSS_RUNS)
    request = NextRequest("f" * 64, told, MAX_PIECES, told, told, True, 64, "x" * 64, across)
    assert parse_request(encode_request(request)) == request
    assert len(encode_request(request)) <= MAX_REQUEST


@patient
@given(st.integers(0, 500), st.integers(1, 500), st.integers(0, 500))
def test_written_range_head_is_parsed(offset: int, length: int, rest: int) -> None:
    size = offset + length + rest
    head = parse_range_head(range_headers(PieceRun(0, 1, 7, offset, length), size, DIGEST))
    assert head == RangeHead(7, offset, offset + length, size, DIGEST)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Shardcast-Shard", ""),
        ("Shardcast-Shard", "0"),
        ("Shardcast-Shard", "-1"),
        ("Shardcast-Shard", "1000001"),
        ("Content-Range", ""),
        ("Content-Range", "bytes 0-9/*"),
        ("Content-Range", "bytes 5-4/10"),
        ("Content-Range", "bytes 0-10/10"),
        ("Content-Range", "bytes */10"),
        ("ETag", ""),
        ("ETag", '"v1"'),
    ],
)
def test_wrong_range_head_is_refused(name: str, value: str) -> None:
    headers = range_headers(PieceRun(0, 1, 7, 0, 10), 10, DIGEST)
    with pytest.raises(NextRangeError):
        parse_range_head(headers | {name: value})


@patient
@given(st.sets(st.integers(0, MAX_PIECES - 1), min_size=1, max_size=MAX_CLAIMED))
def test_written_claims_are_parsed(pieces: set[int]) -> None:
    claims = sum(1 << number for number in pieces)
    headers = not_now_headers(NotNow.CLAIMS, 0.05, claims)
    if len(headers["Shardcast-Claims"]) <= 4096:
        assert parse_claims(headers) == claims


@patient
@given(st.text(max_size=40) | JSON_VALUES.map(json.dumps))
def test_any_claims_are_within_bounds_or_refused(text: str) -> None:
    try:
        claims = parse_claims({"Shardcast-Claims": text})
    except NextRangeError:
        return
    assert 0 < claims.bit_count() <= MAX_CLAIMED


def test_claims_beyond_their_number_are_refused() -> None:
    with pytest.raises(NextRangeError):
        parse_claims({"Shardcast-Claims": f"[[0,{MAX_CLAIMED + 1}]]"})


@pytest.mark.parametrize("reason", NotNow)
def test_reason_and_wait_are_read_back(reason: NotNow) -> None:
    assert parse_not_now(not_now_headers(reason, 0.05)) == (reason, 0.05)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 1.0), ("soon", 1.0), ("-5", 1.0), ("0", 0.001), ("9" * 18, MAX_RETRY_SECONDS), ("9" * 99, 1.0)],
)
def test_wait_is_within_bounds(text: str, seconds: float) -> None:
    assert parse_not_now({"Shardcast-Retry-After-Ms": text}) == (None, seconds)
