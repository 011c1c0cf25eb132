"""The benchmark's own reckoning: medians, ratios, bounds. What it measures, it measures elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
MIB = 1 << 20
LINK = 25e6
"""Bytes a second of 200 Mbit/s."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark runs on Linux alone")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports one of the benchmark's modules."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if str(BENCH) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_list_names_every_case() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--list"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"loopback", "publish", "latency", "stream", "followers", "networks-a", "networks-d"} <= listed
    assert {"blobs-large", "blobs-small", "blobs-has", "blobs-pull", "followers-nginx"} <= listed


def test_fluid_bound_is_the_largest_of_three_terms(bench: Any) -> None:
    fluid_bound = bench("network_plans").fluid_bound
    size = 128 * MIB
    assert fluid_bound(size, LINK, [LINK] * 10, [LINK] * 10) == pytest.approx(
        5.37, abs=0.01
    )  # the origin's upload
    assert fluid_bound(size, LINK, [LINK, LINK / 4], [LINK] * 2) == pytest.approx(
        4 * size / LINK
    )  # a slow download
    assert fluid_bound(size, LINK, [LINK] * 8, []) == pytest.approx(8 * size / LINK)  # all uploads together


def test_roles_bound_is_set_by_the_busiest_servers(bench: Any) -> None:
    plans, goodput = bench("network_plans"), bench("namespaces").Goodput
    size = 128 * MIB
    found = {}
    for plan in plans.PLANS:
        links = {
            host: goodput((rate or 1e5) * 125e3, (rate or 1e5) * 125e3) for host, rate in plan.rates.items()
        }
        found[plan.key] = [round(seconds, 1) for seconds in plans.bounds(plan, size, links).values()]
    assert found == {"a": [5.4, 21.5], "b": [5.4, 5.4], "c": [21.5, 21.5], "d": [2.1], "e": [0.0, 0.1]}


def test_aims_bound_time_by_roles_and_bytes_of_the_origin(bench: Any) -> None:
    networks, harness, plans = bench("networks"), bench("harness"), bench("network_plans")
    runs = [harness.Run(seconds, detail={"origin sent F": 2.02}) for seconds in (23.0, 24.0, 26.0)]
    ours, bounds = harness.Result("ours", runs), {"all": 6.0, "roles": 20.0}
    tree, chain, _, servers, _ = plans.PLANS
    assert [one.value for one in networks.aims(tree, ours, bounds)] == [1.2, 2.02]
    assert [one.reached for one in networks.aims(tree, ours, bounds)] == [False, True]
    assert [one.most for one in networks.aims(chain, ours, bounds)] == [1.08]
    assert [one.value for one in networks.aims(servers, harness.Result("ours"), {"all": 6.0})] == [None]


def test_plan_derives_roles_of_hosts(bench: Any) -> None:
    tree, chain, _, servers, _ = bench("network_plans").PLANS
    assert (tree.origins, tree.middles, len(tree.clients)) == (["origin"], ["middle1", "middle2"], 8)
    assert (chain.middles, chain.clients) == ([f"middle{n}" for n in range(1, 5)], ["client"])
    assert (len(servers.origins), servers.middles, servers.clients) == (3, [], ["client"])


def test_namespace_is_kept_while_its_process_runs(bench: Any) -> None:
    namespaces = bench("namespaces")
    mine = namespaces.Host("client1", "10.0.0.1", None).namespace
    assert namespaces.made_by_the_living(mine)
    assert not namespaces.made_by_the_living(mine.replace(f".{os.getpid()}.", f".{os.getppid()}."))
    assert not namespaces.made_by_the_living(f"{namespaces.PREFIX}.client1")


def test_sides_alternate_and_failed_side_has_no_figures(bench: Any) -> None:
    harness = bench("harness")
    turns: list[str] = []

    def side(name: str, *came: float | Exception) -> Any:
        left = list(came)

        def measure() -> Any:
            turns.append(name)
            value = left.pop(0)
            if isinstance(value, Exception):
                raise value
            return harness.Run(value)

        return harness.Side(name, measure)

    sides = [
        side("ours", 9.0, 1.0, 2.0, 4.0),
        side("theirs", 9.0, 2.0, 6.0, 8.0),
        side("wrong", 9.0, 1.0, harness.Failed("a wrong digest")),
        side("missing", harness.Skipped("not installed")),
    ]
    results = harness.interleave(sides, runs=3)
    assert turns[:6] == ["ours", "theirs", "wrong", "missing", "ours", "theirs"]
    assert [one.median() for one in results] == [2.0, 6.0, None, None]
    assert results[0].spread() == (1.0, 4.0)
    comparison = harness.Comparison("Them", results, against="ours", payload=6_000_000)
    assert comparison.ratio(results[1]) == 2.0  # of 2, 3 and 2
    assert comparison.failures == ["Them: wrong: a wrong digest"]
    table = bench("report").table(comparison)
    assert "missing: skipped: not installed" in table
    assert [line.split()[1:5] for line in table.splitlines() if line.startswith("theirs")] == [
        ["6.00", "2.00–8.00", "2.00", "1"]
    ]
