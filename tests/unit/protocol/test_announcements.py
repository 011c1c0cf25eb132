"""Announcements of a swarm's members and their answers: written, read back, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.protocol.announcement_answers import MAX_ANSWER, MAX_NEIGHBOURS, AnnouncementAnswer
from shardcast.protocol.announcements import MAX_ANNOUNCEMENT, Announcement, Relay
from shardcast.protocol.swarm_members import (
    MAX_KEYS,
    MAX_RELAYED,
    NamedMember,
    Place,
    RelayedMember,
    ServerKey,
    SwarmError,
    read_host,
)

IDS = st.text("0123456789abcdef", min_size=1, max_size=64)
NONCES = st.text("0123456789abcdef", min_size=32, max_size=32)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
KEYS = st.binary(min_size=32, max_size=32)
PORTS = st.integers(1, 65535)
HOSTS = st.ip_addresses().map(lambda address: read_host(str(address).partition("%")[0]))
PLACES = st.builds(Place, HOSTS, PORTS)
SITES = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", fullmatch=True)
MEMBERS = st.builds(NamedMember, IDS, KEYS, PLACES, SITES, st.none() | DIGESTS)
RELAYED = st.builds(
    RelayedMember, MEMBERS, st.integers(0, 60).map(float), st.integers(0, 1 << 50), st.none() | NONCES
)
SERVER_KEYS = st.builds(ServerKey, KEYS, st.integers(0, 1 << 39).map(float), st.integers(0, 300).map(float))
RELAYS = st.builds(
    Relay, st.lists(SERVER_KEYS, max_size=3).map(tuple), st.lists(RELAYED, max_size=3).map(tuple)
)
ANNOUNCEMENTS = st.builds(
    Announcement,
    node=IDS,
    secret=NONCES,
    key=KEYS,
    proof=st.binary(min_size=64, max_size=64),
    nonce=NONCES,
    origin=st.none() | IDS,
    digest=st.none() | DIGESTS,
    port=st.none() | PORTS,
    advertise=st.none() | PLACES,
    site=SITES,
    certificate=st.none() | DIGESTS,
    rate=st.integers(0, 1 << 50),
    sharing=st.booleans(),
    keys=st.none() | IDS,
    leaving=st.booleans(),
    relay=st.none() | RELAYS,
)
ANSWERS = st.builds(
    AnnouncementAnswer,
    ticket=st.text("ab.-_", min_size=1, max_size=1024),
    announce_again=st.integers(1, 60).map(float),
    keys=st.none() | st.lists(SERVER_KEYS, max_size=3).map(tuple),
    neighbours=st.lists(MEMBERS, max_size=4).map(tuple),
    members=st.integers(0, 10**9),
    reachable=st.none() | st.booleans(),
    place=st.none() | PLACES,
    site=SITES,
    relayed=st.lists(RELAYED, max_size=3).map(tuple),
).map(lambda one: replace(one, keys_id="3c1f" if one.keys is not None else None))
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEY = "A" * 43 + "="
MEMBER: dict[str, Any] = {"node": "81ab", "key": KEY, "host": "10.0.0.7", "port": 4000, "age": 1}
ME: dict[str, Any] = {
    "node": "81ab",
    "secret": "0" * 32,
    "key": KEY,
    "proof": "A" * 86 + "==",
    "nonce": "1" * 32,
}
ANSWER: dict[str, Any] = {"ticket": "a.b", "announce_again": 3}


def announce(**said: object) -> Announcement:
    return Announcement.parse(json.dumps(ME | said).encode())


def answer(**said: object) -> AnnouncementAnswer:
    return AnnouncementAnswer.parse(json.dumps(ANSWER | said).encode())


@given(ANNOUNCEMENTS)
def test_announcement_is_read_as_it_was_written(announcement: Announcement) -> None:
    assert Announcement.parse(announcement.encode()) == announcement


@given(ANSWERS)
def test_answer_is_read_as_it_was_written(found: AnnouncementAnswer) -> None:
    assert AnnouncementAnswer.parse(found.encode()) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for parse in (Announcement.parse, AnnouncementAnswer.parse):
        with pytest.raises(SwarmError):
            parse(raw)


@given(st.sampled_from([*ME, "digest", "advertise", "site", "rate", "leaving", "relay", "keys"]), ANY)
def test_any_value_in_an_announcement_is_read_or_refused(key: str, value: object) -> None:
    try:
        announcement = announce(**{key: value})
    except SwarmError:
        return
    assert Announcement.parse(announcement.encode()) == announcement


@given(
    st.sampled_from([*ANSWER, "keys", "neighbours", "members", "reachable", "host", "site", "relayed"]), ANY
)
def test_any_value_in_an_answer_is_read_or_refused(key: str, value: object) -> None:
    try:
        answer(**{key: value})
    except SwarmError:
        return


@pytest.mark.parametrize(
    "said",
    [
        {"node": "no id!"},
        {"secret": "0" * 31},
        {"secret": None},
        {"key": "A" * 44},
        {"key": "AAAA"},
        {"nonce": "X" * 32},
        {"proof": KEY},
        {"port": 0},
        {"port": 65536},
        {"port": True},
        {"digest": "A" * 64},
        {"advertise": {"host": "example.org", "port": 4000}},
        {"advertise": {"host": "10.0.0.7"}},
        {"advertise": {"host": "fe80::1%eth0", "port": 4000}},
        {"site": "a b"},
        {"site": "a" * 65},
        {"rate": -1},
        {"leaving": 1},
        {"relay": {"members": [MEMBER | {"age": 301}]}},
        {"relay": {"members": [MEMBER] * (MAX_RELAYED + 1)}},
        {"relay": {"keys": [{"key": KEY, "now": 1}] * (MAX_KEYS + 1)}},
        {"relay": {"keys": [{"key": KEY, "now": float("nan")}]}},
    ],
)
def test_announcement_that_breaks_a_bound_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(SwarmError):
        announce(**said)


@pytest.mark.parametrize(
    "said",
    [
        {"ticket": "a" * 1025},
        {"ticket": "é"},
        {"announce_again": 0},
        {"announce_again": 61},
        {"reachable": 1},
        {"neighbours": [MEMBER] * (MAX_NEIGHBOURS + 1)},
        {"neighbours": [MEMBER | {"host": "example.org"}]},
        {"host": "10.0.0.7"},
        {"members": -1},
    ],
)
def test_answer_that_breaks_a_bound_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(SwarmError):
        answer(**said)


def test_unknown_keys_are_ignored() -> None:
    assert announce(later=[1]) == announce()
    assert answer(neighbours=[MEMBER | {"later": {}}]) == answer(neighbours=[MEMBER])


def test_ipv4_address_that_ipv6_maps_is_an_ipv4_address() -> None:
    assert read_host("::ffff:10.0.0.7") == "10.0.0.7"


def test_largest_messages_fit_their_bounds() -> None:
    member = NamedMember("f" * 64, b"k" * 32, Place("ffff:" * 7 + "ffff", 65535), "s" * 64, "d" * 64)
    relayed = (RelayedMember(member, 60.0, 1 << 50, "0" * 32),) * MAX_RELAYED
    keys = (ServerKey(b"k" * 32, 1e12),) * MAX_KEYS
    announcement = Announcement(
        "f" * 64, "0" * 32, b"k" * 32, b"p" * 64, "0" * 32, relay=Relay(keys, relayed)
    )
    assert Announcement.parse(announcement.encode()) == announcement
    assert len(announcement.encode()) < MAX_ANNOUNCEMENT
    found = AnnouncementAnswer("t" * 1024, 3.0, keys, (member,) * MAX_NEIGHBOURS, relayed=relayed)
    assert AnnouncementAnswer.parse(found.encode()) == found
    assert len(found.encode()) < MAX_ANSWER


def test_flood_of_brackets_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(SwarmError, match="too many lists"):
        Announcement.parse(b"[" * 100_000)
