"""Whom a node gets as neighbours: a connected random graph of bounded degree, mostly within sites."""

from __future__ import annotations

from random import Random

import pytest

from shardcast.policy.swarm.meeting import (
    ACCEPTED,
    NAMED,
    OPENED,
    RENEW_SECONDS,
    Acquaintance,
    Member,
    accepts,
    connections_wanted,
    named_members,
    to_connect,
    to_leave,
    to_replace,
)

ME = Member("me", "here")


def members(count: int, site: str) -> list[Member]:
    return [Member(f"{site} {number}", site) for number in range(count)]


def meet(count: int, sites: int, seed: int) -> dict[Member, list[Member]]:
    """Let nodes come one after the other, as they would announce themselves, and return all neighbours."""
    random = Random(seed)
    graph: dict[Member, list[Member]] = {}
    everyone = [Member(number, f"site {number % sites}") for number in range(count)]
    for me in everyone:
        graph[me] = []
        near = [member for member in graph if member.site == me.site]
        far = [member for member in graph if member.site != me.site]
        opened = 0
        for other in to_connect(me, named_members(me, near, far, random), graph[me], random, opened=opened):
            if accepts(other, me, graph[other]):
                replaced = to_replace(other, me, graph[other])
                if replaced is not None:
                    graph[other].remove(replaced)
                    graph[replaced].remove(other)
                graph[other].append(me)
                graph[me].append(other)
                opened += 1
    return graph


@pytest.mark.parametrize(("count", "sites"), [(2, 1), (10, 1), (150, 1), (150, 5), (40, 40)])
def test_nodes_that_come_one_by_one_form_one_graph_of_bounded_degree(count: int, sites: int) -> None:
    graph = meet(count, sites, seed=3)
    seen, waiting = {next(iter(graph))}, [next(iter(graph))]
    while waiting:
        for other in graph[waiting.pop()]:
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    assert len(seen) == count
    assert max(map(len, graph.values())) <= ACCEPTED


def test_most_neighbours_are_of_the_same_site_and_some_are_not() -> None:
    graph = meet(150, 5, seed=4)
    near = sum(other.site == me.site for me, others in graph.items() for other in others)
    far = sum(other.site != me.site for me, others in graph.items() for other in others)
    assert near > far > 0
    late = list(graph)[75:]
    assert all(any(other.site != me.site for other in graph[me]) for me in late)


def test_server_names_few_members_and_never_the_asker() -> None:
    near, far = [ME, *members(200, "here")], members(200, "there")
    named = named_members(ME, near, far, Random(1))
    assert len(named) == NAMED
    assert ME not in named
    assert len(set(named)) == NAMED
    assert 5 <= sum(member.site == "there" for member in named) <= 10
    assert len(named_members(ME, [ME], far, Random(1))) == NAMED


def test_unreachable_members_and_neighbours_are_not_connected_to() -> None:
    candidates = [Member("a", "here", reachable=False), Member("b", "here"), ME, Member("c", "here")]
    assert to_connect(ME, candidates, [Member("c", "here")], Random(1), opened=0) == [Member("b", "here")]
    assert to_connect(ME, candidates, [], Random(1), opened=OPENED) == []


def test_full_node_accepts_nobody() -> None:
    assert accepts(ME, Member("x", "here"), members(ACCEPTED - 1, "here"))
    assert not accepts(ME, Member("x", "here"), members(ACCEPTED, "here"))
    assert not accepts(ME, Member("here 1", "here"), members(3, "here"))


def test_strangers_do_not_take_all_places() -> None:
    near, far = Member("x", "here"), members(ACCEPTED, "there")
    assert not accepts(ME, Member("x", "there"), far)
    assert accepts(ME, near, far)
    assert to_replace(ME, near, far) in far
    assert to_replace(ME, near, far[1:]) is None  # there is a free place
    assert not accepts(ME, near, [*members(ACCEPTED - 5, "here"), *far[:5]])


def acquaintances(count: int, site: str, *, received: int = 0, done: bool = False) -> list[Acquaintance]:
    return [Acquaintance(member, 0.0, received=received, done=done) for member in members(count, site)]


def test_neighbour_that_exchanges_nothing_is_left_once_it_had_its_time() -> None:
    idle = Acquaintance(Member("idle", "here"), 5.0)
    neighbours = [*acquaintances(12, "here", received=3), idle]
    assert to_leave(ME, neighbours, 5.0 + RENEW_SECONDS - 1) is None
    assert to_leave(ME, neighbours, 5.0 + RENEW_SECONDS) == idle
    assert to_leave(ME, neighbours[-5:], 5.0 + RENEW_SECONDS) is None  # too few to be choosy


def test_few_neighbours_of_other_sites_are_kept() -> None:
    neighbours = [*acquaintances(12, "here", received=3), *acquaintances(3, "there")]
    assert to_leave(ME, neighbours, 100.0) is None
    assert to_leave(ME, [*neighbours, *acquaintances(3, "yonder")], 100.0) is not None


def test_complete_nodes_leave_each_other() -> None:
    whole = acquaintances(2, "here", received=9, done=True)
    neighbours = [*acquaintances(2, "there"), *whole]
    assert to_leave(ME, neighbours, 1.0, done=True) in whole
    assert to_leave(ME, neighbours, 1.0) is None


def test_node_leaves_places_for_later_ones_until_these_had_time_to_come() -> None:
    assert connections_wanted(30, settled=False) < OPENED / 2
    assert connections_wanted(30, settled=True) == OPENED
    assert connections_wanted(10, settled=False) == OPENED
