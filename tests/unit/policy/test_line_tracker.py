"""The rules of lines: who decides, what counts, when a node changes over. Without sockets; the clock is the
model's."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shardcast.policy.line_lists import LARGEST_JUMP
from shardcast.protocol.distribution import Listing
from tests.support.line_model import Liar, Network, Node, Origin, listing

X, Y, Z = "0a" * 16, "0b" * 16, "0c" * 16


def origin(name: str = "http://o", **fields: object) -> Origin:
    return Origin(name, **{"origin": X, **fields})  # type: ignore[arg-type]


def node(name: str, *upstreams: str, **fields: object) -> Node:
    return Node(f"http://{name}", upstreams=tuple(f"http://{one}" for one in upstreams), **fields)  # type: ignore[arg-type]


def published(count: int, **fields: object) -> Origin:
    one = origin(**fields)
    for _ in range(count):
        one.publish()
    return one


# The authority -----------------------------------------------------------------------------------


def test_first_named_server_is_authority_over_second_with_same_id() -> None:
    o = published(3)
    liar = Liar("http://l", origin=X, highest=9, versions={**o.versions, 9: listing(9, "junk")})
    m = node("m", "o", "l")
    Network(o, liar, m).run(30)
    assert m.local == o.versions
    assert m.standing and m.standing.newest == o.versions[3]
    assert m.standing.highest == 3


def test_forged_number_of_second_server_is_not_recorded_or_obeyed() -> None:
    o = published(5)
    junk = {10**17 + n: listing(10**17 + n, f"junk {n}") for n in range(16)}
    liar = Liar("http://l", origin=Y, highest=10**17 + 15, versions=junk)
    m = node("m", "o", "l", keep=3)
    network = Network(o, liar, m)
    network.run(10)
    o.publish()
    network.run(5)
    assert sorted(m.local) == [4, 5, 6]
    o.alive = False
    network.run(300)  # another line never speaks for this one
    assert sorted(m.local) == [4, 5, 6]
    m.start(network.now)
    network.run(300)
    assert sorted(m.local) == [4, 5, 6]
    assert max(m.memory.digests) == 6


def test_too_large_jump_of_numbers_is_refused() -> None:
    o = published(2)
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    far = 2 + LARGEST_JUMP + 1
    o.versions[far] = listing(far, "far")
    o.next = far + 1
    network.run(5)
    assert sorted(m.local) == [1, 2]
    assert m.standing and any("refused" in note for note in m.standing.notes)
    assert m.standing.highest == 2


def test_two_nodes_naming_each_other_first_get_every_version() -> None:
    o = published(2)
    for seed in range(20):
        a, b = node("a", "b", "o", seed=seed), node("b", "a", "o", seed=seed + 7)
        network = Network(o, a, b)
        network.run(20)
        o.publish()
        network.run(1)
        assert a.local == b.local == o.versions
        chains = [one.standing.place.chain for one in (a, b) if one.standing]
        assert all(chain[-1] == "o" for chain in chains)


def test_identical_server_lists_do_not_form_a_cycle() -> None:
    o = published(1)
    names = ["a", "b", "c", "o"]
    nodes = [
        node(name, *(other for other in names if other != name), seed=k) for k, name in enumerate(names[:3])
    ]
    network = Network(o, *nodes)
    network.run(30)
    for _ in range(3):
        o.publish()
        network.run(3)
        assert all(one.local == o.versions for one in nodes)
    for one in nodes:
        assert one.standing and one.node_id not in one.standing.place.chain


def test_middle_relays_authority_list_before_it_has_the_versions() -> None:
    o = published(1)
    full = node("full", "o", keep=5)
    below = node("below", "full", "o")
    network = Network(o, full, below)
    network.run(5)
    look = full.look

    def look_without_room(now: float, servers: dict) -> None:  # type: ignore[type-arg]
        look(now, servers)
        full.local.pop(2, None)

    full.look = look_without_room  # type: ignore[method-assign]
    o.publish()
    network.run(2)
    assert 2 not in full.local
    assert below.local == o.versions


# Silence -----------------------------------------------------------------------------------------


def test_stand_in_takes_over_after_60_s_and_retires_nothing() -> None:
    o = published(3)
    first, second = node("first", "o", keep=3), node("second", "o", keep=3)
    m = node("m", "first", "second", keep=3)
    network = Network(o, first, second, m)
    network.run(10)
    first.alive = False
    for _ in range(4):
        o.publish()
    network.run(50)
    assert sorted(m.local) == [1, 2, 3]
    network.run(15)
    assert sorted(m.local) == [1, 2, 3, 5, 6, 7]
    assert m.provisional == {5, 6, 7}
    first.alive = True
    network.run(5)
    assert sorted(m.local) == [5, 6, 7]
    assert not m.provisional


def test_stand_in_version_is_unlisted_when_authority_lacks_it() -> None:
    o = published(2)
    second = Liar("http://s", origin=X, highest=2, versions=dict(o.versions))
    m = node("m", "o", "s")
    network = Network(o, second, m)
    network.run(5)
    o.alive = False
    second.versions[3] = listing(3, "invented")
    network.run(70)
    assert sorted(m.local) == [1, 2, 3]
    o.alive = True
    network.run(9)
    assert sorted(m.local) == [1, 2, 3]
    network.run(3)
    assert sorted(m.local) == [1, 2]


def test_authority_version_replaces_stand_in_version_at_once() -> None:
    o = published(2)
    second = Liar("http://s", origin=X, highest=2, versions=dict(o.versions))
    m = node("m", "o", "s")
    network = Network(o, second, m)
    network.run(5)
    o.alive = False
    second.versions[3] = listing(3, "invented")
    network.run(70)
    o.alive = True
    right = o.publish()
    network.run(1)
    assert m.local[3] == right


def test_fresh_node_uses_next_server_at_once_when_first_refuses() -> None:
    o = published(2)
    second = node("second", "o")
    network = Network(o, second)
    network.run(5)
    o.alive = False
    m = node("m", "o", "second")
    network.servers[m.name] = m
    m.start(network.now)
    network.run(1)
    assert sorted(m.local) == [1, 2]


def test_stand_in_line_is_abandoned_when_first_named_server_appears() -> None:
    o, other = published(2), published(3, name="http://p", origin=Y)
    o.alive = False
    m = node("m", "o", "p")
    network = Network(o, other, m)
    network.run(5)
    assert m.local == other.versions and m.provisional == {1, 2, 3}
    o.alive = True
    network.run(2)
    assert m.memory.origin == X and m.local == o.versions


def test_middle_with_unreachable_upstream_reports_silence() -> None:
    o = published(1)
    cut = node("cut", "gone")
    gone = origin("http://gone")
    gone.versions, gone.next = dict(o.versions), o.next
    m = node("m", "cut", "o")
    network = Network(o, gone, cut, m)
    network.run(5)
    gone.alive = False
    o.publish()
    network.run(50)
    assert sorted(m.local) == [1]
    network.run(20)
    assert cut.standing and cut.standing.place.silent
    assert sorted(m.local) == [1, 2]


def test_version_of_silent_middle_stays_provisional_downstream() -> None:
    o = published(2)
    liar = Liar("http://l", origin=X, highest=2, versions=dict(o.versions))
    m1, m2 = node("m1", "o", "l"), node("m2", "m1")
    network = Network(o, liar, m1, m2)
    network.run(5)
    o.alive = False
    liar.versions[3] = listing(3, "invented")
    network.run(80)
    assert 3 in m2.local
    assert m2.provisional == {3}
    o.alive = True
    network.run(25)
    assert sorted(m2.local) == [1, 2]


# Another line ------------------------------------------------------------------------------------


def test_fresh_origin_line_is_adopted_after_10_s_with_a_version() -> None:
    o = published(4)
    m, below = node("m", "o"), node("below", "m")
    network = Network(o, m, below)
    network.run(5)
    o.begin_anew(Y)
    network.run(30)
    assert m.memory.origin == X  # nothing is offered yet
    o.publish()
    network.run(8)
    assert m.memory.origin == X and len(m.local) == 4
    network.run(4)
    assert m.memory.origin == Y and m.local == o.versions
    assert len(m.put_aside) == 4
    network.run(15)
    assert below.memory.origin == Y and below.local == o.versions


def test_line_does_not_change_on_a_single_connection() -> None:
    o = published(2)
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    o.begin_anew(Y)
    o.publish()
    assert m.tracker
    for _ in range(60):
        network.now += 1
        view = o.view()
        standing = m.tracker.look(network.now, [view])
    assert standing.change is None
    assert standing.confirm == o.name


def test_alternating_origins_at_one_address_change_nothing() -> None:
    one, other = published(3), published(2, origin=Y)
    m = node("m", "o")
    network = Network(one, m)
    network.run(5)
    for _ in range(20):
        network.servers["http://o"] = other
        other.run += 1
        network.run(4)
        network.servers["http://o"] = one
        one.run += 1
        network.run(4)
    assert m.memory.origin == X
    assert m.local == one.versions


@pytest.mark.parametrize("hides", ["empty", "shorter", "unreachable", "no id"])
def test_line_does_not_change_for_empty_shorter_or_unreachable_list(hides: str) -> None:
    o = published(4)
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    before = dict(m.local)
    liar = Liar("http://o", origin=X if hides in ("empty", "shorter") else None, highest=4)
    liar.versions = dict(list(o.versions.items())[:2]) if hides == "shorter" else {}
    liar.alive = hides != "unreachable"
    network.servers["http://o"] = liar
    network.run(300)
    assert m.local == before
    assert m.memory.origin == X
    assert not m.changes


def test_only_first_named_server_determines_line_change() -> None:
    o = published(3)
    old = Liar("http://old", origin=X, highest=3, versions=dict(o.versions))
    m, n = node("m", "o", "old"), node("n", "old", "o")
    network = Network(o, old, m, n)
    network.run(5)
    o.begin_anew(Y)
    o.publish()
    network.run(12)
    assert m.memory.origin == Y
    assert n.memory.origin == X


def test_restored_directory_is_new_line_with_same_id() -> None:
    o = published(6, keep=10)
    m = node("m", "o", keep=10)
    network = Network(o, m)
    network.run(5)
    six = dict(m.local)
    o.restore(3)
    network.run(100)
    assert m.local == six  # a shorter list moves nothing
    four = o.publish()
    network.run(5)
    assert m.local == six
    network.run(7)
    assert m.local == {1: six[1], 2: six[2], 3: six[3], 4: four}
    assert [one.number for one in m.put_aside] == [4, 5, 6]
    assert m.standing and m.standing.highest == 4


def test_undone_mistyped_directory_changes_line_back() -> None:
    o = published(3)
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    versions, number = dict(o.versions), o.next
    o.begin_anew(Y)
    o.publish()
    network.run(20)
    assert m.changes == [Y]
    o.origin, o.versions, o.next = X, versions, number
    o.run += 1
    network.run(30)
    assert m.changes == [Y]  # at most one change a minute
    network.run(40)
    assert m.changes == [Y, X]


def test_quick_return_to_previous_line_notes_two_origins() -> None:
    one, other = published(3), published(2, origin=Y)
    m = node("m", "o")
    network = Network(one, m)
    network.run(5)
    network.servers["http://o"] = other
    network.run(20)
    network.servers["http://o"] = one
    notes = set()
    for _ in range(200):
        network.run(0.5)
        assert m.standing
        notes |= set(m.standing.notes)
    assert m.changes == [Y, X]
    assert any("two origins answer" in note for note in notes)


def test_rewritten_list_without_feed_is_adopted_after_three_reads() -> None:
    o = published(3, feed=False, origin="")
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    o.begin_anew("")
    o.publish()
    for _ in range(2):
        network.run(25)
        o.run += 1
    network.run(5)
    assert len(m.local) == 3
    network.run(10)
    assert m.local == o.versions


def test_origin_id_is_adopted_when_0_1_0_line_continues_with_one() -> None:
    o = published(2, feed=False, origin="")
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    assert m.memory.origin is None
    o.feed, o.origin = True, X
    o.publish()
    network.run(2)
    assert m.local == o.versions
    assert m.memory.origin == X
    assert not m.changes


def test_configured_origin_id_is_the_only_line_accepted() -> None:
    o, other = published(2), published(3, name="http://p", origin=Y)
    m = node("m", "p", "o")
    network = Network(o, other, m)
    assert m.tracker
    m.tracker._accepted = X
    network.run(60)
    assert m.local == o.versions
    assert m.standing and m.standing.origin == X


def test_silent_first_named_server_still_decides_line_of_fresh_node() -> None:
    o = published(3)
    first = node("first", "o")
    other = Liar("http://l", origin=Y, highest=9, versions={9: listing(9, "another line")})
    honest_id = Liar("http://h", origin=X, highest=3, versions={3: listing(3, "other bytes")})
    network = Network(o, first, other, honest_id)
    network.run(5)
    o.alive = False
    network.run(70)
    m = node("m", "first", "l", "h")
    network.servers[m.name] = m
    m.start(network.now)
    network.run(5)
    assert m.local == o.versions
    assert m.memory.origin == X


def test_silent_server_cannot_change_the_line() -> None:
    o = published(3)
    first = node("first", "o", "l")
    liar = Liar("http://l", origin=Y, highest=1, versions={1: listing(1, "another line")})
    m = node("m", "first")
    network = Network(o, first, liar, m)
    network.run(5)
    o.alive = False
    network.run(5)
    first.memory, first.local = type(first.memory)(), {}  # its directory is wiped
    first.start(network.now)
    network.run(60)
    assert m.memory.origin == X
    assert not m.changes


def test_stand_in_version_is_unlisted_after_restart_with_quiet_authority() -> None:
    o = published(2)
    second = Liar("http://s", origin=X, highest=2, versions=dict(o.versions))
    m = node("m", "o", "s")
    network = Network(o, second, m)
    network.run(5)
    o.alive = False
    second.versions[3] = listing(3, "invented")
    network.run(70)
    assert 3 in m.local
    o.alive, second.alive = True, False
    m.start(network.now)
    network.run(0.5)
    assert m.standing and m.standing.seconds_to_change is not None  # the node looks again by itself
    network.run(12)
    assert sorted(m.local) == [1, 2]


def test_numbers_of_changing_stand_in_do_not_accumulate() -> None:
    o = published(2)
    second = Liar("http://s", origin=X, highest=2, versions=dict(o.versions))
    m = node("m", "o", "s")
    network = Network(o, second, m)
    network.run(5)
    o.alive = False
    network.run(70)
    for start in range(100, 5000, 100):
        second.versions = {n: listing(n, "invented") for n in range(start, start + 100)}
        network.run(0.5)
    assert m.standing and len(m.standing.listed) <= 102


def test_time_without_offer_does_not_count_towards_line_change() -> None:
    o = published(2)
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    o.begin_anew(Y)
    o.publish()
    network.run(1)
    offered, o.versions = dict(o.versions), {}
    network.run(100)
    o.versions = offered
    o.run += 1
    network.run(5)
    assert m.memory.origin == X
    network.run(10)
    assert m.memory.origin == Y


def test_growing_rewritten_list_is_adopted() -> None:
    o = published(3, feed=False, origin="", keep=50)
    m = node("m", "o")
    network = Network(o, m)
    network.run(5)
    o.begin_anew("")
    for _ in range(9):
        o.publish()
        o.run += 1
        network.run(10)
    assert m.local[1].digest == o.versions[1].digest if 1 in m.local else max(m.local) == 9


# Withdrawing -------------------------------------------------------------------------------------


def test_withdrawal_crosses_two_layers_but_only_from_authority() -> None:
    o = published(3)
    stubborn = Liar("http://s", origin=X, highest=3, versions=dict(o.versions))
    m1, m2 = node("m1", "o", "s"), node("m2", "m1", "s")
    network = Network(o, stubborn, m1, m2)
    network.run(5)
    stubborn.withdrawn = {2: Withdrawal_of(o, 2)}
    network.run(20)
    assert sorted(m1.local) == sorted(m2.local) == [1, 2, 3]
    o.withdraw(3)
    network.run(1.5)
    assert sorted(m1.local) == sorted(m2.local) == [1, 2]
    o.alive = m1.alive = False
    network.run(200)  # neither another server's offer nor silence brings it back
    assert sorted(m2.local) == [1, 2]
    m2.start(network.now)
    network.run(200)
    assert sorted(m2.local) == [1, 2]


def Withdrawal_of(o: Origin, number: int):  # type: ignore[no-untyped-def]
    from shardcast.protocol.distribution import Withdrawal

    return Withdrawal(f"v{number}", o.versions[number].digest, "a lie")


# The model ---------------------------------------------------------------------------------------


SETTLED = 400.0
"""Seconds without an event after which every node must know the newest version, and go on knowing it."""
LONGEST = 150.0
"""Seconds, more than any time of the rules: what stays as it is for so long does not change by itself."""


def has(node: Node, newest: Listing) -> bool:
    return (
        node.local.get(newest.number) == newest
        and node.standing is not None
        and not node.standing.place.silent
    )


class Lines(RuleBasedStateMachine):
    """Origins that begin anew, restore and withdraw; nodes and servers that die and come back; a liar that is
    named last. What must hold at any moment, and what must be so once all is quiet."""

    @initialize(
        orders=st.lists(st.permutations(["a", "b", "c", "o"]), min_size=3, max_size=3),
        seed=st.integers(0, 999),
    )
    def begin(self, orders: list[list[str]], seed: int) -> None:
        self.origin = published(2)
        self.liar = Liar("http://liar", origin=X, chain=())
        self.nodes = []
        for k, name in enumerate("abc"):
            named = [one for one in orders[k] if one != name]
            self.nodes.append(node(name, *named, "liar", seed=seed + k))
        self.network = Network(self.origin, self.liar, *self.nodes)
        self.honest = {(X, n, one.digest) for n, one in self.origin.versions.items()}
        self.lines = 0
        self.network.run(10)

    @rule()
    def publish(self) -> None:
        if self.origin.alive:
            one = self.origin.publish()
            self.honest.add((self.origin.origin, one.number, one.digest))

    @rule(seconds=st.sampled_from([0.5, 3, 12, 65]))
    def wait(self, seconds: float) -> None:
        self.network.run(seconds)

    @rule()
    def stop_origin(self) -> None:
        self.origin.alive = False

    @rule()
    def start_origin(self) -> None:
        self.origin.alive = True
        self.origin.run += 1

    @rule(which=st.integers(0, 2))
    def stop_node(self, which: int) -> None:
        self.nodes[which].alive = False

    @rule(which=st.integers(0, 2))
    def start_node(self, which: int) -> None:
        self.nodes[which].start(self.network.now)

    @rule()
    def begin_anew(self) -> None:
        self.lines += 1
        self.origin.begin_anew(f"{self.lines:032x}")

    @rule()
    def restore(self) -> None:
        if len(self.origin.versions) > 1:
            self.origin.restore(sorted(self.origin.versions)[-2])

    @rule()
    def withdraw(self) -> None:
        if self.origin.versions and self.origin.alive:
            self.origin.withdraw(max(self.origin.versions))

    @rule(number=st.integers(1, 10**18 - 1), content=st.sampled_from("xyz"), own=st.booleans())
    def lie(self, number: int, content: str, own: bool) -> None:
        self.liar.origin = Z if own else self.origin.origin
        self.liar.versions[number] = listing(number, f"lie {content}")
        self.liar.highest = max(self.liar.versions)
        self.liar.withdrawn = {}

    @rule()
    def lie_about_withdrawals(self) -> None:
        self.liar.withdrawn = {n: Withdrawal_of(self.origin, n) for n in self.origin.versions}

    @rule(chain=st.none() | st.lists(st.sampled_from(["a", "b", "c", "o", "x"]), max_size=4).map(tuple))
    def lie_about_the_chain(self, chain: tuple[str, ...] | None) -> None:
        self.liar.chain = chain

    @invariant()
    def what_the_authority_listed_is_honest(self) -> None:
        for one in self.nodes:
            for number, digest in one.memory.digests.items():
                assert (one.memory.origin, number, digest) in self.honest, one.name

    @invariant()
    def what_liars_invent_takes_no_place(self) -> None:
        for one in self.nodes:
            firm = set(one.local) - one.provisional
            assert len(firm) <= one.keep
            assert all((one.memory.origin, n, one.local[n].digest) in self.honest for n in firm), one.name
            assert one.memory.highest < 10_000
            assert not any(w.reason == "a lie" for w in one.memory.withdrawn.values())

    @invariant()
    def no_node_is_its_own_authority_for_long(self) -> None:
        for one in self.nodes:
            if one.alive and one.standing:
                assert len(one.standing.place.chain) <= 16

    def teardown(self) -> None:
        if not hasattr(self, "network"):
            return
        self.origin.alive = True
        self.origin.run += 1
        one = self.origin.publish()
        self.honest.add((self.origin.origin, one.number, one.digest))
        for node in self.nodes:
            if not node.alive:
                node.start(self.network.now)
        latest = self.network.now + SETTLED - LONGEST
        while self.network.now < latest and not all(has(node, one) for node in self.nodes):
            self.network.run(5)
        self.network.run(LONGEST)
        for node in self.nodes:
            assert node.memory.origin == self.origin.origin, node.name
            assert node.local.get(one.number) == one, node.name
            assert node.standing and node.standing.newest == one
            assert not node.standing.place.silent
            assert node.node_id not in node.standing.place.chain
        self.what_the_authority_listed_is_honest()


TestLines = Lines.TestCase
TestLines.settings = settings(
    deadline=None, max_examples=settings().max_examples * 6 // 10, stateful_step_count=15
)
