"""Sets of chunks as bitmaps, against sets of numbers."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.errors import IntegrityError

NUMBERS = st.sets(st.integers(0, 3000))


@given(NUMBERS, NUMBERS, NUMBERS)
def test_sets_behave_as_sets_of_numbers_do(first: set[int], second: set[int], removed: set[int]) -> None:
    both = ChunkSet(first)
    both.unite(ChunkSet(second))
    both.remove(removed)
    expected = (first | second) - removed
    assert set(both) == expected and len(both) == len(expected)
    assert all(number in both for number in expected) and 5000 not in both
    assert both.common(ChunkSet(first)) == len(expected & first)


@given(NUMBERS)
def test_encoded_set_is_decoded(numbers: set[int]) -> None:
    assert set(ChunkSet.decode(ChunkSet(numbers).encode(), "ab12")) == numbers


@pytest.mark.parametrize("data", [b"", b"nonsense", zlib.compress(b"abc")[:-2]])
def test_other_bytes_are_an_error_in_words(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"list of chunks of snapshot ab12 .*forget"):
        ChunkSet.decode(data, "ab12")


def test_million_chunks_take_little_room() -> None:
    assert len(ChunkSet(range(1_000_000)).encode()) < 1000
