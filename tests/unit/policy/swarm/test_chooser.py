"""What a node asks next, of whom, and what it does about refusals, stalls and wrong bytes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from shardcast.policy.swarm.chooser import FOREVER, RangeChooser
from shardcast.policy.swarm.ledger import Handout, HandoutKind
from shardcast.policy.swarm.masks import first_ranges, mask_of
from shardcast.policy.swarm.requests import ENOUGH_READY, SwarmRequest
from shardcast.policy.swarm.rules import SwarmRules, rules_for

RULES = replace(rules_for(members=100), asker_answers=1)
"""One request to each neighbour, however few there are."""


def chooser(
    offers: dict[str, list[int]],
    *,
    ranges: int = 10,
    servers: int = 0,
    seed: int = 1,
    rules: SwarmRules = RULES,
) -> RangeChooser:
    made = RangeChooser(rules, Random(seed), key="me")
    made.extend(first_ranges(ranges))
    for number in range(servers):
        made.add_server(f"server {number}")
    for key, offered in offers.items():
        made.neighbours.add(key)
        made.neighbours.offers(key, mask_of(offered))
    return made


def ask(node: RangeChooser, now: float = 0.0) -> SwarmRequest:
    request = node.next_request(now)
    assert request is not None
    return request


def all_asked(node: RangeChooser, now: float = 0.0) -> list[SwarmRequest]:
    requests = []
    while request := node.next_request(now):
        requests.append(request)
    return requests


def test_one_request_goes_to_the_server_first_then_one_to_each_neighbour() -> None:
    node = chooser({f"n{n}": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] for n in range(3)}, servers=1)
    asked = all_asked(node)
    assert asked[0].source.key == "server 0"
    assert sorted(str(request.source.key) for request in asked[1:]) == ["n0", "n1", "n2"]
    assert len({request.number for request in asked[1:]}) == 3


def test_few_neighbours_get_more_than_one_request_each() -> None:
    node = chooser({"a": list(range(20))}, ranges=20, rules=rules_for(members=100))
    assert len(all_asked(node)) == 3


def test_six_requests_are_out_at_most() -> None:
    node = chooser({f"n{n}": list(range(30)) for n in range(20)}, ranges=30)
    assert len(all_asked(node)) == 6


@pytest.mark.parametrize("seed", range(5))
def test_rarest_range_is_asked_first(seed: int) -> None:
    node = chooser({"a": [0, 1, 2], "b": [0, 1], "c": [0, 1], "d": [1]}, seed=seed)
    asked = {request.source.key: request.number for request in all_asked(node)}
    assert asked["a"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_urgent_range_is_asked_before_rarer_ones(seed: int) -> None:
    node = chooser({"a": [0, 1, 2], "b": [0, 1, 2], "c": [0, 1], "d": [0, 1]}, seed=seed)
    node.urgent = mask_of([0, 7])
    assert ask(node).number == 0
    assert ask(node).number in (1, 2), "others are asked for once it is under way"


def test_range_that_is_here_or_asked_for_is_not_asked_again() -> None:
    node = chooser({"a": [0, 1], "b": [0, 1], "c": [0, 1]})
    node.hold(mask_of([0]))
    assert [request.number for request in all_asked(node)] == [1]


def test_refusing_neighbour_is_left_alone_for_a_moment() -> None:
    node = chooser({"a": [0]})
    node.refused(ask(node), 1.0)
    assert node.next_request(1.0) is None
    assert 1.025 <= node.wake_at <= 1.075
    assert ask(node, node.wake_at).number == 0


def test_refusing_server_is_left_alone_twice_as_long_each_time() -> None:
    node = chooser({}, servers=1)
    pauses, now = [], 0.0
    for _ in range(7):
        node.answered(ask(node, now), Handout(HandoutKind.PAUSE), now)
        assert node.next_request(now) is None
        pauses.append(node.wake_at - now)
        now = node.wake_at
    expected = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert all(0.5 * pause <= took <= 1.5 * pause for took, pause in zip(pauses, expected, strict=True))


def test_request_tells_the_server_what_is_new_since_the_last_one() -> None:
    node = chooser({"a": [4]}, servers=1)
    node.hold(mask_of([1]))
    first = ask(node)
    assert first.asked is not None
    assert (first.asked.node, first.asked.new) == ("me", mask_of([1]))
    assert node.answered(first, Handout(HandoutKind.BODY, mask_of([0])), 0.0)
    node.received(first, 0.1)
    node.received(next(r for r in all_asked(node) if r.number == 4), 0.2)
    node.answered(node.under_way[0], Handout(HandoutKind.PAUSE), 0.2)
    again = ask(node, 1.0)
    assert again.asked is not None
    assert again.asked.new == mask_of([4])


def test_news_that_a_server_did_not_get_is_told_again() -> None:
    node = chooser({}, servers=1)
    node.hold(mask_of([1]))
    node.failed(ask(node), 0.0)
    again = ask(node, 1.0)
    assert again.asked is not None
    assert again.asked.new == mask_of([1])


def test_body_that_came_from_elsewhere_meanwhile_is_not_wanted() -> None:
    node = chooser({"a": [0]}, servers=1)
    requests = all_asked(node)
    assert not node.answered(requests[0], Handout(HandoutKind.BODY, mask_of([0])), 0.1)
    assert requests[0] not in node.under_way


def test_exhausted_server_is_asked_again_only_for_help_or_more() -> None:
    node = chooser({"a": [0]}, servers=1)
    for request in all_asked(node)[:1]:
        node.answered(request, Handout(HandoutKind.NONE), 0.0)
    assert all_asked(node, 5.0)[0].asked is not None  # nobody offers range 1
    helped = node.under_way[-1].asked
    assert helped is not None
    assert helped.help
    node.neighbours.add("b")
    node.neighbours.offers("b", mask_of([1]))
    assert [request.source.key for request in all_asked(node, 5.0)] == ["b"]
    for request in [one for one in node.under_way if one.server]:
        node.answered(request, Handout(HandoutKind.NONE), 5.0)
    assert all_asked(node, 99.0)  # of those that nobody offers
    for request in [one for one in node.under_way if one.server]:
        node.answered(request, Handout(HandoutKind.NONE), 99.0)
    node.neighbours.offers("b", first_ranges(10))
    assert node.next_request(200.0) is None  # b is asked, and offers what is missing
    node.extend(mask_of([10]))
    assert ask(node, 200.0).server is not None


def test_wrong_bytes_ban_the_neighbour_for_this_version() -> None:
    node = chooser({"a": [0], "b": [0]}, ranges=1)
    request = ask(node)
    node.wrong(request, 0.0)
    node.neighbours.offers(request.source.key, mask_of([3]))
    other = ask(node)
    assert other.source.key != request.source.key
    assert node.next_request(99.0) is None  # nor is it the second holder of a slow range


def test_stalled_request_is_found_and_its_range_asked_elsewhere() -> None:
    node = chooser({"a": [0], "b": [0]}, ranges=1)
    request = ask(node)
    request.progress_at = 0.4
    assert node.stalled(1.3) == []
    assert node.stalled(1.5) == [request]
    node.failed(request, 1.5)
    assert ask(node, 1.5).source.key != request.source.key


def test_neighbour_that_lets_down_is_asked_less_and_less() -> None:
    node, now, pauses = chooser({"a": [0]}, ranges=1), 0.0, []
    for _ in range(4):
        node.failed(ask(node, now), now)
        assert node.next_request(now) is None
        pauses.append(node.wake_at - now)
        now = node.wake_at
    assert 0.5 <= pauses[0] <= 1.0
    assert pauses[3] >= 4.0
    node.received(ask(node, now), now)
    assert node.neighbours["a"].failures == 0


def test_neighbour_that_only_boasts_keeps_nobody_from_asking_for_help() -> None:
    node, now = chooser({"boaster": [0]}, ranges=1, servers=1), 0.0
    for request in all_asked(node)[:1]:
        node.answered(request, Handout(HandoutKind.NONE), now)
    assert [request.source.key for request in node.under_way] == ["boaster"]
    node.failed(node.under_way[0], 1.0)
    asked = ask(node, 1.0).asked
    assert asked is not None
    assert asked.help


def test_offers_count_again_once_a_neighbour_served() -> None:
    node = chooser({"a": [0, 1, 2]})
    node.failed(ask(node), 0.0)
    assert node.neighbours.near.counted == 0
    node.neighbours.offers("a", mask_of([3]))
    node.received(ask(node, 9.0), 9.0)
    assert node.neighbours.near.counted == mask_of([0, 1, 2, 3])
    node.neighbours.withdraws("a", mask_of([1]))
    node.remove_neighbour("a")
    assert node.neighbours.near.counted == 0


def test_range_that_neighbour_had_not_is_not_asked_there_again() -> None:
    node = chooser({"a": [0]})
    node.absent(ask(node), 0.0)
    assert node.next_request(100.0) is None


def test_last_range_is_asked_from_a_second_neighbour_and_the_loser_is_cancelled() -> None:
    node = chooser({"a": [0], "b": [0]}, ranges=1)
    first = ask(node, 0.0)
    assert node.next_request(0.3) is None
    assert node.wake_at == 0.5
    second = ask(node, 0.5)
    assert second.number == first.number
    assert second.source is not first.source
    assert node.next_request(5.0) is None  # two are enough
    assert node.received(second, 0.6) == [first]
    assert node.done
    assert node.under_way == []
    assert (first.source.under_way, second.source.under_way) == (0, 0)


def test_last_range_is_asked_twice_only_after_twice_the_usual_time() -> None:
    node = chooser({"a": [0, 1], "b": [0, 1]}, ranges=2)
    first, last = all_asked(node)
    node.received(first, 0.8)
    assert node.next_request(1.5) is None
    assert node.wake_at == 1.6
    assert ask(node, 1.6).number == last.number


def test_request_on_a_slow_link_is_not_stalled_before_twice_the_usual_time() -> None:
    node = chooser({"a": [0, 1], "b": [0, 1]}, ranges=2)
    first, last = all_asked(node)
    node.received(first, 0.8)
    assert node.stalled(1.5) == []
    assert node.stalled(1.6) == [last]


def test_no_neighbour_puts_off_all_deadlines_for_long() -> None:
    node = chooser({"a": [0, 1], "b": [0, 1]}, ranges=2)
    first, last = all_asked(node)
    node.received(first, 60.0)
    last.progress_at = 60.0
    assert node.stalled(64.0) == [last]


def test_requests_at_a_neighbour_that_left_are_missing_again() -> None:
    node = chooser({"a": [0], "b": [0]}, ranges=1)
    request = ask(node)
    assert node.remove_neighbour(request.source.key) == [request]
    assert node.missing == mask_of([0])
    assert ask(node).source.key != request.source.key


def test_done_node_asks_nothing() -> None:
    node = chooser({"a": [0]}, ranges=1, servers=1)
    node.hold(mask_of([0]))
    assert node.next_request(0.0) is None
    assert node.wake_at == FOREVER


# Sites


def border(offered: list[int]) -> RangeChooser:
    node = chooser({}, servers=1)
    node.neighbours.add("stranger", near=False)
    node.neighbours.offers("stranger", mask_of(offered))
    return node


def test_range_in_another_site_is_asked_only_once_it_is_claimed() -> None:
    node = border([3, 4])
    request = ask(node)
    assert request.asked is not None
    assert request.asked.across == mask_of([3, 4])
    assert node.next_request(0.0) is None
    node.answered(request, Handout(HandoutKind.CLAIMS, mask_of([4])), 0.1)
    assert [one.number for one in all_asked(node, 0.1)] == [None, 4]


def test_claim_that_was_not_used_in_time_is_given_up() -> None:
    node = border([3, 4])
    node.neighbours.refused(node.neighbours["stranger"], 1.98)
    node.answered(ask(node), Handout(HandoutKind.CLAIMS, mask_of([4])), 0.0)
    assert [one.number for one in all_asked(node, 1.9)] == [None]
    assert all_asked(node, 2.1) == []


def test_finished_crossing_is_reported_at_once() -> None:
    node = border([3, 4])
    node.answered(ask(node), Handout(HandoutKind.CLAIMS, mask_of([4])), 0.0)
    server, across = all_asked(node, 0.0)
    node.answered(server, Handout(HandoutKind.PAUSE), 0.1)
    assert node.next_request(0.1) is None
    node.received(across, 0.11)
    report = ask(node, 0.11).asked
    assert report is not None
    assert report.new == mask_of([4])


def test_neighbours_are_asked_for_the_place_of_a_request_that_a_server_keeps() -> None:
    node = chooser({f"n{n}": list(range(30)) for n in range(20)}, ranges=30, servers=1)
    assert len(all_asked(node)) == RULES.requests
    assert node.wake_at == RULES.kept_after
    (more,) = all_asked(node, RULES.kept_after)
    assert more.neighbour


def test_server_is_asked_again_at_once_however_many_neighbours_are() -> None:
    node = chooser({f"n{n}": list(range(1, 30)) for n in range(20)}, ranges=30, servers=1)
    kept = all_asked(node)[0]
    all_asked(node, 1.0)
    node.answered(kept, Handout(HandoutKind.WAIT), 1.0)
    again = ask(node, 1.0)
    assert again.server
    assert node.answered(again, Handout(HandoutKind.BODY, mask_of([0])), 1.0)
    node.received(again, 1.0)
    assert ask(node, 1.0).server


def hand_out(node: RangeChooser, seconds: float = 0.0, count: int = ENOUGH_READY) -> None:
    """Have a server hand out ranges one after the other, each after some seconds."""
    for _ in range(count):
        request = ask(node)
        lowest_missing = node.missing & -node.missing
        assert node.answered(request, Handout(HandoutKind.BODY, lowest_missing), seconds)
        node.received(request, seconds)


def at_server(node: RangeChooser) -> int:
    return sum(request.server is not None for request in all_asked(node))


def test_server_that_hands_out_at_once_gets_one_more_request() -> None:
    node = chooser({}, ranges=99, servers=1, rules=rules_for(members=100))
    hand_out(node, count=ENOUGH_READY - 1)
    hand_out(node)
    assert at_server(node) == 2


@pytest.mark.parametrize("kind", [HandoutKind.PAUSE, HandoutKind.WAIT])
def test_server_that_had_nothing_gets_as_many_requests_as_at_first(kind: HandoutKind) -> None:
    node = chooser({}, ranges=99, servers=1, rules=rules_for(members=100))
    hand_out(node)
    first, second = all_asked(node)
    node.answered(first, Handout(kind), 0.0)
    node.failed(second, 0.0)
    assert len(all_asked(node, 9.0)) == 1


def test_server_that_is_slow_to_hand_out_gets_no_more_requests() -> None:
    node = chooser({}, ranges=99, servers=1, rules=rules_for(members=100))
    hand_out(node, RULES.kept_after)
    assert at_server(node) == 1


def test_no_server_gets_more_requests_than_it_answers_at_once() -> None:
    rules = rules_for(members=100)
    node = chooser({}, ranges=99, servers=1, rules=rules)
    hand_out(node, count=5 * ENOUGH_READY)
    assert at_server(node) == rules.asker_answers
