"""Pulls and pushes: what Casa writes is read; whatever comes, in whatever chunks, no wrong byte counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.blobs.framing import (
    MAX_PULL,
    FramingError,
    PullReader,
    PushReader,
    TooLong,
    WrongContent,
    parse_pull,
    write_length,
    write_pull,
)
from tests.support.payloads import patient, sha256

HELLO = "334d016f755cd6dc58c53a86e183882f8ec14f52fb05345887c8a5edd42c87b7"
WORLD = "514b6bb7c846ecfb8d2d29ef0b5c79b63e6ae838f123da936fe827fda654276c"
PUSH = bytes.fromhex("000000000000000648656c6c6f210000000000000006576f726c6421")
PULL = bytes.fromhex(f"{HELLO}0000000000000006{WORLD}0000000000000006")

blobs = st.lists(st.binary(max_size=50), max_size=8, unique=True)


def chunked(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """``data``, cut at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def read(reader: PullReader | PushReader, chunks: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The whole blobs that came before it failed, if it did."""
    whole, data = [], b""
    for chunk in chunks:
        for part in reader.feed(chunk):
            data += part.data
            if part.last:
                assert len(data) == part.length
                whole.append((part.key, data))
                data = b""
    reader.end()
    return whole


def answer(found: Iterable[bytes]) -> bytes:
    return b"".join(hashlib.sha256(blob).digest() + blob for blob in found)


def test_framing_matches_casa_test_vectors() -> None:
    assert parse_pull(PULL) == [(HELLO, 6), (WORLD, 6)]
    assert write_pull([(HELLO, 6), (WORLD, 6)]) == PULL
    assert read(PushReader(), [PUSH]) == [("", b"Hello!"), ("", b"World!")]
    assert write_length(6) + b"Hello!" + write_length(6) + b"World!" == PUSH


@patient
@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1)), min_size=1))
def test_pull_round_trips(pairs: list[tuple[bytes, int]]) -> None:
    wanted = [(key.hex(), length) for key, length in pairs]
    assert parse_pull(write_pull(wanted)) == wanted


@patient
@given(st.binary(max_size=200))
def test_pull_ignores_trailing_partial_pair(body: bytes) -> None:
    if len(body) < 40:
        with pytest.raises(FramingError):
            parse_pull(body)
    else:
        assert write_pull(parse_pull(body)) == body[: len(body) // 40 * 40]


def test_pull_of_1280_keys_has_the_maximum_size() -> None:
    assert len(write_pull([(HELLO, 6)] * 1280)) == MAX_PULL == 51_200


@patient
@given(blobs, st.lists(st.integers(min_value=0)))
def test_pull_answer_is_read_in_any_chunks(found: list[bytes], cuts: list[int]) -> None:
    wanted = {sha256(blob): len(blob) for blob in found}
    reader = PullReader(wanted | {HELLO: 6})
    assert read(reader, chunked(answer(found), cuts)) == [(sha256(blob), blob) for blob in found]
    assert reader.missing == ({} if b"Hello!" in found else {HELLO: 6})


@patient
@given(blobs, st.binary(max_size=300), st.lists(st.integers(min_value=0)))
def test_corrupt_answer_never_yields_wrong_blobs(found: list[bytes], lies: bytes, cuts: list[int]) -> None:
    wanted = {sha256(blob): len(blob) for blob in found}
    for sent in (lies, answer(found[:1]) + lies, answer(found) + lies[:1]):
        reader, counted, data = PullReader(wanted), list[bytes](), b""
        try:
            for chunk in chunked(sent, cuts):
                for part in reader.feed(chunk):
                    data += part.data
                    if part.last:
                        assert sha256(data) == part.key
                        counted.append(data)
                        data = b""
        except FramingError:
            pass
        assert set(counted) <= set(found)
        assert len(counted) == len(set(counted))


@patient
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5, unique=True), st.data())
def test_truncated_answer_is_refused(found: list[bytes], data: st.DataObject) -> None:
    whole = answer(found)
    ends = {len(answer(found[:count])) for count in range(len(found) + 1)}
    cut = data.draw(st.integers(0, len(whole)).filter(lambda place: place not in ends))
    with pytest.raises(FramingError, match="ends"):
        read(PullReader({sha256(blob): len(blob) for blob in found}), [whole[:cut]])


def test_unrequested_blob_is_refused_before_its_bytes() -> None:
    with pytest.raises(FramingError, match="not requested"):
        read(PullReader({HELLO: 6}), [bytes.fromhex(WORLD)])
    with pytest.raises(FramingError, match="came twice"):
        read(PullReader({HELLO: 6}), [answer([b"Hello!", b"Hello!"])])
    with pytest.raises(WrongContent):
        read(PullReader({HELLO: 6}), [bytes.fromhex(HELLO) + b"World!"])


@patient
@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(min_value=0)))
def test_push_is_read_in_any_chunks(pushed: list[bytes], cuts: list[int]) -> None:
    body = b"".join(write_length(len(blob)) + blob for blob in pushed)
    assert read(PushReader(50), chunked(body, cuts)) == [("", blob) for blob in pushed]


@patient
@given(st.binary(max_size=300), st.lists(st.integers(min_value=0)))
def test_push_is_read_completely_or_refused(body: bytes, cuts: list[int]) -> None:
    try:
        whole = read(PushReader(100), chunked(body, cuts))
    except FramingError:
        return
    assert b"".join(write_length(len(blob)) + blob for _, blob in whole) == body


def test_length_over_the_limit_is_refused_before_its_bytes() -> None:
    for length in (101, 2**63, 2**64 - 1):
        with pytest.raises(TooLong) as refused:
            read(PushReader(100), [write_length(length)])
        assert refused.value.length == length
