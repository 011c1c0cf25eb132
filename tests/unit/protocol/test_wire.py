"""Paths, names and headers: what old nodes and new ones must agree on byte for byte."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.protocol import wire
from shardcast.protocol.wire import (
    Unsatisfiable,
    etag,
    matches_if_match,
    parse_content_range,
    parse_range,
    repr_digest,
    shard_name,
    shard_number,
    version_name,
    version_number,
)
from tests.support.payloads import patient

DIGEST = hashlib.sha256(b"a shard").hexdigest()


def test_the_paths_that_shardcast_0_1_0_speaks() -> None:
    assert wire.DISTRIBUTION_PATH == "/distribution.txt"
    assert wire.shard_path("v1", 1) == "/v1/shard_001.bin"
    assert wire.shard_path("v12", 999) == "/v12/shard_999.bin"
    assert wire.shard_path("v1", 1000) == "/v1/shard_1000.bin"
    assert wire.shard_path("v1", 7, 5) == "/v1/shard_00007.bin"


def test_the_paths_that_new_nodes_add() -> None:
    assert wire.manifest_path("v3") == "/v3/manifest.jsonl"
    assert (wire.HEALTHCHECK_PATH, wire.STATUS_PATH) == ("/healthcheck", "/status")


def test_lacking_statuses_exclude_failures() -> None:
    assert {404, 412, 416, 503} <= wire.ABSENT_STATUSES
    assert not wire.ABSENT_STATUSES & {200, 206, 301, 400, 403, 500, 502}


@patient
@given(st.one_of(st.text(), st.lists(st.from_regex(r"[a-z0-9-]{1,70}", fullmatch=True)).map(", ".join)))
@example(",".join(["a"] * 100_000))
def test_parsed_via_is_bounded(header: str) -> None:
    via = wire.parse_via(header)
    assert len(via) <= wire.MAX_VIA + 1
    assert all(0 < len(one) <= 64 and one.isascii() and one in header for one in via)
    assert wire.parse_via(", ".join(via)) == via


@patient
@given(st.integers(1, 10**18 - 1))
def test_a_versions_name_says_its_number(number: int) -> None:
    assert version_number(version_name(number)) == number


@patient
@given(st.one_of(st.text(), st.from_regex(r"[vV]?[0-9٠-٩]{0,20}\n?")))
@example("v" + "9" * 5000)
def test_a_version_has_one_name(text: str) -> None:
    number = version_number(text)
    assert number is None or (number > 0 and version_name(number) == text and text.isascii())


@pytest.mark.parametrize(
    "text", ["v0", "v01", "V1", "1", "v", "v-1", "v1 ", " v1", "v1\n", "v1/", "v1.0", "v٣", "../v1", "v1\0"]
)
def test_malformed_version_has_no_number(text: str) -> None:
    assert version_number(text) is None


@patient
@given(st.integers(1, 10**6), st.sampled_from([3, 5]))
def test_a_shards_name_says_its_number(shard: int, digits: int) -> None:
    assert shard_number(shard_name(shard, digits)) == shard


@patient
@given(st.one_of(st.text(), st.from_regex(r"shard_[0-9٠-٩]{0,9}\.bin\n?")))
def test_a_shard_has_one_name_of_three_digits_and_one_of_five(text: str) -> None:
    number = shard_number(text)
    assert number is None or (number > 0 and text in (f"shard_{number:03}.bin", f"shard_{number:05}.bin"))


@pytest.mark.parametrize(
    "text",
    [
        "shard_000.bin", "shard_1.bin", "shard_01.bin", "shard_0001.bin", "shard_000001.bin", "Shard_001.bin",
        "shard_001.bin.part", "shard_001.bin\n", "shard_٠٠١.bin", "../shard_001.bin", "shard_001_bin",
    ],
)  # fmt: skip
def test_malformed_shard_name_has_no_number(text: str) -> None:
    assert shard_number(text) is None


def test_a_digest_in_headers() -> None:
    assert etag(DIGEST) == f'"{DIGEST}"'
    raw = hashlib.sha256(b"a shard").digest()
    assert repr_digest(DIGEST) == f"sha-256=:{base64.b64encode(raw).decode()}:"


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (None, None),
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 6)),
        ("bytes=9-", (9, 10)),
        ("bytes=3-999", (3, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-999", (0, 10)),
        ("Bytes = 3 - 5", (3, 6)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("bytes=٣-", None),
        ("bytes 0-1", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("bytes=0-" + " " * 8000 + "x", None),
        ("bytes" + " " * 8000 + "=" + " " * 8000 + "-" + " " * 8000 + "3", (7, 10)),
    ],
)
def test_range_selects_part_or_whole(value: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(value, 10) == part


@pytest.mark.parametrize(
    ("value", "size"), [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_behind_the_end_can_not_be_satisfied(value: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(value, size)


@patient
@given(st.one_of(st.text(), st.from_regex(r"\Abytes=[0-9]{0,20}-[0-9]{0,20}\Z")), st.integers(0, 2**62))
def test_no_range_reaches_outside(value: str, size: int) -> None:
    try:
        part = parse_range(value, size)
    except Unsatisfiable:
        return
    assert part is None or 0 <= part[0] < part[1] <= size


@patient
@given(st.integers(0, 10**17), st.integers(1, 10**17), st.one_of(st.none(), st.integers(0, 10**18 - 1)))
def test_content_range_gives_first_and_end(start: int, length: int, size: int | None) -> None:
    end = start + length
    assert parse_content_range(f"bytes {start}-{end - 1}/{'*' if size is None else size}") == (start, end)


@pytest.mark.parametrize(
    "value", [None, "", "bytes */10", "bytes 0-", "0-1/2", "bytes=0-1/2", "bytes 0-1", "bytes ٣-٤/٥"]
)
def test_malformed_content_range_is_none(value: str | None) -> None:
    assert parse_content_range(value) is None


@patient
@given(st.text())
def test_arbitrary_content_range_is_parsed_or_none(value: str) -> None:
    part = parse_content_range(value)
    assert part is None or part[0] >= 0


@pytest.mark.parametrize(
    ("header", "digest", "right"),
    [
        (f'"{DIGEST}"', DIGEST, True),
        (f'"other", "{DIGEST}"', DIGEST, True),
        (f'"other","{DIGEST}" ', DIGEST, True),
        ("*", DIGEST, True),
        ("*", None, True),
        ('"other"', DIGEST, False),
        (DIGEST, DIGEST, False),
        ('""', None, False),
        (f'"{DIGEST}"', None, False),
        ("", DIGEST, False),
    ],
)
def test_if_match_names_a_digest_or_anything(header: str, digest: str | None, right: bool) -> None:
    assert matches_if_match(header, digest) is right


@patient
@given(st.text())
def test_no_other_if_match_names_a_shard(header: str) -> None:
    assert matches_if_match(header, DIGEST) == ("*" in [tag.strip() for tag in header.split(",")])
