"""What a node retires."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from shardcast.constants import LONGEST_HOLD, RECENTLY_READ
from shardcast.policy.retention import retirable, surplus, versions_to_retire
from tests.support.payloads import patient

NUMBERS = st.sets(st.integers(1, 20))


def test_surplus_is_all_but_the_newest_versions() -> None:
    assert surplus({9, 10, 11, 1}, keep=2) == [1, 9]
    assert surplus({1}, keep=1) == []


def gone(last_read: float | None, since: float, now: float) -> bool:
    read = {} if last_read is None else {1: last_read}
    return retirable([1], read, {1: since}, now=now, recently=RECENTLY_READ, longest=LONGEST_HOLD) == [1]


def test_unread_version_is_retired_at_once() -> None:
    assert gone(None, since=0.0, now=0.0)


def test_version_read_in_the_last_minute_is_kept() -> None:
    assert not gone(100.0, since=100.0, now=159.9)
    assert gone(100.0, since=100.0, now=160.0)


def test_readers_delay_retirement_ten_minutes_at_most() -> None:
    assert not gone(math.inf, since=100.0, now=699.9)
    assert gone(math.inf, since=100.0, now=700.0)
    assert gone(699.0, since=100.0, now=700.0)


def test_held_version_does_not_delay_retirement_of_others() -> None:
    assert retirable(
        [1, 2, 3], {2: math.inf}, dict.fromkeys([1, 2, 3], 0.0), now=0.0, recently=60.0, longest=600.0
    ) == [1, 3]


# Room ----------------------------------------------------------------------------------------------

SIZES = {1: 10, 2: 20, 3: 30, 4: 40}


def test_room_is_made_by_fewest_versions_oldest_first() -> None:
    assert versions_to_retire(5, 0, SIZES, pinned=set(), read=set()) == []
    assert versions_to_retire(5, 10, SIZES, pinned=set(), read=set()) == [1]
    assert versions_to_retire(5, 11, SIZES, pinned=set(), read=set()) == [1, 2]
    assert versions_to_retire(5, 60, SIZES, pinned=set(), read=set()) == [1, 2, 3]


def test_room_is_made_by_unread_then_read_then_newest() -> None:
    assert versions_to_retire(5, 1, SIZES, pinned=set(), read={1}) == [2]
    assert versions_to_retire(5, 60, SIZES, pinned=set(), read={1}) == [2, 3, 1]
    assert versions_to_retire(5, 61, SIZES, pinned=set(), read={1, 2, 3}) == [1, 2, 3, 4]


def test_pinned_versions_are_never_removed_for_room() -> None:
    assert versions_to_retire(5, 1000, SIZES, pinned={1, 4}, read=set()) == [2, 3]
    assert versions_to_retire(5, 1000, SIZES, pinned=set(SIZES), read=set()) == []


def test_older_version_never_displaces_newer_ones() -> None:
    assert versions_to_retire(3, 1000, SIZES, pinned=set(), read=set()) == [1, 2]
    assert versions_to_retire(1, 1000, SIZES, pinned=set(), read=set()) == []


@patient
@given(
    st.integers(1, 20),
    st.integers(-5, 300),
    st.dictionaries(st.integers(1, 20), st.integers(0, 50)),
    NUMBERS,
    NUMBERS,
)
def test_room_for_removes_minimal_unpinned_older_versions_in_order(
    number: int, needed: int, sizes: dict[int, int], pinned: set[int], read: set[int]
) -> None:
    chosen = versions_to_retire(number, needed, sizes, pinned=pinned, read=read)
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
