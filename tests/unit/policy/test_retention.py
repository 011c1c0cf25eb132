"""What a node wants, and what it retires."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from shardcast.constants import LONGEST_HOLD, RECENTLY_READ
from shardcast.policy.opening import in_turn, to_begin
from shardcast.policy.retention import retirable, room_for, surplus, wanted, wanted_of
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


def test_one_server_s_versions_take_no_place_from_another_s() -> None:
    offers = {1: ["a", "b"], 2: ["a"], 90: ["b"], 91: ["b"], 92: ["b"]}
    assert wanted_of(offers, here=set(), under_way=set(), keep=2) == [92, 91, 2, 1]
    assert wanted_of(offers, here={2}, under_way={1}, keep=2) == [1, 92, 91]
    assert wanted_of(offers, here={2}, under_way=set(), keep=2, doubted={"b"}) == [1, 92, 91]
    assert wanted_of(offers, here={1, 2}, under_way=set(), keep=2, doubted={"a", "b"}) == [92, 91]


def test_a_server_that_is_behind_has_nothing_that_is_wanted() -> None:
    offers = {3: ["b"], 4: ["b"], 5: ["b"], 13: ["a"], 14: ["a"], 15: ["a"]}
    assert wanted_of(offers, here={13, 14, 15}, under_way=set(), keep=3) == []


@patient
@given(st.dictionaries(st.integers(1, 20), st.just(["a"])), NUMBERS, NUMBERS, st.integers(1, 20))
def test_of_one_server_the_same_is_wanted(
    offers: dict[int, list[str]], here: set[int], under_way: set[int], keep: int
) -> None:
    assert wanted_of(offers, here, under_way, keep) == wanted(offers, here, under_way, keep)


def test_each_server_has_its_turn() -> None:
    assert in_turn({1: ["a"], 2: ["a"], 8: ["b"], 9: ["b"]}) == [9, 2, 8, 1]
    assert in_turn({1: ["a", "b"], 9: ["b"]}) == [9, 1]
    assert in_turn({}) == []


def test_what_is_new_everywhere_is_begun() -> None:
    assert to_begin({5: ["a"]}, {4: ["a"]}, here=[4], making={}, places=3, share=3) == [5]
    assert to_begin({5: ["a"]}, {4: ["a"]}, here=[6], making={}, places=3, share=3) == []
    assert to_begin({5: ["a"]}, {6: ["a"]}, here=[], making={}, places=3, share=3) == []
    assert to_begin({5: ["a"]}, {5: ["b"]}, here=[], making={}, places=3, share=3) == []
    assert to_begin({5: ["a"]}, {90: ["b"]}, here=[], making={}, places=3, share=3) == [5]


def test_no_server_takes_all_places() -> None:
    opened = {1: ["a"], 90: ["b"], 91: ["b"], 92: ["b"]}
    assert to_begin(opened, {}, here=[], making={}, places=3, share=2) == [92, 1, 91]
    taken = {91: ["b"], 92: ["b"]}
    assert to_begin(opened, {}, here=[], making=taken, places=3, share=2) == [1]
    assert to_begin(opened, {}, here=[], making={**taken, 1: ["a"]}, places=3, share=2) == []


def test_no_more_versions_are_begun_than_there_are_places() -> None:
    opened = {number: [f"server {number}"] for number in range(1, 9)}
    assert to_begin(opened, {}, here=[], making={}, places=3, share=3) == [8, 7, 6]
    assert to_begin(opened, {}, here=[], making={8: ["server 8"]}, places=3, share=3) == [7, 6]
    assert to_begin(opened, {}, here=[], making={8: [], 7: [], 6: []}, places=3, share=3) == []


def test_one_server_has_exactly_its_share() -> None:
    opened = {number: ["a"] for number in range(1, 9)}
    assert to_begin(opened, {}, here=[], making={}, places=5, share=1) == [8]
    assert to_begin(opened, {}, here=[], making={}, places=5, share=2) == [8, 7]
    assert to_begin(opened, {}, here=[], making={8: ["a"]}, places=5, share=1) == []


def test_version_that_is_new_at_one_of_its_servers_is_begun() -> None:
    assert to_begin({5: ["a", "b"]}, {3: ["a"], 9: ["b"]}, here=[], making={}, places=3, share=3) == [5]
    assert to_begin({5: ["a", "b"]}, {7: ["a"], 9: ["b"]}, here=[], making={}, places=3, share=3) == []


def test_version_that_is_complete_anywhere_is_not_begun_as_open() -> None:
    assert to_begin({5: ["a"]}, {5: ["b"], 4: ["a"]}, here=[], making={}, places=3, share=3) == []


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


# Room ----------------------------------------------------------------------------------------------

SIZES = {1: 10, 2: 20, 3: 30, 4: 40}


def test_no_more_versions_make_room_than_are_needed_the_oldest_first() -> None:
    assert room_for(5, 0, SIZES, set(), set()) == []
    assert room_for(5, 10, SIZES, set(), set()) == [1]
    assert room_for(5, 11, SIZES, set(), set()) == [1, 2]
    assert room_for(5, 60, SIZES, set(), set()) == [1, 2, 3]


def test_what_is_read_makes_room_after_what_is_not_and_the_newest_after_all() -> None:
    assert room_for(5, 1, SIZES, set(), {1}) == [2]
    assert room_for(5, 60, SIZES, set(), {1}) == [2, 3, 1]
    assert room_for(5, 61, SIZES, set(), {1, 2, 3}) == [1, 2, 3, 4]


def test_what_is_pinned_makes_room_for_nothing() -> None:
    assert room_for(5, 1000, SIZES, {1, 4}, set()) == [2, 3]
    assert room_for(5, 1000, SIZES, set(SIZES), set()) == []


def test_an_older_version_takes_the_room_of_no_newer_one() -> None:
    assert room_for(3, 1000, SIZES, set(), set()) == [1, 2]
    assert room_for(1, 1000, SIZES, set(), set()) == []


@patient
@given(
    st.integers(1, 20),
    st.integers(-5, 300),
    st.dictionaries(st.integers(1, 20), st.integers(0, 50)),
    NUMBERS,
    NUMBERS,
)
def test_room_is_made_as_it_was_promised(
    number: int, needed: int, sizes: dict[int, int], pinned: set[int], read: set[int]
) -> None:
    chosen = room_for(number, needed, sizes, pinned, read)
    older = {one for one in sizes if one < number}
    free = older - pinned
    assert len(chosen) == len(set(chosen))
    assert set(chosen) <= free
    made = sum(sizes[one] for one in chosen)
    assert made >= needed or set(chosen) == free  # enough, or all there is
    assert not chosen or made - sizes[chosen[-1]] < needed  # and no more than that
    newest = max(older, default=0)
    for kind in (set(read), free - read):
        mine = [one for one in chosen if one in kind and one != newest]
        assert mine == sorted(mine)
        left = {one for one in free & kind if one != newest} - set(chosen)
        assert all(one < other for one in mine for other in left)
    if set(chosen) & (read - {newest}):
        assert free - read - {newest} <= set(chosen)
    if newest in chosen:
        assert chosen[-1] == newest
        assert set(chosen) == free
