"""Pieces of a version by their numbers, and sets of pieces as runs."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.protocol.manifest import Header, Shard, build_manifest
from shardcast.protocol.piece_numbers import (
    MAX_PIECES,
    MAX_RUNS,
    PieceError,
    PieceNumbers,
    PieceRun,
    lowest_runs,
    parse_runs,
    runs_of,
)
from shardcast.protocol.shard_table import ShardTable
from tests.support.payloads import patient

SIZES = st.lists(st.integers(0, 50), max_size=8)
PIECE_SIZES = st.integers(1, 12)
MASKS = st.integers(0, 1 << 300) | st.sets(st.integers(0, 5000)).map(lambda bits: sum(1 << n for n in bits))
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


def shards_of(sizes: list[int]) -> list[Shard]:
    shards, offset = [], 0
    for number, size in enumerate(sizes, 1):
        shards.append(Shard(number, offset, size, "ab" * 32))
        offset += size
    return shards


def test_pieces_are_numbered_through_all_shards() -> None:
    numbers = PieceNumbers(4, shards_of([10, 0, 4, 1]))
    assert [numbers.run(number) for number in range(numbers.count)] == [
        PieceRun(0, 1, 1, 0, 4),
        PieceRun(1, 1, 1, 4, 4),
        PieceRun(2, 1, 1, 8, 2),
        PieceRun(3, 1, 3, 0, 4),
        PieceRun(4, 1, 4, 0, 1),
    ]


def test_run_ends_with_its_shard() -> None:
    numbers = PieceNumbers(4, shards_of([10, 20]))
    assert numbers.run(1, 100) == PieceRun(1, 2, 1, 4, 6)
    assert numbers.run(1, 1) == PieceRun(1, 1, 1, 4, 4)
    assert numbers.run(3, 2).mask == 0b11000


@patient
@given(PIECE_SIZES, SIZES)
def test_each_byte_lies_in_one_piece(piece_size: int, sizes: list[int]) -> None:
    numbers = PieceNumbers(piece_size, shards_of(sizes))
    counted = []
    for shard, size in enumerate(sizes, 1):
        for offset in range(size):
            number = numbers.number_at(shard, offset)
            run = numbers.run(number)
            assert run.shard == shard and run.offset <= offset < run.end
            counted.append(number)
        assert numbers.in_shard(shard).bit_count() == -(-size // piece_size)
    assert sorted(set(counted)) == list(range(numbers.count))


@patient
@given(PIECE_SIZES, SIZES, st.integers(0, 60), st.integers(0, 60))
def test_only_whole_pieces_of_a_range_count(piece_size: int, sizes: list[int], start: int, end: int) -> None:
    numbers = PieceNumbers(piece_size, shards_of(sizes))
    for shard in range(1, len(sizes) + 1):
        mask = numbers.whole_within(shard, start, end)
        runs = [numbers.run(number) for number in range(numbers.count)]
        expected = [
            run.first for run in runs if run.shard == shard and start <= run.offset and run.end <= end
        ]
        assert mask == sum(1 << number for number in expected)


@patient
@given(PIECE_SIZES, SIZES, st.integers(0, 8))
def test_numbers_stay_while_shards_come(piece_size: int, sizes: list[int], first: int) -> None:
    shards = shards_of(sizes)
    growing = PieceNumbers(piece_size, ShardTable(shards[:first]))
    before = [growing.run(number) for number in range(growing.count)]
    growing.extend(ShardTable(shards))
    whole = PieceNumbers(piece_size, shards)
    assert before == [whole.run(number) for number in range(len(before))]
    assert growing.everything == whole.everything and growing.shard_count == len(sizes)


def test_manifest_gives_numbers() -> None:
    manifest = build_manifest(Header("v1", "ab", "x", piece_size=4), shards_of([5, 4]), {"sha256": "ab" * 32})
    assert PieceNumbers.of(manifest).count == 3


@pytest.mark.parametrize("number", [-1, 3, 1 << 80])
def test_unknown_pieces_are_refused(number: int) -> None:
    with pytest.raises(IndexError):
        PieceNumbers(4, shards_of([10])).run(number)


def test_unknown_shards_are_refused() -> None:
    numbers = PieceNumbers(4, shards_of([10]))
    for shard in (-1, 0, 2):
        with pytest.raises(IndexError):
            numbers.in_shard(shard)
    with pytest.raises(IndexError):
        numbers.number_at(1, 10)


@patient
@given(MASKS)
def test_written_set_is_parsed(mask: int) -> None:
    runs = runs_of(mask)
    assert sum(count for _, count in runs) == mask.bit_count()
    assert all(first + count < later for (first, count), (later, _) in pairwise(runs))
    assert parse_runs(json.loads(json.dumps(runs))) == mask


@patient
@given(MASKS, st.integers(1, 5))
def test_long_sets_are_cut_at_a_run(mask: int, max_runs: int) -> None:
    assert runs_of(lowest_runs(mask, max_runs)) == runs_of(mask)[:max_runs]


@patient
@given(JSON_VALUES | st.lists(st.lists(st.integers(-1, 40), min_size=2, max_size=2), max_size=6))
def test_parsed_runs_are_within_bounds(value: Any) -> None:
    try:
        mask = parse_runs(value, 32)
    except PieceError:
        return
    assert 0 <= mask < 1 << 32
    assert mask.bit_count() == sum(count for _, count in value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"0": 1},
        [[0]],
        [[0, 1, 2]],
        [[0, 0]],
        [[-1, 2]],
        [[True, 1]],
        [[0.0, 1]],
        [[4, 2], [0, 1]],
        [[0, 2], [1, 2]],
        [[31, 2]],
        [[0, 10**30]],
        [[2 * n, 1] for n in range(MAX_RUNS + 1)],
    ],
)
def test_what_is_no_set_of_pieces_is_refused(value: object) -> None:
    with pytest.raises(PieceError):
        parse_runs(value, 32 if not isinstance(value, list) or len(value) < 10 else MAX_PIECES)
