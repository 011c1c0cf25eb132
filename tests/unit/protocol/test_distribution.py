"""distribution.txt, as old nodes write it and as they are caught while they write it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.protocol.distribution import Distribution, Listing, encode, is_version, parse
from tests.support.payloads import patient

A, B = "a" * 64, "0123456789abcdef" * 4
LISTINGS = st.lists(
    st.builds(
        Listing,
        st.integers(1, 10**18 - 1).map("v{}".format),
        st.text("0123456789abcdef", min_size=64, max_size=64),
        st.one_of(st.none(), st.integers(0, 10**6)),
    ),
    max_size=6,
    unique_by=lambda one: one.version,
).map(lambda found: sorted(found, key=lambda one: one.number))


def test_the_file_as_shardcast_0_1_0_reads_and_writes_it() -> None:
    listings = (Listing("v1", A, 3), Listing("v2", B, 1))
    assert encode(listings) == f"v1: {A}|3\nv2: {B}|1\n".encode()
    assert parse(encode(listings)) == Distribution(listings)


def test_oldest_first_is_by_number() -> None:
    numbers = [10, 9, 100, 1, 2]
    found = parse(b"".join(f"v{number}: {A}|1\n".encode() for number in numbers)).listings
    assert [one.version for one in found] == ["v1", "v2", "v9", "v10", "v100"]
    assert encode([Listing("v10", A, 1), Listing("v9", B, 1)]).startswith(b"v9:")


@pytest.mark.parametrize(
    ("line", "listing"),
    [
        (f"v3: {A}", Listing("v3", A, None)),
        (f"v3:{A}|7", Listing("v3", A, 7)),
        (f"  v3 : {A.upper()} | 7 \r", Listing("v3", A, 7)),
        (f"v3: {A}|0", Listing("v3", A, 0)),
        (f"v3: {A}|1000000", Listing("v3", A, 10**6)),
        (f"v3: {A}|007", Listing("v3", A, 7)),
    ],
)
def test_lines_as_nodes_write_them(line: str, listing: Listing) -> None:
    assert parse(f"{line}\n".encode()).listings == (listing,)


@pytest.mark.parametrize(
    "line",
    [
        f"v0: {A}|1", f"v03: {A}|1", f"V3: {A}|1", f"3: {A}|1", f"v٣: {A}|1", f"v-3: {A}|1", f"../v3: {A}|1",
        f"v3 {A}|1", f"v3: {A[1:]}|1", f"v3: {A}a|1", f"v3: {'g' * 64}|1", f"v3: {A}|", f"v3: {A}|-1",
        f"v3: {A}|1000001", f"v3: {A}|1.5", f"v3: {A}|٣", f"v3: {A}|1|2", f"v3: {A}|1 x", "<html>", "v3:",
    ],
)  # fmt: skip
def test_malformed_line_hides_no_other(line: str) -> None:
    found = parse(f"{line}\nv4: {B}|1\n{line}\n".encode())
    assert found.listings == (Listing("v4", B, 1),)
    assert not found.is_foreign
    assert parse(f"{line}\n".encode()).is_foreign


def test_empty_list_is_doubtful_and_not_strange() -> None:
    for body in (b"", b"\n", b" \r\n\n"):
        assert parse(body) == Distribution(())
        assert parse(body).doubtful


def test_the_last_of_two_lines_for_a_version_counts() -> None:
    assert parse(f"v1: {A}|1\nv1: {B}|2\n".encode()).listings == (Listing("v1", B, 2),)


@patient
@given(LISTINGS)
def test_written_list_is_parsed(listings: list[Listing]) -> None:
    assert parse(encode(listings)) == Distribution(tuple(listings))


@patient
@given(st.one_of(st.binary(), st.from_regex(rb"(v[0-9]{0,3}: ?[0-9a-f]{60,66}\|?[0-9]{0,9}\n?){0,5}")))
@example(b"v" + b"9" * 5000 + b": " + A.encode() + b"|" + b"9" * 5000)
def test_arbitrary_bytes_parse_to_a_list_that_can_be_written(body: bytes) -> None:
    found = parse(body)
    assert parse(encode(found.listings)).listings == found.listings
    assert all(is_version(one.version) and one.version == f"v{one.number}" for one in found.listings)


def test_a_list_of_more_than_a_mebibyte_is_refused() -> None:
    listed = encode([Listing("v1", A, 1)])
    assert parse(listed.ljust(1 << 20, b"\n")).listings
    with pytest.raises(ValueError, match="1048576"):
        parse(listed.ljust((1 << 20) + 1, b"\n"))


def test_a_last_line_without_newline_counts_when_a_second_reading_agrees() -> None:
    whole = f"v1: {A}|1\nv2: {B}|12".encode()
    first = parse(whole)
    assert first.doubtful
    assert first.listings == (Listing("v1", A, 1),)
    assert first.settle(parse(whole)).listings == (Listing("v1", A, 1), Listing("v2", B, 12))
    assert parse(whole[:-1]).settle(first).listings == (Listing("v1", A, 1),)
    assert first.settle(parse(whole + b"\n")).listings == (Listing("v1", A, 1), Listing("v2", B, 12))


def test_a_list_that_is_empty_for_a_moment_is_read_again() -> None:
    whole = parse(encode([Listing("v1", A, 1)]))
    assert not whole.doubtful
    assert parse(b"").settle(whole) == whole
    assert whole.settle(parse(b"")).listings == ()


@patient
@given(LISTINGS, st.data())
def test_list_caught_while_growing_has_no_wrong_version(listings: list[Listing], data: st.DataObject) -> None:
    body = encode(listings)
    first = data.draw(st.integers(0, len(body)))
    second = data.draw(st.integers(0, len(body)).filter(lambda end: end != first)) if body else 0
    found = parse(body[:first]).settle(parse(body[:second])).listings
    assert set(found) <= set(listings)
    assert parse(body[:first]).settle(parse(body)).listings == tuple(listings)


@patient
@given(st.binary(), st.binary())
def test_any_two_readings_settle(first: bytes, second: bytes) -> None:
    settled = parse(first).settle(parse(second))
    assert settled.tail is None
    assert set(parse(second).listings) <= set(settled.listings)
