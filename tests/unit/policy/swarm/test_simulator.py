"""The simulator decides by the rules of real nodes, and shows what these promise."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
SIMULATOR = ROOT / "scripts" / "simulate"
POLICY = ROOT / "shardcast" / "policy" / "swarm"


def defined(folder: Path) -> set[str]:
    """Return the functions and classes that the modules of a folder define, without private ones."""
    trees = [ast.parse(path.read_text()) for path in folder.glob("*.py")]
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for tree in trees for node in tree.body if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_")}


def imported(folder: Path) -> dict[str, str]:
    """Return the names that the modules of a folder import from the package, and from where."""
    return {name: module for path in folder.glob("*.py") for name, module in imported_by(path).items()}


def imported_by(path: Path) -> dict[str, str]:
    """Return the names that a module imports from the package, and from where."""
    return {
        alias.name: node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("shardcast")
        for alias in node.names
    }


def simulate(tmp_path: Path, *options: str) -> dict[str, Any]:
    """Run the simulator, and return the results of its only case."""
    found = tmp_path / "found.json"
    command = [sys.executable, str(SIMULATOR), "--json", str(found), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results: dict[str, dict[str, Any]] = json.loads(found.read_text())["results"]
    return next(iter(results.values()))


def test_simulator_has_no_copy_of_a_rule() -> None:
    assert not defined(SIMULATOR) & defined(POLICY)
    rules = {name: module for name, module in imported(SIMULATOR).items() if ".policy." in module}
    assert {"RangeChooser", "Ledger", "AnswerSlots", "named_members", "to_connect", "accepts"} <= rules.keys()
    assert all(module.startswith("shardcast.policy.swarm.") for module in rules.values())


def policy_of_nodes() -> set[tuple[str, str]]:
    """Return the names of policy that nodes import, with their modules, and those that these import."""
    package = ROOT / "shardcast"
    found = {
        (module, name)
        for folder in package.iterdir()
        if folder.is_dir() and folder.name != "policy"
        for path in folder.rglob("*.py")
        for name, module in imported_by(path).items()
        if module.startswith("shardcast.policy.")
    }
    modules = {module for module, _ in found}
    while modules:
        paths = [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
        below = {(module, name) for path in paths for name, module in imported_by(path).items()}
        modules = {module for module, _ in below - found if ".policy." in module}
        found |= below
    return found


def test_each_rule_of_the_simulator_is_one_that_nodes_import() -> None:
    rules = {
        (module, name)
        for name, module in imported(SIMULATOR).items()
        if ".policy." in module and not module.endswith(".masks") and not name.isupper()
    }  # neither the arithmetic of sets, nor defaults of what is called
    assert {name for _, name in rules} >= {"Telling", "named_members", "to_replace", "Ledger"}
    assert rules - policy_of_nodes() == set()


def test_origin_sends_each_range_once_and_nodes_end_near_the_bound(tmp_path: Path) -> None:
    found = simulate(tmp_path, "--nodes", "10", "--size", "32MiB")
    assert found["finished"] == 10
    assert found["origin"] <= 1.01
    assert 1.0 <= found["last"] <= 1.25


def test_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    first, second = (simulate(tmp_path, "--nodes", "5", "--size", "4MiB", "--seed", "7") for _ in range(2))
    assert first["times"] == second["times"]


def test_range_crosses_into_a_site_once_and_never_back(tmp_path: Path) -> None:
    found = simulate(tmp_path, "--nodes", "8", "--middles", "2", "--sites", "2", "--size", "32MiB")
    assert found["into"] <= 1.1
    assert found["home"] == 0
    assert found["last"] <= 1.15


@pytest.mark.parametrize(
    "accident",
    [
        ("--killed", "0.25", "--middles", "2"),
        ("--liars", "0.2"),
        ("--boasters", "0.2"),
        ("--joining", "0.5"),
        ("--written", "180"),
        ("--versions", "3", "--every", "0.5"),
    ],
    ids=lambda accident: accident[0],
)
def test_every_living_node_gets_everything_despite(accident: tuple[str, ...], tmp_path: Path) -> None:
    found = simulate(tmp_path, "--nodes", "10", "--size", "16MiB", *accident)
    assert found["unfinished"] == 0
    assert found["finished"] >= 8
