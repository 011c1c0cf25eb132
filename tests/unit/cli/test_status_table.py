"""The tables of ``shardcast status``, from states that are made up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shardcast.cli.status import code_of
from shardcast.cli.status_table import status_lines, version_ranges
from shardcast.errors import AccessDenied, ServerUnreachable
from shardcast.nodes.network_status import ServerState
from shardcast.protocol.distribution import Listing
from shardcast.protocol.node_status import parse_status

V1 = {"version": "v1", "state": "complete", "digest": "9f", "name": "a.bin", "size": 1000, "bytes_here": 1000}
V2 = {"version": "v2", "state": "open", "digest": None, "name": "b.bin", "size": 2000, "bytes_here": 500}


def server(
    url: str, node: str, *versions: dict[str, Any], missing: str | None = None, **told: Any
) -> ServerState:
    values = {"role": "middle", "node": node, "origin": "ce0d", "versions": versions, **told}
    return ServerState(url, parse_status(json.dumps(values).encode()), missing=missing)


def below(node: str, name: str, age: float = 2, coming: int = 500, **told: Any) -> dict[str, Any]:
    values = {
        "node": node,
        "role": "client",
        "name": name,
        "has": ["v1"],
        "coming": {"v2": coming},
        "hops": 1,
    }
    return values | {"age": age, "origin": "ce0d"} | told


def row(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.lstrip().startswith(name))


def test_a_server_shows_what_comes_at_which_rate_and_why_it_is_not_ready() -> None:
    transfer = {"version": "v2", "size": 2000, "done": 1000, "rate": 250}
    state = server("http://m", "81ab", V1, V2, missing="v2 is on its way", transfers=[transfer])
    lines = status_lines((0, [state]))
    for text in ("not ready", " v1 ", "v2 50% of 2.0 kB, 250 B/s", "v2 is on its way"):
        assert text in row(lines, "http://m")
    assert code_of([state]) == 1


def test_servers_that_fail_and_old_ones_have_rows() -> None:
    states = [
        ServerState("http://gone", failure=ServerUnreachable("http://gone", "no connection")),
        ServerState("http://no", failure=AccessDenied("http://no", "403: a token is needed")),
        ServerState("http://old", listings=(Listing("v1", "9f", 3), Listing("v2", "aa", 1))),
    ]
    lines = status_lines((0, states))
    assert "unreachable" in row(lines, "http://gone")
    assert "no connection" in row(lines, "http://gone")
    assert "refused" in row(lines, "http://no")
    assert "list only" in row(lines, "http://old")
    assert "v1-v2" in row(lines, "http://old")
    assert code_of(states) == 4
    assert code_of(states[1:]) == 8
    assert code_of(states[2:]) == 0


def test_a_node_below_counts_once_and_not_beside_its_own_row() -> None:
    reports = [below("c0", "rack7"), below("81ab", "the middle itself", role="middle")]
    origin = server("http://o", "aaaa", V1, V2, below=[*reports, below("c1", "other line", origin="ffff")])
    middle = server("http://m", "81ab", V1, below=[below("c0", "rack7", age=1)])
    lines = status_lines((0, [origin, middle]))
    assert sum("rack7" in line for line in lines) == 1
    assert "heard 1 s ago" in row(lines, "rack7")
    assert "v2 25% of 2.0 kB" in row(lines, "rack7")
    assert not any("itself" in line for line in lines)
    assert row(lines, "v1").endswith("2 of 2 servers, 1 of 2 nodes below")


def test_the_rate_of_a_node_below_comes_from_two_reports() -> None:
    def at(age: float, coming: int) -> list[ServerState]:
        return [server("http://o", "aaaa", V1, V2, below=[below("c0", "rack7", age, coming)])]

    lines = status_lines((102.0, at(age=1.0, coming=1500)), before=(100.0, at(age=1.0, coming=500)))
    assert "v2 75% of 2.0 kB, 500 B/s" in row(lines, "rack7")


def test_names_from_servers_move_no_cursor() -> None:
    name = "\x1b[2Jevil\nNODE"
    state = server("http://m", "81ab", V1 | {"name": name}, below=[below("c0", name)])
    text = "\n".join(status_lines((0, [state])))
    assert "\x1b" not in text
    assert "evil\nNODE" not in text


def test_two_lines_of_versions_stay_apart() -> None:
    other = server("http://b", "bbbb", V1 | {"digest": "aa"}, origin="ffff")
    lines = status_lines((0, [server("http://a", "aaaa", V1), other]))
    assert sum(line.startswith("v1 ") for line in lines) == 2
    assert "2 lines of versions" in lines[-1]


@pytest.mark.parametrize(
    ("versions", "text"),
    [([], "-"), (["v1"], "v1"), (["v3", "v1", "v2", "v7"], "v1-v3, v7"), (["v9", "v10"], "v9-v10")],
)
def test_ranges(versions: list[str], text: str) -> None:
    assert version_ranges(versions) == text
