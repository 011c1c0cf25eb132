"""Servers that agree, and servers that contradict each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardcast.policy.groups import Offer, group_servers, is_same_version
from shardcast.protocol.distribution import Listing
from tests.support.payloads import patient

A, B, C = "http://a", "http://b", "http://c"
X, Y = "0a" * 16, "0b" * 16


def v(number: int, digest: str = "aa", shards: int | None = 1, manifest: str | None = None) -> Listing:
    return Listing(f"v{number}", digest * 32, shards, manifest)


def offer(server: str, *listings: Listing, origin: str | None = None) -> Offer:
    return Offer(server, listings, origin)


def test_agreeing_servers_form_one_group_with_merged_offers() -> None:
    (group,) = group_servers([offer(A, v(1), v(9), v(10)), offer(B, v(10), v(11)), offer(C)])
    assert group.servers == (A, B, C)
    assert group.listings == (v(1), v(9), v(10), v(11))
    assert group.offers == {"v1": (A,), "v9": (A,), "v10": (A, B), "v11": (B,)}
    assert group.complete == {1: (A,), 9: (A,), 10: (A, B), 11: (B,)}
    assert group.find("v10") == v(10)
    assert group.find("v2") is None


def test_known_version_is_listed_but_not_served() -> None:
    (group,) = group_servers([Offer(A, [v(1)], known=[v(2)]), Offer(B, [v(2)]), Offer(C, [], known=[v(3)])])
    assert group.listings == (v(1), v(2), v(3))
    assert group.complete == {1: (A,), 2: (B,)}


def test_first_group_follows_server_order() -> None:
    offers = [offer(A, v(1, "aa")), offer(B, v(1, "bb"), v(2)), offer(C, v(1, "aa"), v(2))]
    assert [one.servers for one in group_servers(offers)] == [(A, C), (B,)]
    assert [one.servers for one in group_servers(offers[::-1])] == [(C, A), (B,)]
    assert [one.servers for one in group_servers([offers[1], offers[0], offers[2]])] == [(B,), (A, C)]


def test_different_shard_count_conflicts_and_unknown_does_not() -> None:
    assert len(group_servers([offer(A, v(1, shards=2)), offer(B, v(1, shards=3))])) == 2
    (group,) = group_servers(
        [offer(A, v(1, shards=None)), offer(B, v(1, shards=3)), offer(C, v(1, shards=None))]
    )
    assert group.listings == (v(1, shards=3),)
    assert group.offers == {"v1": (A, B, C)}


def test_different_manifest_conflicts_when_both_servers_report_one() -> None:
    mine, other, untold = v(1, manifest="11" * 32), v(1, manifest="22" * 32), v(1)
    assert not is_same_version(mine, other)
    assert is_same_version(mine, untold)
    groups = group_servers([offer(A, mine), offer(B, other), offer(C, untold)])
    assert [one.servers for one in groups] == [(A, C), (B,)]
    (group,) = group_servers([offer(A, untold), offer(B, mine)])
    assert group.find("v1") == mine


def test_servers_with_different_origin_ids_form_separate_groups() -> None:
    groups = group_servers([offer(A, v(1), origin=X), offer(B, v(2), origin=Y), offer(C, v(1))])
    assert [one.servers for one in groups] == [(A, C), (B,)]
    assert "another line" in groups[1].conflict(groups[0])
    assert X in groups[1].conflict(groups[0]) and Y in groups[1].conflict(groups[0])


def test_first_group_has_the_current_line() -> None:
    offers = [offer(A, v(1, "bb"), origin=X), offer(B, v(1, "aa"), v(2), origin=X)]
    groups = group_servers(offers, X, {1: v(1, "aa")}, {})
    assert [one.servers for one in groups] == [(B,), (A,)]
    groups = group_servers(offers, X, {}, {1: v(1, "aa").digest})
    assert [one.servers for one in groups] == [(B,), (A,)]
    groups = group_servers(offers, Y, {}, {})
    assert [one.servers for one in groups] == [(), (A,), (B,)]


def test_conflict_names_servers_of_both_groups() -> None:
    used, other = group_servers([offer(A, v(1, "aa")), offer(B, v(1, "bb"))])
    assert A in other.conflict(used) and B in other.conflict(used)


def test_no_servers_give_no_groups() -> None:
    assert group_servers([]) == []


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
def test_every_server_is_in_one_consistent_group(lists: list[list[Listing]]) -> None:
    offers = [Offer(f"http://{number}", listings) for number, listings in enumerate(lists)]
    found = group_servers(offers)
    assert sorted(server for one in found for server in one.servers) == [one.server for one in offers]
    offered = {one.server: one.complete for one in offers}
    for group in found:
        for server in group.servers:
            for one in offered[server]:
                together = group.find(one.version)
                assert together and together.digest == one.digest
                assert one.shards in (None, together.shards)
                assert server in group.offers[one.version]
