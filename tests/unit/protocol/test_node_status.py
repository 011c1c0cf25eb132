"""The state of a node as others read it: only what is well-formed, within its bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.protocol.node_status import NodeStatus, StatusError, StatusTransfer, parse_status
from tests.support.payloads import patient

STATUS: dict[str, Any] = {"role": "middle", "node": "81ab", "origin": "ce0d"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["role", "node", "origin", "versions", "transfers", "below", "lacking", "upstreams", "disk_failure"]
)


def read(**told: object) -> NodeStatus:
    return parse_status(json.dumps(STATUS | told).encode())


@patient
@given(st.binary(max_size=200) | st.dictionaries(KEYS, JSON).map(lambda value: json.dumps(value).encode()))
def test_anything_is_a_status_or_refused_in_words(raw: bytes) -> None:
    try:
        parse_status(raw)
    except StatusError as error:
        assert str(error)


def test_versions_transfers_and_troubles_are_read() -> None:
    status = read(
        versions=[
            {"version": "v1", "state": "complete", "digest": "9f", "name": "a", "size": 5, "bytes_here": 5},
            {"version": "v2", "state": "open", "digest": None, "size": None, "bytes_here": 3, "rate": 7},
        ],
        transfers=[{"version": "v2", "size": None, "done": 3, "rate": 9, "servers": {}}],
        disk_failure="it is full",
        lacking=[{"version": "v3", "why": "no room"}],
        upstreams=[{"url": "http://a", "failure": None}, {"url": "http://b", "failure": "b is gone"}],
    )
    assert [version.is_complete for version in status.versions] == [True, False]
    assert [version.sending for version in status.versions] == [0, 7]
    assert status.transfers == (StatusTransfer("v2", 3, None, 9),)
    assert status.troubles == ("it is full", "v3: no room", "b is gone")


@pytest.mark.parametrize(
    "told",
    [
        {"role": None},
        {"node": "../x"},
        {"origin": 5},
        {"versions": {}},
        {"versions": [{"version": "7"}]},
        {"versions": [{"version": "v1", "size": -1}]},
        {"versions": [{"version": "v1", "size": 1 << 62}]},
        {"versions": [{"version": "v1", "rate": 0.5}]},
        {"transfers": ["v1"]},
        {"below": [{"node": "81ab", "role": "king"}]},
        {"below": [{"node": "81ab", "role": "client"}] * 5001},
    ],
)
def test_what_breaks_a_bound_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(StatusError):
        read(**told)


def test_brackets_without_end_are_refused() -> None:
    with pytest.raises(StatusError):
        parse_status(b"[" * 1_000_000)
