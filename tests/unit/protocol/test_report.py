"""What nodes tell of themselves: written, read back, and refused when it is no report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.policy.owner_counts import OwnerCounts
from shardcast.protocol import report
from shardcast.protocol.report import (
    MAX_HOPS,
    MAX_NODES,
    MAX_REPORT,
    SLICE_NODES,
    Node,
    ReportError,
    encode,
    encode_in_slices,
    newest_reportable,
    parse,
    parse_in_slices,
)
from shardcast.server.downstream import Downstream
from tests.support.payloads import patient

IDS = st.text("0123456789abcdef", min_size=1, max_size=64)
VERSIONS = st.integers(1, 10**18 - 1).map("v{}".format)
NODES = st.builds(
    Node,
    node=IDS,
    role=st.sampled_from(["middle", "client"]),
    name=st.text(max_size=100).map(lambda name: "".join(one for one in name if one.isprintable())),
    has=st.lists(VERSIONS, max_size=10),
    coming=st.dictionaries(VERSIONS, st.integers(0, 2**62 - 1), max_size=5),
    hops=st.integers(0, MAX_HOPS - 1),
    via=st.none() | IDS,
    age=st.integers(0, 600).map(float),
    origin=st.none() | IDS,
)
ME: dict[str, Any] = {"node": "81ab", "role": "middle", "name": "rack7", "has": ["v1"], "coming": {"v2": 5}}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def read(**said: object) -> list[Node]:
    return parse(json.dumps(ME | said).encode())


def test_parsed_nodes_are_one_hop_farther() -> None:
    client = Node("c2d0", "client", "a client", ["v1", "v2"], {"v3": 7}, hops=1, age=2.5, origin="ce0d")
    me, other = parse(encode(Node("81ab", "middle", "rack7", ["v1"], {"v2": 5}, origin="ce0d"), [client]))
    assert me == Node("81ab", "middle", "rack7", ["v1"], {"v2": 5}, hops=1, origin="ce0d")
    assert other == replace(client, hops=2, via="81ab")


def test_the_node_right_above_is_kept_over_all_hops() -> None:
    far = Node("c2d0", "client", hops=2, via="e1f2")
    assert [one.via for one in parse(encode(Node("81ab", "middle"), [far]))] == [None, "e1f2"]


@patient
@given(NODES, st.lists(NODES, max_size=5))
def test_written_report_is_parsed(me: Node, below: list[Node]) -> None:
    first, *others = parse(encode(me, below))
    assert first == replace(me, hops=1, via=None, age=0.0)
    assert others == [replace(one, hops=one.hops + 1, via=one.via or me.node) for one in below]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from(["node", "role", "name", "origin", "has", "coming", "hops", "via", "age", "below"])


@patient
@given(st.binary())
def test_arbitrary_bytes_raise_only_report_error(raw: bytes) -> None:
    with pytest.raises(ReportError):
        parse(raw)


@patient
@given(st.dictionaries(FIELDS, JSON), st.booleans())
def test_arbitrary_json_raises_only_report_error(said: dict[str, object], inside: bool) -> None:
    whole = ME | ({"below": [ME | said]} if inside else said)
    try:
        nodes = parse(json.dumps(whole).encode())
    except ReportError:
        return
    assert all(isinstance(one, Node) and 1 <= one.hops <= MAX_HOPS + 1 for one in nodes)
    assert all(one.name.isprintable() and len(one.name) <= 100 for one in nodes)
    json.dumps([one.as_dict() for one in nodes], allow_nan=False)


@pytest.mark.parametrize(
    "raw",
    [b"", b"null", b"[]", b'"x"', b"{", b"[" * 100_000, b"9" * 5000, b'{"node": ' * 100_000, b"\xff\xfe{}"],
)
def test_report_requires_json_object(raw: bytes) -> None:
    with pytest.raises(ReportError):
        parse(raw)


@pytest.mark.parametrize(
    "wrong",
    [
        {"node": ""},
        {"node": "x" * 65},
        {"node": "../x"},
        {"node": "é"},
        {"node": 7},
        {"node": None},
        {"role": "origin"},
        {"role": ["middle"]},
        {"name": 7},
        {"has": "v1"},
        {"has": ["latest"]},
        {"has": ["v0"]},
        {"has": [1]},
        {"has": [["v1"]]},
        {"has": [f"v{number}" for number in range(1, 102)]},
        {"coming": []},
        {"coming": {"x": 1}},
        {"coming": {"v1": -1}},
        {"coming": {"v1": True}},
        {"coming": {"v1": 1.5}},
        {"coming": {"v1": 2**62}},
        {"hops": -1},
        {"hops": MAX_HOPS + 1},
        {"hops": True},
        {"hops": 1.0},
        {"age": -0.1},
        {"age": float("nan")},
        {"age": float("inf")},
        {"age": 10**400},
        {"age": "1"},
        {"via": ""},
        {"via": 1},
        {"origin": ""},
        {"origin": 7},
        {"origin": "x" * 65},
        {"origin": "../x"},
        {"below": {}},
        {"below": [None]},
        {"below": [[]]},
        {"below": [{}]},
    ],
    ids=str,
)
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ReportError):
        read(**wrong)
    if "below" not in wrong:
        with pytest.raises(ReportError):
            read(below=[ME | wrong])


def test_unknown_keys_are_ignored() -> None:
    assert read(speed=7, below=[{**ME, "node": "c2d0", "new": {}}])[1].node == "c2d0"


def test_name_has_no_control_characters() -> None:
    assert read(name="rack\x1b[31m7\n\r\0\u202e" + "x" * 1000)[0].name == "rack[31m7" + "x" * 86


def test_a_report_is_never_larger_than_a_node_takes() -> None:
    name, has = "\U0001f600" * 100, [f"v{10**17 + number}" for number in range(100)]
    below = [Node(f"{number:064x}", "client", name, has, {}, hops=1) for number in range(3000)]
    raw = encode(Node("81ab", "middle", name, has), below)
    assert MAX_REPORT - 10_000 < len(raw) < MAX_REPORT
    told = parse(raw)
    assert [one.node for one in told[1:]] == [one.node for one in below[: len(told) - 1]]


def test_written_report_has_at_most_max_nodes() -> None:
    below = [Node(f"{number:x}", "client", hops=1) for number in range(1, MAX_NODES + 10)]
    assert len(parse(encode(Node("81ab", "middle"), below))) == 1 + MAX_NODES
    too_many = [{"node": "1", "role": "client"}] * (MAX_NODES + 1)
    with pytest.raises(ReportError):
        read(below=too_many)


def test_reports_do_not_go_round_in_circles_for_ever() -> None:
    """Two middles that are each other's upstream tell each other of the same client again and again."""
    known = [Node("c2d0", "client", hops=1)]
    for hop in range(100):
        if not known:
            assert hop >= MAX_HOPS - 1
            break
        known = parse(encode(Node(f"{hop % 2}", "middle"), known))[1:]
    assert known == []


def test_newest_versions_are_reported() -> None:
    names = [f"v{number}" for number in range(1, 200)]
    assert list(newest_reportable(names))[-1] == "v199"
    assert read(has=list(newest_reportable(names)))[0].has[-1] == "v199"


# Who is below --------------------------------------------------------------------------------------


def below(clock: Clock) -> Downstream:
    return Downstream("0123", clock)


def test_silent_node_is_forgotten_after_a_minute() -> None:
    clock = Clock()
    nodes = below(clock)
    nodes.record(read())
    clock.now += 59
    assert [(one.node, one.age) for one in nodes.nodes()] == [("81ab", 59)]
    clock.now += 2
    assert nodes.nodes() == []


def test_reported_node_keeps_its_age() -> None:
    clock = Clock()
    nodes = below(clock)
    nodes.record(read(below=[ME | {"node": "c2d0", "role": "client", "age": 50}]))
    assert {one.node: one.age for one in nodes.nodes()} == {"81ab": 0, "c2d0": 50}
    clock.now += 11
    assert {one.node for one in nodes.nodes()} == {"81ab"}


def test_latest_report_of_a_node_counts() -> None:
    clock = Clock()
    nodes = below(clock)
    nodes.record(read(has=["v2"]))
    nodes.record(read(node="ffff", below=[ME | {"has": ["v1"], "age": 30}]))
    assert [list(one.has) for one in nodes.nodes() if one.node == "81ab"] == [["v2"]]
    clock.now += 10
    nodes.record(read(node="ffff", below=[ME | {"has": ["v3"], "age": 5}]))
    assert [list(one.has) for one in nodes.nodes() if one.node == "81ab"] == [["v3"]]


def test_a_node_is_never_below_itself() -> None:
    nodes = below(Clock())
    nodes.record(read(node="0123"))
    nodes.record(read(below=[ME | {"node": "0123"}]))
    assert [one.node for one in nodes.nodes()] == ["81ab"]


def test_a_report_of_0_4_0_names_no_origin() -> None:
    (node,) = read()
    assert node.origin is None


def test_changes_count_what_nodes_got_and_lost() -> None:
    nodes = below(Clock())
    counted = []
    for said in ({}, {}, {"has": ["v1", "v2"]}, {"coming": {"v3": 5}}, {"has": ["v2"]}, {"origin": "ce0d"}):
        nodes.record(read(**{"has": ["v1"], **said}))
        counted.append((nodes.changes, nodes.reports))
    assert counted == [(1, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]


def test_the_nearest_come_first() -> None:
    nodes = below(Clock())
    said = {"role": "client", "hops": 1}
    nodes.record(
        read(below=[ME | said | {"node": "c2d0", "name": "b"}, ME | said | {"node": "c2d1", "name": "a"}])
    )
    assert [(one.hops, one.name) for one in nodes.nodes()] == [(1, "rack7"), (2, "a"), (2, "b")]


def test_invented_nodes_take_bounded_memory() -> None:
    clock = Clock()
    nodes = below(clock)
    nodes.record(read())
    for begin in range(0, 100_000, MAX_NODES):
        nodes.record([Node(f"a{begin + number}", "client", hops=1) for number in range(MAX_NODES)])
        assert len(nodes._nodes) <= MAX_NODES
    nodes.record(read(has=["v9"]))
    assert [list(one.has) for one in nodes.nodes() if one.node == "81ab"] == [["v9"]]  # who is known stays
    clock.now += 61
    nodes.record([Node("real", "client", hops=1)])  # what has gone keeps nobody out
    assert [one.node for one in nodes.nodes()] == ["real"]


@pytest.mark.parametrize("reporters", [1, 50, MAX_NODES])
def test_invented_nodes_hide_no_others(reporters: int) -> None:
    nodes = below(Clock())
    each = MAX_NODES // reporters

    def invent() -> None:
        for reporter in range(reporters):
            ids = range(reporter * each, (reporter + 1) * each)
            nodes.record([Node(f"a{number}", "client", hops=1) for number in ids], "10.6.6.6")

    for address in ("10.0.0.1", "10.6.6.6") if reporters < MAX_NODES else ("10.0.0.1",):
        invent()
        nodes.record(read(below=[ME | {"node": "c2d0", "role": "client"}]), address)
        invent()
        assert {"81ab", "c2d0"} <= set(nodes._nodes), address
        assert len(nodes._nodes) == MAX_NODES


def test_the_largest_share_is_known_at_any_time() -> None:
    random, shares, counts = Random(1), OwnerCounts[int](), Counter[int]()
    for _ in range(3000):
        owner = random.randrange(12)
        if random.random() < 0.5:
            shares.add(owner)
            counts[owner] += 1
        elif counts[owner]:
            shares.remove(owner)
            counts[owner] -= 1
        assert bool(shares) == any(counts.values())
        if shares:
            assert counts[shares.largest()] == max(counts.values())


def test_reports_are_parsed_written_and_recorded_in_slices() -> None:
    """The event loop has its turn between two."""
    me, others = Node("81ab", "middle"), [Node(f"a{number}", "client") for number in range(1000)]
    assert len(list(encode_in_slices(me, others))) == 2 + 1000 // SLICE_NODES
    slices = list(parse_in_slices(encode(me, others)))
    assert [len(some) for some in slices] == [1] + [SLICE_NODES] * (1000 // SLICE_NODES)
    nodes = [node for some in slices for node in some]
    assert len(list(below(Clock()).record_in_slices(nodes, ""))) == 1001 // 250


def test_report_of_brackets_is_refused_before_json_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "parse_json", lambda raw: pytest.fail("it was read"))
    with pytest.raises(ReportError, match="too many"):
        parse(b"[" + b"[]," * 300_000 + b"[]]")


def test_nodes_with_very_many_versions_take_bounded_memory() -> None:
    """/status is written in one go: what anybody can say must not make it tens of megabytes."""
    clock = Clock()
    nodes = below(clock)
    names = [f"v{10**17 + number}" for number in range(100)]
    coming = {f"v{10**16 + number}": 2**61 for number in reversed(range(100))}
    for number in range(MAX_NODES - 1):
        nodes.record([Node(f"a{number}", "client", has=names, coming=coming, hops=1)])
    assert len(json.dumps([one.as_dict() for one in nodes.nodes()])) < 8_000_000
    nodes.record(read(has=["v1", "v2"], coming={"v3": 5}))  # others still have room
    (mine,) = (one for one in nodes.nodes() if one.node == "81ab")
    assert (list(mine.has), dict(mine.coming)) == (["v1", "v2"], {"v3": 5})
    last = next(one for one in nodes.nodes() if one.node == f"a{MAX_NODES - 2}")
    assert list(last.has) == names[-4:], "those that count most are its newest"
    assert list(last.coming)[-1] == f"v{10**16 + 99}"
    clock.now += 61
    nodes.record([Node("real", "client", has=names, hops=1)])  # what has gone leaves its room
    assert [list(one.has) for one in nodes.nodes()] == [names]
