"""``shardcast status``: one table of a network of real nodes, a static server and one that is gone."""

from __future__ import annotations

import json
from pathlib import Path

from shardcast.access.scopes import Scope
from tests.support import processes
from tests.support.access import TokensOnDisk
from tests.support.bad_servers import dead_address
from tests.support.legacy import plain_server
from tests.support.published import publish, random_bytes

NOT_READY, NO_SERVER, DENIED = 1, 4, 8


def test_a_network_is_shown_in_one_table(tmp_path: Path) -> None:
    publish(tmp_path / "d", random_bytes(300_000), 100_000)
    with (
        dead_address() as gone,
        processes.origin(tmp_path / "d") as origin,
        processes.middle(origin.url, tmp_path / "m") as middle,
        plain_server(tmp_path / "d") as static,
    ):
        middle.wait_for_log("v1 is complete")
        whole = processes.run("status", origin.url, middle.url, static.url)
        assert whole.returncode == 0, whole.stderr
        rows = {line.split()[0]: line for line in whole.stdout.splitlines() if line}
        assert "origin  " in rows[origin.url] and " ready " in rows[origin.url]
        assert "middle  " in rows[middle.url] and " v1 " in rows[middle.url]
        assert "list only" in rows[static.url]
        assert "3 of 3 servers" in rows["v1"]

        part = processes.run("status", f"{origin.url},{gone}", "--json")
        assert part.returncode == NO_SERVER
        first, second = json.loads(part.stdout)
        assert first["state"] == "ready"
        assert first["status"]["versions"][0]["size"] == 300_000
        assert second["state"] == "unreachable"
        assert "no connection" in second["why"]


def test_a_middle_without_its_upstream_is_not_ready(tmp_path: Path) -> None:
    with dead_address() as gone, processes.middle(gone, tmp_path / "m") as middle:
        done = processes.run("status", middle.url)
    assert done.returncode == NOT_READY
    assert "not ready" in done.stdout
    assert "no connection" in done.stdout


def test_a_server_that_wants_a_token_is_refused_or_shown(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    token = str(TokensOnDisk(tokens).add([Scope.STATUS]).text)
    with processes.origin(tmp_path / "d", "--tokens", str(tokens)) as origin:
        without = processes.run("status", origin.url)
        assert without.returncode == DENIED
        assert "refused" in without.stdout
        with_token = processes.run("status", origin.url, env={"SHARDCAST_TOKEN": token})
        assert with_token.returncode == 0, with_token.stdout


def test_wrong_words_are_usage_errors() -> None:
    assert processes.run("status").returncode == 2
    assert processes.run("status", "ftp://x").returncode == 2
