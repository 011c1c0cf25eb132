"""How many answers a node gives, and the numbers that the rules begin with."""

from __future__ import annotations

from random import Random

import pytest

from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.rules import (
    SwarmRules,
    first_ask,
    longest_server_pause,
    range_size,
    rules_for,
)

KIB, MIB = 1 << 10, 1 << 20


def test_ninth_answer_is_refused_until_one_ends() -> None:
    slots = AnswerSlots(SwarmRules())
    assert all(slots.begin(asker) for asker in range(8))
    assert not slots.free_for("another")
    assert not slots.begin("another")
    slots.end(3)
    assert slots.begin("another")


def test_one_asker_cannot_take_all_slots() -> None:
    slots = AnswerSlots(SwarmRules())
    assert [slots.begin("a") for _ in range(4)] == [True, True, True, False]
    slots.end("a")
    assert slots.begin("a")


@pytest.mark.parametrize(
    ("rate", "size"),
    [(0, 256 * KIB), (25e6, 256 * KIB), (60e6, 512 * KIB), (200e6, 7 * 256 * KIB), (1e12, 16 * MIB)],
)
def test_range_is_a_piece_or_ten_milliseconds_of_the_link(rate: float, size: int) -> None:
    assert range_size(256 * KIB, rate) == size


@pytest.mark.parametrize(("round_trip", "requests"), [(0.0, 6), (0.01, 6), (0.06, 11), (9.0, 24)])
def test_far_neighbours_get_more_requests_at_once(round_trip: float, requests: int) -> None:
    rules = rules_for(round_trip=round_trip, members=100)
    assert (rules.requests, rules.answers, rules.credit) == (requests, requests, requests + 2)


@pytest.mark.parametrize(("members", "seconds"), [(0, 1.0), (100, 1.0), (1000, 4.0), (10**6, 4.0)])
def test_more_members_wait_longer_for_a_server_that_refuses(members: int, seconds: float) -> None:
    assert longest_server_pause(members) == seconds
    assert rules_for(members=members).longest_server_pause == seconds


@pytest.mark.parametrize(("members", "requests"), [(1, 3), (2, 3), (4, 2), (8, 1), (1000, 1)])
def test_few_nodes_have_more_requests_at_a_server_to_fill_its_link(members: int, requests: int) -> None:
    assert rules_for(members=members).server_requests == requests


def test_node_among_many_has_few_requests_out_and_asks_sooner_after_a_refusal() -> None:
    few, many = rules_for(members=100), rules_for(members=1000)
    assert many.requests == many.answers == 4
    assert many.longest_peer_pause < few.longest_peer_pause
    assert rules_for(members=1000, round_trip=0.06).requests == 9


def test_few_nodes_may_sit_on_more_ranges_as_there_are_few_to_pass_them_on_to() -> None:
    assert [rules_for(members=members).credit for members in (1, 2, 4, 8, 100)] == [512, 128, 32, 8, 8]


def test_far_nodes_have_more_requests_at_a_server() -> None:
    far = rules_for(members=2, round_trip=0.06)
    assert far.server_requests == far.asker_answers == 5
    assert rules_for(members=8, round_trip=0.06).server_requests == 3


def test_first_requests_of_many_nodes_are_spread() -> None:
    random = Random(1)
    delays = [first_ask(10_000, random) for _ in range(1000)]
    assert 0 <= min(delays) < 0.1
    assert 1.9 < max(delays) <= 2.0
    assert first_ask(10, random) <= 0.002
