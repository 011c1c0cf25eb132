"""What servers of one origin tell each other of their members, at servers without sockets."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from ipaddress import ip_address

import pytest

from shardcast.access.proofs import prove_to_server
from shardcast.access.signing import SigningKey
from shardcast.access.tickets import TicketVersion
from shardcast.addresses import parse_networks
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import Announcement, Relay
from shardcast.protocol.swarm_members import NamedMember, Place, RelayedMember
from shardcast.server import checker
from shardcast.server.swarm_relay import version_key
from shardcast.server.swarm_tracker import SwarmConflict, SwarmTracker

V3 = TicketVersion(3, "ce0d", "a" * 64)
UPSTREAM = "http://10.0.0.1:8000"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places that were checked; all of them answer rightly."""
    places: list[str] = []

    async def reached(place: Place, nonce: str, certificate: str | None) -> bool:
        places.append(str(place))
        return True

    monkeypatch.setattr(checker, "gives_nonce", reached)
    return places


def announcement(relay: Relay | None = None, key: SigningKey | None = None) -> Announcement:
    key, secret, node = key or SigningKey.generate(), secrets.token_hex(16), secrets.token_hex(8)
    proof = prove_to_server(key, node, secret)
    return Announcement(
        node, secret, key.public, proof, "0" * 32, "ce0d", port=None if relay else 4000, relay=relay
    )


def told(*hosts: str, port: int = 4000, nonce: str | None = "1" * 32) -> Relay:
    members = (NamedMember(f"{n}", bytes([n]) * 32, Place(host, port)) for n, host in enumerate(hosts, 1))
    return Relay((), tuple(RelayedMember(member, 1.0, 0, nonce) for member in members))


async def places_of(tracker: SwarmTracker, relay: Relay, seen: str) -> set[str]:
    """Return the hosts that a server knows to be reachable after another server told it of members."""
    tracker.announce(V3, announcement(relay), ip_address(seen))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    members = tracker.table.of(version_key(V3)).by_key.values()
    await tracker._checker.stop()
    return {entry.host for entry in members if entry.host}


async def test_server_below_tells_of_members_elsewhere_and_not_of_this_machine(asked: list[str]) -> None:
    hosts = ("10.1.0.1", "127.0.0.1", "::1", "169.254.169.254", "224.0.0.1", "0.0.0.0")
    assert await places_of(SwarmTracker(bytes(32)), told(*hosts), "10.0.0.9") == {"10.1.0.1"}
    assert asked == ["10.1.0.1:4000"]


async def test_server_on_this_machine_tells_of_its_loopback_addresses(asked: list[str]) -> None:
    assert await places_of(SwarmTracker(bytes(32)), told("127.0.0.1"), "127.0.0.1") == {"127.0.0.1"}


async def test_networks_of_the_operator_bound_what_servers_below_tell(asked: list[str]) -> None:
    tracker = SwarmTracker(bytes(32), networks=parse_networks("10.1.0.0/16"))
    found = await places_of(tracker, told("10.1.0.1", "10.2.0.1", "10.0.0.9"), "10.0.0.9")
    assert found == {"10.1.0.1", "10.0.0.9"}


async def test_low_ports_and_members_without_a_nonce_are_not_taken(asked: list[str]) -> None:
    tracker = SwarmTracker(bytes(32))
    assert await places_of(tracker, told("10.1.0.1", port=22), "10.0.0.9") == set()
    assert await places_of(tracker, told("10.1.0.1", nonce=None), "10.0.0.9") == set()
    assert asked == []


async def test_flood_of_told_members_makes_few_checks(asked: list[str]) -> None:
    tracker = SwarmTracker(bytes(32))
    for block in range(20):
        hosts = [f"10.{block}.0.{n}" for n in range(1, 200)]
        await places_of(tracker, told(*hosts), "10.0.0.9")
    assert len(asked) <= 45
    await places_of(tracker, told(*["10.3.3.3"] * 1), "10.0.0.8")
    assert len(asked) <= 46


async def test_loopback_addresses_are_told_to_no_other_machine(asked: list[str]) -> None:
    tracker = SwarmTracker(bytes(32))
    await places_of(tracker, told("127.0.0.1"), "127.0.0.1")
    assert tracker.relay.relay_for(V3, UPSTREAM, on_loopback=False).members == ()
    assert len(tracker.relay.relay_for(V3, UPSTREAM, on_loopback=True).members) == 1
    answer = tracker.announce(V3, announcement(Relay()), ip_address("10.0.0.7"))
    assert answer and answer.relayed == ()


async def test_what_comes_from_above_is_not_told_upwards_and_needs_no_check(asked: list[str]) -> None:
    tracker, members = SwarmTracker(bytes(32)), told("10.1.0.1", "127.0.0.1", nonce=None).members
    answer = AnnouncementAnswer("t.t", 3.0, relayed=members)
    tracker.relay.hear_from_above(V3, UPSTREAM, answer, on_loopback=False)
    entries = tracker.table.of(version_key(V3)).by_key.values()
    assert {entry.host for entry in entries} == {"10.1.0.1"}
    assert asked == []
    assert tracker.relay.relay_for(V3, UPSTREAM, on_loopback=False).members == ()
    tracker.relay.hear_from_above(V3, UPSTREAM, AnnouncementAnswer("t.t", 3.0), on_loopback=False)
    assert not tracker.table.has(version_key(V3))  # it told all, and this one no more


async def test_keys_from_above_go_down_and_those_from_below_go_up(asked: list[str]) -> None:
    origin, middle, below = (SwarmTracker(bytes([n]) * 32) for n in range(3))
    member = announcement(below.relay.relay_for(V3, "middle", on_loopback=False))
    middle.announce(V3, member, ip_address("10.0.0.3"))
    relay = middle.relay.relay_for(V3, UPSTREAM, on_loopback=False)
    answer = origin.announce(V3, announcement(relay), ip_address("10.0.0.2"))
    assert answer and answer.keys and len(answer.keys) == 3
    middle.relay.hear_from_above(V3, UPSTREAM, answer, on_loopback=False)
    assert len(middle.vouching_keys()) == 3
    assert len(middle.relay.relay_for(V3, UPSTREAM, on_loopback=False).keys) == 2  # not the origin's own


async def test_keys_are_told_again_where_a_server_s_clock_jumps(asked: list[str]) -> None:
    now = 1_764_367_200.0
    tracker = SwarmTracker(bytes(32), wall_clock=lambda: now)
    me, seen = announcement(), ip_address("10.0.0.7")
    first = tracker.announce(V3, me, seen)
    assert first and first.keys
    same = tracker.announce(V3, replace(me, keys=first.keys_id), seen)
    assert same and same.keys is None
    now -= 3600
    again = tracker.announce(V3, replace(me, keys=first.keys_id), seen)
    assert again and again.keys and again.keys[0].now == now
    await tracker._checker.stop()


async def test_node_is_no_member_at_itself(asked: list[str]) -> None:
    tracker, key = SwarmTracker(bytes(32)), SigningKey.generate()
    tracker.relay.own_key = key.public
    with pytest.raises(SwarmConflict):
        tracker.announce(V3, announcement(key=key), ip_address("10.0.0.7"))
