"""What a node wants, and what it retires."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from shardcast.constants import LONGEST_HOLD, RECENTLY_READ
from shardcast.policy.retention import retirable, surplus, wanted
from tests.support.payloads import patient

NUMBERS = st.sets(st.integers(1, 20))


def test_what_is_under_way_comes_first_then_the_newest() -> None:
    assert wanted([1, 2, 3, 10, 11], here={10}, under_way={2}, keep=5) == [2, 11, 3, 1]


def test_what_would_be_retired_at_once_is_not_wanted() -> None:
    assert wanted(range(1, 20), here=set(), under_way=set(), keep=3) == [19, 18, 17]
    assert wanted([1, 2, 3], here={4, 5}, under_way={1}, keep=3) == [3]
    assert wanted([1, 2], here={7, 8, 9}, under_way=set(), keep=3) == []


def test_what_vanishes_upstream_retires_nothing() -> None:
    assert wanted([], here={1, 2}, under_way=set(), keep=3) == []
    assert surplus({1, 2}, keep=3) == []


@patient
@given(NUMBERS, NUMBERS, NUMBERS, st.integers(1, 20))
def test_a_node_that_has_what_it_wants_wants_no_more_and_retires_none_of_it(
    offered: set[int], here: set[int], under_way: set[int], keep: int
) -> None:
    first = wanted(offered, here, under_way, keep)
    assert set(first) <= offered - here
    assert wanted(offered, here | set(first), set(), keep) == []
    assert not set(first) & set(surplus(here | set(first), keep))


def test_surplus_is_what_is_older_than_the_newest() -> None:
    assert surplus({9, 10, 11, 1}, keep=2) == [1, 9]
    assert surplus({1}, keep=1) == []


def gone(last_read: float | None, since: float, now: float) -> bool:
    read = {} if last_read is None else {1: last_read}
    return retirable([1], read, {1: since}, now, RECENTLY_READ, LONGEST_HOLD) == [1]


def test_what_nobody_reads_goes_at_once() -> None:
    assert gone(None, since=0.0, now=0.0)


def test_what_was_read_in_the_last_minute_stays() -> None:
    assert not gone(100.0, since=100.0, now=159.9)
    assert gone(100.0, since=100.0, now=160.0)


def test_readers_hold_it_ten_minutes_beyond_retention_at_most() -> None:
    assert not gone(math.inf, since=100.0, now=699.9)
    assert gone(math.inf, since=100.0, now=700.0)
    assert gone(699.0, since=100.0, now=700.0)


def test_one_that_is_held_holds_no_other() -> None:
    assert retirable([1, 2, 3], {2: math.inf}, dict.fromkeys([1, 2, 3], 0.0), 0.0, 60.0, 600.0) == [1, 3]
