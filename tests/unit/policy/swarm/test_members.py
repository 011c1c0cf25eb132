"""The members that a server knows, whom it names to whom, and how many checks it makes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest

from shardcast.access.signing import key_id
from shardcast.policy.swarm.addresses import can_be_named, can_be_told, guess_site, owner_of, site_beyond
from shardcast.policy.swarm.check_limits import CheckLimits, CheckTarget, RateLimit, is_check_due
from shardcast.policy.swarm.meeting import NAMED, RENEW_SECONDS
from shardcast.policy.swarm.member_table import ANNOUNCE_SECONDS, SILENCES, MemberTable, NodeTaken
from shardcast.policy.swarm.members import Entry, MemberFacts, Shortlist, Teller
from shardcast.policy.swarm.naming import members_for, members_to_relay
from shardcast.policy.swarm.pools import SLOTS, HostPool

V = ("v3", "ce0d")
SILENT = ANNOUNCE_SECONDS * SILENCES


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Table(MemberTable):
    """A table whose members are reached at once."""

    def __init__(self, max_members: int = 1000) -> None:
        self.clock, self.random = Clock(), Random(1)
        super().__init__(self.clock, max_members)

    def join(self, number: int, host: str = "", site: str = "here", *, reached: bool = True) -> Entry:
        facts = MemberFacts(
            str(number), number.to_bytes(32), host or f"10.0.{number >> 8}.{number & 255}", 4000, site
        )
        entry = self.announce(V, facts, Teller(facts.host or ""), f"secret {number}")
        if reached:
            self.checked(entry, facts, True)
        return entry

    def name(self, entry: Entry) -> list[Entry]:
        return members_for(self.of(V), entry, entry.facts.host, self.clock.now, self.random)

    def nodes(self) -> set[str]:
        return {entry.facts.node for entry in self.of(V).by_key.values()}


def test_silent_member_is_forgotten_within_seconds() -> None:
    table = Table()
    table.join(1)
    table.clock.now += SILENT - 1
    talker = table.join(2)
    assert [entry.facts.node for entry in table.name(talker)] == ["1"]
    table.clock.now += 1
    assert table.name(table.join(2)) == []
    assert table.nodes() == {"2"}


def test_member_is_given_the_time_that_it_was_told() -> None:
    table = Table(max_members=10_000)
    crowd = [table.join(number) for number in range(4000)]
    last = crowd[-1]
    for entry in crowd[:-1]:
        table.leave(V, entry.facts.key)
    table.clock.now += SILENT + 1  # it was told to wait longer: there were so many
    assert table.nodes() == {last.facts.node}


KEYS = (b"a" * 32, b"b" * 32, b"c" * 32)
TELLER = Teller("10.0.0.1")


def test_id_is_one_member_s_until_that_one_falls_silent() -> None:
    table = Table()
    facts = [MemberFacts("81ab", key) for key in KEYS]
    table.announce(V, facts[0], TELLER, "s")
    with pytest.raises(NodeTaken):
        table.announce(V, facts[1], TELLER, "t")
    assert table.relay(V, facts[1], TELLER, 0.0) is None
    table.announce(("v4", "ce0d"), facts[1], TELLER, "t")
    table.clock.now += SILENT
    table.announce(V, facts[1], TELLER, "t")
    table.announce(V, replace(facts[1], node="c2d0"), TELLER, "t")
    table.announce(V, facts[0], TELLER, "s")
    assert table.nodes() == {"81ab", "c2d0"} == set(table.of(V).by_node)


def test_announced_id_is_taken_from_a_member_that_was_only_told_of() -> None:
    table = Table()
    table.relay(V, MemberFacts("81ab", KEYS[0]), TELLER, 0.0)
    assert table.relay(V, MemberFacts("81ab", KEYS[1]), TELLER, 0.0) is None
    table.announce(V, MemberFacts("81ab", KEYS[1]), TELLER, "s")
    assert set(table.of(V).by_key) == {KEYS[1]}


def test_id_that_a_key_makes_is_that_key_s_whoever_tells_of_it() -> None:
    table, own = Table(), MemberFacts(key_id(KEYS[0]), KEYS[0])
    table.announce(V, replace(own, key=KEYS[1]), TELLER, "thief")
    table.relay(V, own, TELLER, 0.0)
    with pytest.raises(NodeTaken):
        table.announce(V, replace(own, key=KEYS[2]), TELLER, "thief")
    table.announce(V, own, TELLER, "s")
    assert set(table.of(V).by_key) == {KEYS[0]}


def test_member_that_leaves_is_named_no_more() -> None:
    table = Table()
    one, two = table.join(1), table.join(2)
    assert table.name(two) == [one]
    table.leave(V, one.facts.key)
    assert table.name(two) == []


def test_member_is_named_once_it_was_reached_and_while_it_shares() -> None:
    table = Table()
    one, asker = table.join(1, reached=False), table.join(2)
    assert table.name(asker) == []
    table.checked(one, one.facts, False)
    assert table.name(asker) == []
    table.checked(one, one.facts, True)
    assert table.name(asker) == [one]
    table.announce(V, replace(one.facts, sharing=False), one.teller, "s")
    assert table.name(asker) == []


def test_member_that_moved_is_checked_again() -> None:
    table = Table()
    one, asker = table.join(1), table.join(2)
    moved = replace(one.facts, port=4001)
    table.announce(V, moved, one.teller, "s")
    assert table.name(asker) == []
    table.checked(one, replace(one.facts, port=4000), True)  # of a check that began before
    assert table.name(asker) == []
    table.checked(one, moved, True)
    assert table.name(asker) == [one]


def test_members_stay_the_same_and_half_are_renewed() -> None:
    table = Table()
    for number in range(200):
        table.join(number)
    asker = table.join(500)
    first = list(table.name(asker))
    assert len(first) == len(set(first)) == NAMED
    table.clock.now += 1
    assert table.name(asker) == first
    table.clock.now += RENEW_SECONDS - 1
    for number in range(200):
        table.join(number)
    table.join(500)
    then = table.name(asker)
    assert NAMED // 2 <= len({*then} & {*first}) < NAMED == len(then)


def test_members_that_left_are_replaced_in_what_is_named() -> None:
    table = Table()
    for number in range(200):
        table.join(number)
    asker = table.join(500)
    first = list(table.name(asker))
    for entry in first[:10]:
        table.leave(V, entry.facts.key)
    then = table.name(asker)
    assert set(first[10:]) < set(then) and len(then) == NAMED


def test_most_named_members_are_of_the_same_site_and_some_of_others() -> None:
    table = Table()
    for number in range(400):
        table.join(number, site=f"site {number % 4}")
    sites = Counter(entry.facts.site for entry in table.name(table.join(500, site="site 1")))
    assert sites["site 1"] > NAMED / 2
    assert NAMED - sites["site 1"] >= 3


def test_small_site_in_a_large_swarm_knows_both() -> None:
    table = Table()
    for number in range(300):
        table.join(number, site="large" if number > 5 else "small")
    sites = Counter(entry.facts.site for entry in table.name(table.join(500, site="small")))
    assert sites["small"] == 6
    assert sites["large"] == NAMED - 6


def test_fast_members_are_named_more_often() -> None:
    table = Table()
    for number in range(1, 401):
        entry = table.join(number)
        table.announce(V, replace(entry.facts, rate=100 if number % 2 else 1), entry.teller, "s")
    named = Counter(
        entry.facts.rate
        for asker in range(500, 600)
        for entry in table.name(table.join(asker, reached=False))
    )
    assert 1.3 * named[1] < named[100] < 4 * named[1]  # a preference, which a liar does not gain much by


def test_host_that_invents_members_is_named_no_more_often_than_others() -> None:
    table = Table(max_members=5000)
    for number in range(100):
        table.join(number)
    for number in range(1000, 5000):
        table.join(number, "10.9.9.9")
    named = [entry for asker in range(100) for entry in table.name(table.join(asker))]
    liars = sum(entry.facts.host == "10.9.9.9" for entry in named)
    assert liars / len(named) < 1.5 * SLOTS / (100 + SLOTS)


def test_inventor_of_members_crowds_out_its_own() -> None:
    table = Table(max_members=100)
    honest = {table.join(number).facts.node for number in range(40)}
    for number in range(1000, 11_000):
        table.join(number, "10.9.9.9", reached=number % 3 == 0)
    assert len(table) == 100
    assert honest <= table.nodes()


def test_members_of_other_versions_are_not_named() -> None:
    table = Table()
    one = table.join(1)
    other = table.announce(("v4", "ce0d"), replace(one.facts, key=b"k" * 32), one.teller, "s")
    table.checked(other, other.facts, True)
    assert table.name(table.join(2)) == [one]


def test_announcements_are_rarer_the_more_members_there_are() -> None:
    table = Table(max_members=10_000)
    first = table.join(0)
    table.name(first)
    pauses = []
    for _ in range(12):
        pauses.append(table.pause(first))
        table.clock.now += pauses[-1]
        table.join(0)
    assert pauses == sorted(pauses)  # it knows nobody: it asks often at first
    assert (pauses[0], pauses[-1]) == (0.1, ANNOUNCE_SECONDS)
    for number in range(1, 4001):
        table.join(number)
    assert table.interval(V) == pytest.approx(8, rel=0.01)
    newcomer = table.join(5000)
    assert table.pause(newcomer) == pytest.approx(8, rel=0.01)  # all came at once


def test_secret_is_of_the_member_that_announces_itself_here() -> None:
    table = Table()
    one = table.join(1)
    assert table.is_secret(V, one.facts.key, "secret 1")
    assert not table.is_secret(V, one.facts.key, "")
    relayed = table.relay(V, replace(one.facts, node="k", key=b"k" * 32), Teller("10.0.0.9", "m"), 0)
    assert relayed and not table.is_secret(V, b"k" * 32, "")


# Other servers


def test_member_that_announces_itself_here_is_not_changed_by_others() -> None:
    table = Table()
    one, asker = table.join(1), table.join(2)
    table.clock.now += ANNOUNCE_SECONDS + 1
    assert table.relay(V, replace(one.facts, host="10.6.6.6"), Teller("10.0.0.9", "m"), 0) is None
    assert [entry.facts.host for entry in table.name(asker)] == ["10.0.0.1"]


def test_relayed_member_counts_for_its_first_teller_until_that_is_silent() -> None:
    table = Table()
    facts, first, other = MemberFacts("1", b"k" * 32, "10.0.0.1", 4000), Teller("a", "a"), Teller("b", "b")
    assert table.relay(V, facts, first, 1.0)
    assert table.relay(V, replace(facts, host="10.6.6.6"), other, 0.0) is None
    table.clock.now += ANNOUNCE_SECONDS + 1
    assert table.relay(V, replace(facts, host="10.6.6.6"), other, 0.0)


def test_member_that_its_server_tells_no_more_is_forgotten() -> None:
    table, server = Table(), Teller("a", "a")
    table.join(1)
    for number in (2, 3):
        table.relay(V, MemberFacts(str(number), number.to_bytes(32), "10.0.0.1", 4000), server, 0.0)
    table.relay(V, MemberFacts("4", b"4" * 32, "10.0.0.1", 4000), Teller("b", "b"), 0.0)
    table.keep_relayed(V, server, {(2).to_bytes(32)})
    assert table.nodes() == {"1", "2", "4"}


def test_age_of_a_relayed_member_only_grows() -> None:
    table = Table()
    facts = MemberFacts("1", b"k" * 32, "10.0.0.1", 4000)
    assert table.relay(V, facts, Teller("a", "a"), SILENT) is None
    entry = table.relay(V, facts, Teller("a", "a"), 5.0)
    assert entry and table.clock.now - entry.heard_at == 5.0
    table.clock.now += 2
    table.relay(V, facts, Teller("a", "a"), 7.0)  # the same announcement, told again
    assert table.clock.now - entry.heard_at == 7.0
    table.clock.now += SILENT - 7
    assert table.nodes() == set()


def test_check_of_an_upstream_counts_and_that_of_a_server_below_does_not() -> None:
    table = Table()
    below = table.relay(V, MemberFacts("1", b"1" * 32, "10.0.0.1", 4000), Teller("a", "a"), 0)
    above = table.relay(V, MemberFacts("2", b"2" * 32, "10.0.0.2", 4000), Teller("b", "b", above=True), 0)
    assert below and below.host is None
    assert above and above.host == "10.0.0.2"
    table.announce(V, replace(above.facts, nonce="n"), Teller("10.0.0.2"), "s")
    assert above.host is None  # now it speaks for itself, and is checked here


def test_relayed_selection_stays_the_same_and_is_bounded() -> None:
    table, shortlist = Table(), Shortlist()
    for number in range(200):
        table.join(number)

    def relay() -> list[Entry]:
        return members_to_relay(
            table.of(V),
            shortlist,
            50,
            lambda entry: entry.facts.node != "7",
            now=table.clock.now,
            random=table.random,
        )

    first = list(relay())
    assert len(first) == 50 and "7" not in {entry.facts.node for entry in first}
    table.clock.now += 1
    assert relay() == first


def test_changes_count_what_others_can_connect_to() -> None:
    table = Table()
    one = table.join(1)
    before = table.changes
    table.join(1)
    assert table.changes == before
    table.checked(one, one.facts, False)
    assert table.changes == before + 1
    table.leave(V, one.facts.key)
    assert table.changes == before + 1


# Pools


def test_pool_draws_each_member_and_none_that_left() -> None:
    pool, random = HostPool[str](), Random(1)
    for host in range(5):
        for number in range(30):
            pool.add(f"h{host}", f"{host} {number}")
    for number in range(30):
        pool.remove("h0", f"0 {number}")
    drawn = {one for _ in range(300) for one in pool.draw(random, 10, lambda one: True, lambda one: 0)}
    assert drawn == {f"{host} {number}" for host in range(1, 5) for number in range(30)}


# Addresses


@pytest.mark.parametrize(
    ("host", "port", "can"),
    [
        ("10.0.0.7", 1024, True),
        ("10.0.0.7", 1023, False),
        ("127.0.0.1", 4000, True),
        ("::1", 4000, True),
        ("2001:db8::7", 4000, True),
        ("0.0.0.0", 4000, False),
        ("::", 4000, False),
        ("224.0.0.1", 4000, False),
        ("ff02::1", 4000, False),
        ("255.255.255.255", 4000, False),
        ("240.0.0.1", 4000, False),
        ("169.254.169.254", 8080, False),
        ("fe80::1", 4000, False),
    ],
)
def test_places_that_are_named(host: str, port: int, can: bool) -> None:
    assert can_be_named(ip_address(host), port) is can


def test_loopback_address_is_told_to_its_own_machine_alone() -> None:
    assert can_be_told("127.0.0.1", "127.0.0.9")
    assert not can_be_told("127.0.0.1", "10.0.0.7")
    assert not can_be_told("::1", None)
    assert can_be_told("10.0.0.7", None)


def test_site_is_guessed_from_the_subnet() -> None:
    assert guess_site(ip_address("10.1.2.3")) == "10.1.2.0/24"
    assert guess_site(ip_address("::1")) == "0::/64", "a site's name begins with a letter or a digit"
    assert guess_site(ip_address("2001:db8::1:2")) == "2001:db8::/64"


def test_subnet_of_ipv6_counts_as_one_owner() -> None:
    assert owner_of("2001:db8::7") == owner_of(ip_address("2001:db8::9")) == "2001:db8::/64"
    assert owner_of(ip_address("10.0.0.7")) == "10.0.0.7"
    assert owner_of("::1") == "::1" and owner_of(None) == ""


# Checks


def test_cluster_in_one_subnet_of_ipv6_is_checked_soon() -> None:
    limits = CheckLimits()
    targets = [CheckTarget("2001:db8::/64", f"2001:db8::{n:x}") for n in range(1000)]
    assert all(limits.allows(target, 0.0, relayed=False) for target in targets)


def test_member_is_checked_at_most_ten_times_a_minute() -> None:
    table, checks = Table(), 0
    entry = table.join(1, reached=False)
    for tick in range(600):
        now = table.clock.now + tick / 10
        if is_check_due(entry, now):
            checks += 1
            entry.checked_at = now
            table.checked(entry, entry.facts, False)
        table.announce(
            V, replace(entry.facts, port=4000 + tick), entry.teller, "s"
        )  # a place after the other
    assert 1 < checks <= 10


def test_member_that_was_reached_is_checked_once_a_minute() -> None:
    table = Table()
    entry = table.join(1)
    entry.checked_at = 0.0
    assert not is_check_due(entry, 59.0)
    assert is_check_due(entry, 60.0)


def test_member_that_does_not_listen_or_was_checked_above_is_not_checked() -> None:
    table = Table()
    silent = table.announce(V, MemberFacts("1", b"1" * 32), Teller("10.0.0.1"), "s")
    above = table.relay(V, MemberFacts("2", b"2" * 32, "10.0.0.2", 4000), Teller("a", "a", above=True), 0)
    assert above and not is_check_due(silent, 1e9) and not is_check_due(above, 1e9)


def test_advertised_places_are_checked_ten_times_a_minute_whoever_they_are() -> None:
    limits = CheckLimits()
    scan = [CheckTarget("10.0.0.9", f"10.1.0.{n}") for n in range(200)]
    made = sum(limits.allows(target, second / 4, relayed=False) for second, target in enumerate(scan[:240]))
    assert made <= 10 + 10  # the burst, and those of a minute


def test_one_host_is_not_flooded_by_many_announcers() -> None:
    limits = CheckLimits()
    made = sum(limits.allows(CheckTarget(f"10.2.{n}.1", "10.1.0.1"), 0.0, relayed=True) for n in range(200))
    assert made == 16


def test_members_of_the_same_machine_are_all_checked_soon() -> None:
    limits = CheckLimits()
    assert all(limits.allows(CheckTarget("127.0.0.1", "127.0.0.1"), 0.0, relayed=False) for _ in range(100))


def test_rate_limit_takes_bounded_memory() -> None:
    limit = RateLimit(1.0, 2)
    for number in range(10_000):
        limit.take(str(number), 0.0)
    assert not limit.take("new", 0.0)  # who waits is not forgotten for newcomers
    assert limit.take("new", 3.0)


@pytest.mark.parametrize(
    ("named", "seen", "home", "here", "beyond"),
    [
        ("a", "10.0.1.5", "a", "10.0.0.1", None),
        ("b", "10.0.0.5", "a", "10.0.0.1", "b"),
        (None, "10.0.0.5", None, "10.0.0.1", None),
        (None, "10.0.1.5", None, "10.0.0.1", "10.0.1.0/24"),
        (None, "10.0.1.5", "a", "10.0.0.1", "10.0.1.0/24"),
        ("b", "10.0.0.5", None, "10.0.0.1", "b"),
        (None, None, "a", "10.0.0.1", None),
        ("b", "10.0.0.5", None, None, None),
    ],
)
def test_site_beyond_is_another_than_the_servers(
    named: str | None, seen: str | None, home: str | None, here: str | None, beyond: str | None
) -> None:
    addresses = [ip_address(text) if text else None for text in (seen, here)]
    assert site_beyond(named, addresses[0], home=home, here=addresses[1]) == beyond
