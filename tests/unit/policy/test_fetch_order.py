"""What a node fetches, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardcast.policy.fetch_order import missing_versions, round_robin, versions_to_fetch, versions_to_start
from shardcast.policy.retention import surplus
from tests.support.payloads import patient

NUMBERS = st.sets(st.integers(1, 20))


def test_versions_in_progress_come_first_then_newest() -> None:
    assert missing_versions([1, 2, 3, 10, 11], here={10}, under_way={2}, keep=5) == [2, 11, 3, 1]


def test_versions_beyond_retention_are_not_fetched() -> None:
    assert missing_versions(range(1, 20), here=set(), under_way=set(), keep=3) == [19, 18, 17]
    assert missing_versions([1, 2, 3], here={4, 5}, under_way={1}, keep=3) == [3]
    assert missing_versions([1, 2], here={7, 8, 9}, under_way=set(), keep=3) == []


def test_version_missing_upstream_is_not_retired() -> None:
    assert missing_versions([], here={1, 2}, under_way=set(), keep=3) == []
    assert surplus({1, 2}, keep=3) == []


@patient
@given(NUMBERS, NUMBERS, NUMBERS, st.integers(1, 20))
def test_node_with_all_wanted_versions_fetches_and_retires_none(
    offered: set[int], here: set[int], under_way: set[int], keep: int
) -> None:
    first = missing_versions(offered, here, under_way, keep)
    assert set(first) <= offered - here
    assert missing_versions(offered, here | set(first), set(), keep) == []
    assert not set(first) & set(surplus(here | set(first), keep))


def test_versions_of_one_server_do_not_displace_those_of_another() -> None:
    offers = {1: ["a", "b"], 2: ["a"], 90: ["b"], 91: ["b"], 92: ["b"]}
    assert versions_to_fetch(offers, here=set(), under_way=set(), keep=2) == [92, 91, 2, 1]
    assert versions_to_fetch(offers, here={2}, under_way={1}, keep=2) == [1, 92, 91]
    assert versions_to_fetch(offers, here={2}, under_way=set(), keep=2, suspect={"b"}) == [1, 92, 91]
    assert versions_to_fetch(offers, here={1, 2}, under_way=set(), keep=2, suspect={"a", "b"}) == [92, 91]


def test_nothing_is_fetched_from_lagging_server() -> None:
    offers = {3: ["b"], 4: ["b"], 5: ["b"], 13: ["a"], 14: ["a"], 15: ["a"]}
    assert versions_to_fetch(offers, here={13, 14, 15}, under_way=set(), keep=3) == []


@patient
@given(st.dictionaries(st.integers(1, 20), st.just(["a"])), NUMBERS, NUMBERS, st.integers(1, 20))
def test_versions_to_fetch_equals_missing_versions_for_one_server(
    offers: dict[int, list[str]], here: set[int], under_way: set[int], keep: int
) -> None:
    assert versions_to_fetch(offers, here, under_way, keep=keep) == missing_versions(
        offers, here, under_way, keep
    )


def test_round_robin_takes_newest_of_each_server_in_turn() -> None:
    assert round_robin({1: ["a"], 2: ["a"], 8: ["b"], 9: ["b"]}) == [9, 2, 8, 1]
    assert round_robin({1: ["a", "b"], 9: ["b"]}) == [9, 1]
    assert round_robin({}) == []


def test_open_version_newer_than_complete_ones_is_started() -> None:
    assert versions_to_start({5: ["a"]}, {4: ["a"]}, here=[4], fetching={}, places=3, share=3) == [5]
    assert versions_to_start({5: ["a"]}, {4: ["a"]}, here=[6], fetching={}, places=3, share=3) == []
    assert versions_to_start({5: ["a"]}, {6: ["a"]}, here=[], fetching={}, places=3, share=3) == []
    assert versions_to_start({5: ["a"]}, {5: ["b"]}, here=[], fetching={}, places=3, share=3) == []
    assert versions_to_start({5: ["a"]}, {90: ["b"]}, here=[], fetching={}, places=3, share=3) == [5]


def test_one_server_does_not_take_all_places() -> None:
    opened = {1: ["a"], 90: ["b"], 91: ["b"], 92: ["b"]}
    assert versions_to_start(opened, {}, here=[], fetching={}, places=3, share=2) == [92, 1, 91]
    taken = {91: ["b"], 92: ["b"]}
    assert versions_to_start(opened, {}, here=[], fetching=taken, places=3, share=2) == [1]
    assert versions_to_start(opened, {}, here=[], fetching={**taken, 1: ["a"]}, places=3, share=2) == []


def test_started_versions_are_limited_by_places() -> None:
    opened = {number: [f"server {number}"] for number in range(1, 9)}
    assert versions_to_start(opened, {}, here=[], fetching={}, places=3, share=3) == [8, 7, 6]
    assert versions_to_start(opened, {}, here=[], fetching={8: ["server 8"]}, places=3, share=3) == [7, 6]
    assert versions_to_start(opened, {}, here=[], fetching={8: [], 7: [], 6: []}, places=3, share=3) == []


def test_one_server_gets_exactly_its_share() -> None:
    opened = {number: ["a"] for number in range(1, 9)}
    assert versions_to_start(opened, {}, here=[], fetching={}, places=5, share=1) == [8]
    assert versions_to_start(opened, {}, here=[], fetching={}, places=5, share=2) == [8, 7]
    assert versions_to_start(opened, {}, here=[], fetching={8: ["a"]}, places=5, share=1) == []


def test_version_new_at_one_of_its_servers_is_started() -> None:
    assert versions_to_start(
        {5: ["a", "b"]}, {3: ["a"], 9: ["b"]}, here=[], fetching={}, places=3, share=3
    ) == [5]
    assert (
        versions_to_start({5: ["a", "b"]}, {7: ["a"], 9: ["b"]}, here=[], fetching={}, places=3, share=3)
        == []
    )


def test_version_complete_on_any_server_is_not_started_as_open() -> None:
    assert versions_to_start({5: ["a"]}, {5: ["b"], 4: ["a"]}, here=[], fetching={}, places=3, share=3) == []
