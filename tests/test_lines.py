"""Servers that agree, and servers that contradict each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardcast.distribution import Listing
from shardcast.policy.lines import lines
from tests.support.payloads import patient

A, B, C = "http://a", "http://b", "http://c"


def v(number: int, digest: str = "aa", shards: int | None = 1) -> Listing:
    return Listing(f"v{number}", digest * 32, shards)


def test_servers_that_agree_are_one_line_with_what_they_offer_together() -> None:
    (line,) = lines([(A, [v(1), v(9), v(10)]), (B, [v(10), v(11)]), (C, [])])
    assert line.servers == (A, B, C)
    assert line.listings == (v(1), v(9), v(10), v(11))
    assert line.offers == {"v1": (A,), "v9": (A,), "v10": (A, B), "v11": (B,)}
    assert line.find("v10") == v(10)
    assert line.find("v2") is None


def test_the_order_of_the_servers_decides_which_line_is_the_first() -> None:
    readings = [(A, [v(1, "aa")]), (B, [v(1, "bb"), v(2)]), (C, [v(1, "aa"), v(2)])]
    assert [line.servers for line in lines(readings)] == [(A, C), (B,)]
    assert [line.servers for line in lines(readings[::-1])] == [(C, A), (B,)]
    assert [line.servers for line in lines([readings[1], readings[0], readings[2]])] == [(B,), (A, C)]


def test_another_number_of_shards_is_a_contradiction_and_no_number_is_none() -> None:
    assert len(lines([(A, [v(1, shards=2)]), (B, [v(1, shards=3)])])) == 2
    (line,) = lines([(A, [v(1, shards=None)]), (B, [v(1, shards=3)]), (C, [v(1, shards=None)])])
    assert line.listings == (v(1, shards=3),)
    assert line.offers == {"v1": (A, B, C)}


def test_a_line_that_is_not_used_says_whom_it_contradicts() -> None:
    used, other = lines([(A, [v(1, "aa")]), (B, [v(1, "bb")])])
    assert A in other.contradiction(used) and B in other.contradiction(used)


def test_no_servers_are_no_lines() -> None:
    assert lines([]) == []


@patient
@given(
    st.lists(
        st.lists(
            st.builds(v, st.integers(1, 4), st.sampled_from(["aa", "bb"]), st.sampled_from([None, 1, 2])),
            max_size=4,
            unique_by=lambda one: one.version,
        ),
        max_size=5,
    )
)
def test_every_server_is_in_one_line_and_no_line_contradicts_itself(lists: list[list[Listing]]) -> None:
    readings = [(f"http://{number}", listings) for number, listings in enumerate(lists)]
    found = lines(readings)
    assert sorted(server for line in found for server in line.servers) == [server for server, _ in readings]
    offered = dict(readings)
    for line in found:
        for server in line.servers:
            for one in offered[server]:
                together = line.find(one.version)
                assert together and together.digest == one.digest
                assert one.shards in (None, together.shards)
                assert server in line.offers[one.version]
