"""Sets of ranges as integers, and counters of all ranges at once, against plain sets and counters."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from shardcast.policy.swarm.masks import first_ranges, lowest, mask_of, random_range, ranges_of
from shardcast.policy.swarm.rarity import RangeCounts
from shardcast.policy.swarm.recent import RecentRanges
from tests.support.payloads import patient

SETS = st.sets(st.integers(0, 700), max_size=60)


@patient
@given(SETS)
def test_mask_gives_back_its_ranges_in_order(ranges: set[int]) -> None:
    mask = mask_of(ranges)
    assert list(ranges_of(mask)) == sorted(ranges)
    assert not ranges or lowest(mask) == min(ranges)
    assert first_ranges(5) == mask_of(range(5))


@patient
@given(SETS.filter(bool), st.integers())
def test_random_range_is_one_of_the_mask(ranges: set[int], seed: int) -> None:
    assert random_range(mask_of(ranges), Random(seed)) in ranges


def test_random_range_prefers_none() -> None:
    ranges = [0, 1, 2, 300, 301, 699]
    mask, random = mask_of(ranges), Random(1)
    drawn = Counter(random_range(mask, random) for _ in range(6000))
    assert set(drawn) == set(ranges)
    assert all(850 < times < 1150 for times in drawn.values())


@patient
@given(st.lists(st.tuples(st.booleans(), SETS), max_size=12), SETS)
def test_counters_count_as_single_counters_do(
    steps: list[tuple[bool, set[int]]], candidates: set[int]
) -> None:
    counts, expected = RangeCounts(), Counter[int]()
    for add, ranges in steps:
        if add:
            counts.add(mask_of(ranges))
            expected.update(ranges)
        else:
            counts.remove(mask_of(ranges))
            expected.subtract(number for number in ranges if expected[number])
    assert all(counts.count(number) == expected[number] for number in range(701))
    assert counts.counted == mask_of(number for number, times in expected.items() if times)
    fewest = min((expected[number] for number in candidates), default=0)
    rarest = {number for number in candidates if expected[number] == fewest}
    assert set(ranges_of(counts.rarest(mask_of(candidates)))) == rarest


def test_recent_range_is_forgotten_after_the_horizon_since_its_last_mention() -> None:
    recent = RecentRanges(0.5)
    recent.add(3, 0.0)
    recent.add(7, 0.2)
    recent.add(3, 0.4)
    assert recent.expire(0.6) == mask_of([3, 7])
    assert recent.expire(0.8) == mask_of([3])
    recent.discard(3)
    assert recent.mask == 0
