"""Which range a server hands out: each once to each site, no more than a node passes on."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.policy.swarm.ledger import Asked, Handout, HandoutKind, Ledger
from shardcast.policy.swarm.masks import first_ranges, mask_of, ranges_of
from shardcast.policy.swarm.rules import SwarmRules
from tests.support.payloads import patient

RULES = SwarmRules()


def ledger(ranges: int, *, site: str | None = None, growing: bool = False, credit: int | None = 8) -> Ledger:
    made = Ledger(replace(RULES, credit=credit), Random(1), site=site, growing=growing)
    made.offer(first_ranges(ranges))
    return made


def drain(server: Ledger, node: str, ranges: int, now: float, site: str | None = None) -> None:
    """Hand out everything to a node that reports it at once."""
    for number in range(ranges):
        server.decide(Asked(node, site), now)
        server.report(node, site, 1 << number, now)


def test_ranges_are_handed_out_once_lowest_first() -> None:
    server = ledger(4)
    given = [server.decide(Asked(node), 0.0).number for node in ("a", "b", "a", "b")]
    assert given == [0, 1, 2, 3]
    assert server.decide(Asked("a"), 0.0) == Handout(HandoutKind.NONE)


def test_range_that_asker_has_goes_to_another() -> None:
    server = ledger(2)
    assert server.decide(Asked("a", new=mask_of([0])), 0.0).number == 1
    assert server.decide(Asked("b"), 0.0).number == 0


def test_range_known_to_be_elsewhere_is_handed_out_last() -> None:
    server = ledger(3)
    server.report("b", None, mask_of([0, 1]), 0.0)
    assert server.decide(Asked("a"), 0.0).number == 2
    assert server.decide(Asked("a"), 0.0).number == 0


def test_request_without_slot_gets_nothing_and_takes_nothing() -> None:
    server = ledger(1)
    assert server.decide(Asked("a"), 0.0, may_send=False) == Handout(HandoutKind.PAUSE)
    assert server.decide(Asked("b"), 0.0).number == 0


def test_node_that_passes_nothing_on_gets_no_more_than_its_credit() -> None:
    server = ledger(20, credit=3)
    server.decide(Asked("b"), 0.0)
    kinds = [server.decide(Asked("a"), 0.0).answer for _ in range(4)]
    assert kinds == [HandoutKind.BODY] * 3 + [HandoutKind.PAUSE]
    server.decide(Asked("b", new=mask_of([2])), 0.1)  # came from a
    assert server.decide(Asked("a"), 0.2).answer is HandoutKind.BODY
    assert server.decide(Asked("a"), 0.2).answer is HandoutKind.PAUSE


def test_own_report_gives_no_credit_back() -> None:
    server = ledger(20, credit=2)
    server.decide(Asked("b"), 0.0)
    server.decide(Asked("a"), 0.0)
    server.decide(Asked("a"), 0.0)
    assert server.decide(Asked("a", new=mask_of([1, 2])), 0.1).answer is HandoutKind.PAUSE
    assert server.unspread("a") == [1, 2]


def test_only_asker_gets_more_than_its_credit() -> None:
    server = ledger(20, credit=2)
    server.decide(Asked("b"), 0.0)
    server.decide(Asked("a"), 0.0)
    server.decide(Asked("a"), 0.0)
    assert server.decide(Asked("a"), 0.4).answer is HandoutKind.PAUSE
    assert server.decide(Asked("a"), 0.6).answer is HandoutKind.BODY


def test_node_without_help_gets_what_was_handed_out_least_but_not_twice_in_a_moment() -> None:
    server = ledger(3)
    drain(server, "a", 3, 0.0)
    first = server.decide(Asked("b", help=True), 1.0)
    again = [server.decide(Asked("c", help=True), 1.0) for _ in range(3)]
    assert first.answer is HandoutKind.BODY
    assert [one.answer for one in again] == [HandoutKind.BODY, HandoutKind.BODY, HandoutKind.PAUSE]
    assert {first.number, again[0].number, again[1].number} == {0, 1, 2}
    later = server.decide(Asked("c", help=True, under_way=mask_of([0])), 1.6)
    assert later.answer is HandoutKind.BODY
    assert later.number in (1, 2)


def test_help_gives_only_what_asker_lacks() -> None:
    server = ledger(3)
    drain(server, "a", 3, 0.0)
    assert server.decide(Asked("b", new=mask_of([0, 2]), help=True), 1.0).number == 1


def test_server_that_will_have_more_lets_wait() -> None:
    server = ledger(1, growing=True)
    server.decide(Asked("a"), 0.0)
    assert server.decide(Asked("b"), 0.0) == Handout(HandoutKind.WAIT)
    server.offer(mask_of([1]))
    assert server.decide(Asked("b"), 0.0).number == 1


def test_middle_gives_what_others_hand_out_only_as_help() -> None:
    server = ledger(1)
    server.offer(mask_of([5]), own=False)
    assert server.decide(Asked("a"), 0.0).number == 0
    assert server.decide(Asked("a"), 0.0).answer is HandoutKind.NONE
    assert server.decide(Asked("a", help=True, under_way=1), 0.0).number == 5


def test_range_whose_answer_broke_off_is_handed_out_anew() -> None:
    server = ledger(3)
    assert server.decide(Asked("a"), 0.0).number == 0
    assert server.decide(Asked("b"), 0.0).number == 1
    server.failed("a", None, 0)
    assert server.decide(Asked("b"), 0.1).number == 0


def test_ranges_that_only_a_node_had_are_handed_out_anew_after_it_left() -> None:
    server = ledger(4)
    for _ in range(3):
        server.decide(Asked("a"), 0.0)
    server.report("b", None, mask_of([1]), 0.1)
    server.report("a", None, mask_of([0, 1, 2]), 0.1)
    server.forget("a")
    assert not server.knows("a")
    assert [server.decide(Asked("c"), 0.2).number for _ in range(3)] == [0, 2, 3]


def test_range_that_server_lost_is_handed_out_no_more() -> None:
    server = ledger(2)
    server.withdraw(mask_of([0]))
    assert server.decide(Asked("a"), 0.0).number == 1
    assert server.decide(Asked("a", new=mask_of([1]), help=True), 9.0).answer is HandoutKind.PAUSE


# Sites


def abroad(node: str, across: list[int] | None = None, new: list[int] | None = None) -> Asked:
    return Asked(node, "far", new=mask_of(new or []), across=mask_of(across or []))


def test_other_site_claims_each_range_that_neighbours_across_offer_once() -> None:
    server = ledger(20, site="home")
    drain(server, "a", 20, 0.0, "home")
    claimed: list[int] = []
    for step, node in enumerate(["x", "y", "z", "x", "y"]):
        answer = server.decide(abroad(node, across=[1, 2, 3, 4, 5, 6]), 0.1 * step)
        claimed += ranges_of(answer.ranges)
    assert sorted(claimed) == [1, 2, 3, 4, 5, 6]


def test_own_site_claims_nothing() -> None:
    server = ledger(2, site="home")
    assert server.decide(Asked("a", "home", across=mask_of([0, 1])), 0.0) == Handout(
        HandoutKind.BODY, mask_of([0])
    )


def test_new_ranges_are_for_the_own_site_while_it_asks() -> None:
    server = ledger(5, site="home")
    assert server.decide(Asked("a", "home"), 0.0).number == 0
    assert server.decide(abroad("x"), 0.1).answer is HandoutKind.PAUSE
    assert server.decide(abroad("x"), 1.0) == Handout(HandoutKind.BODY, mask_of([1]))


def test_range_that_no_neighbour_brings_across_comes_from_the_server() -> None:
    server = ledger(1, site="home")
    server.decide(Asked("a", "home"), 0.0)
    assert server.decide(abroad("x"), 1.9).answer is HandoutKind.PAUSE
    assert server.decide(abroad("x"), 2.0) == Handout(HandoutKind.BODY, mask_of([0]))
    assert server.decide(abroad("y"), 3.9).answer is HandoutKind.NONE


def test_crossing_not_finished_in_time_is_given_to_another_node() -> None:
    server = ledger(1, site="home")
    server.decide(Asked("a", "home"), 0.0)
    assert server.decide(abroad("x", across=[0]), 1.0) == Handout(HandoutKind.CLAIMS, 1)
    assert server.decide(abroad("y", across=[0]), 2.9).answer is not HandoutKind.CLAIMS
    assert server.decide(abroad("x", across=[0]), 3.0).answer is HandoutKind.PAUSE  # who was late waits
    assert server.decide(abroad("y", across=[0]), 3.0) == Handout(HandoutKind.CLAIMS, 1)


def test_finished_crossing_is_not_given_again() -> None:
    server = ledger(1, site="home")
    server.decide(Asked("a", "home"), 0.0)
    server.decide(abroad("x", across=[0]), 1.0)
    server.decide(abroad("x", new=[0]), 1.5)
    assert server.decide(abroad("y", across=[0]), 9.0).answer is HandoutKind.NONE


def test_crossings_of_a_node_that_left_are_given_anew() -> None:
    server = ledger(1, site="home")
    server.decide(Asked("a", "home"), 0.0)
    server.decide(abroad("x", across=[0]), 1.0)
    server.forget("x")
    assert server.decide(abroad("y", across=[0]), 1.1) == Handout(HandoutKind.CLAIMS, 1)


@pytest.mark.parametrize(("nodes", "most"), [(1, 24), (2, 4), (12, 4)])
def test_node_that_is_alone_in_its_site_may_bring_more_at_once(nodes: int, most: int) -> None:
    server, everything = ledger(1000, site="home", credit=None), list(range(1000))
    names = [f"x{number}" for number in range(nodes)]
    for step in range(20):  # quick crossings, so that the site's window is no bound
        for name in names:
            brought = server.decide(abroad(name, everything), 10.0 + 0.1 * step).ranges
            server.report(name, "far", brought, 10.05 + 0.1 * step)
    assert server.decide(abroad(names[0], everything), 20.0).ranges.bit_count() == most


@pytest.mark.parametrize(("seconds", "wider"), [(0.1, True), (1.5, False)])
def test_site_may_bring_more_at_once_as_long_as_crossings_are_quick(seconds: float, wider: bool) -> None:
    server = ledger(400, site="home", credit=None)
    everything = list(range(400))
    nodes = [f"x{number}" for number in range(50)]
    now, most = 10.0, []
    for _ in range(12):
        claimed = {node: server.decide(abroad(node, everything), now).ranges for node in nodes}
        most.append(sum(mask.bit_count() for mask in claimed.values()))
        now += seconds
        for node, mask in claimed.items():
            server.report(node, "far", mask, now)
    assert most[0] == RULES.crossings
    assert max(most) > 3 * most[0] if wider else most[-1] < most[0] / 2


def test_range_whose_second_answer_breaks_off_stays_the_first_node_s() -> None:
    server = ledger(1)
    assert server.decide(Asked("a"), 0.0).number == 0
    assert server.decide(Asked("b", help=True), 1.0).number == 0
    server.failed("b", None, 0)
    server.decide(Asked("c", help=True), 2.0)
    assert server.unspread("a") == [0]
    for node in "abc":
        server.forget(node)
    assert server.decide(Asked("d"), 3.0).number == 0, "it is handed out again"


@patient
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 2)), max_size=40))
def test_each_range_that_is_nowhere_else_has_one_node(steps: list[tuple[int, str, int]]) -> None:
    server, sites = ledger(3, site="home", growing=True), {"a": "home", "b": "home", "c": "far"}
    for now, (step, node, number) in enumerate(steps):
        site = sites[node]
        if step == 0:
            server.decide(Asked(node, site, help=True), float(now))
        elif step == 1:
            server.report(node, site, 1 << number, float(now))
        elif step == 2:
            server.failed(node, site, number)
        else:
            server.forget(node)
        alone = [number for node in "abc" for number in server.unspread(node)]
        assert sorted(alone) == list(ranges_of(server.sole))
