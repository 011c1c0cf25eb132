"""Every file-system call that we make, failing with every error that real systems give.

The outcome of each cell (operation × call × errno) is right, or a clear error with the right exit code and
nothing lost; and when the fault has gone, all works again. ``make test`` runs a fixed sample, ``make soak``
all cells (``SHARDCAST_SOAK_CELLS=all``), each operation in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.faults.control import VARIABLE, make_file
from tests.support.faults.errnos import CALLS, ERRNOS

CELLS = os.environ.get("SHARDCAST_SOAK_CELLS", "")
SAMPLE = {"origin": 4, "client": 6, "middle": 2, "store": 3}
"""Cells of each operation, by role."""
PATIENCE = 7200 if CELLS else 170
"""Seconds for one process."""
ROOT = Path(__file__).parents[2]


def runs() -> list[tuple[str, str]]:
    """Return the role of each process, and its one operation; empty for a sample of all."""
    if not CELLS:
        return [(role, "") for role in SAMPLE]
    modules = {role: import_module(f"tests.support.faults.{role}") for role in SAMPLE}
    return [(role, kind.name) for role, module in modules.items() for kind in module.OPERATIONS]


@dataclass
class Told:
    """What a role's process told: the calls of each operation, and the cells that it ran."""

    calls: dict[str, list[list[str]]] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, lines: Iterator[dict[str, Any]]) -> Told:
        told = cls()
        for line in lines:
            if "calls" in line:
                told.calls[line["operation"]] = line["calls"]
            elif "cell" in line:
                told.results.append(line)
        return told


def run(role: str, operation: str, shim: Path, place: Path) -> Told:
    """Run the cells of a role, or of one of its operations, in a process of its own."""
    make_file(place / "control")
    (place / "roles").mkdir()
    words = [sys.executable, "-m", "tests.support.faults", role, str(place / "roles")]
    words += ["all", operation] if CELLS else [str(SAMPLE[role])]
    env = processes.environment(**{VARIABLE: str(place / "control"), "LD_PRELOAD": str(shim)})
    done = subprocess.run(
        words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {lines[-1:]}:\n{done.stderr}"
    return Told.of(iter(lines))


def describe(result: dict[str, Any]) -> str:
    return f"{result['cell']} ends with {result['code']}: {result['problems']}\n{result['stderr']}"


@pytest.mark.timeout(PATIENCE + 10)
@pytest.mark.parametrize(("role", "operation"), runs())
def test_each_disk_error_ends_right_or_clearly_and_loses_nothing(
    role: str, operation: str, shim: Path, tmp_path: Path
) -> None:
    told = run(role, operation, shim, tmp_path)
    made = {call for calls in told.calls.values() for call, _ in calls}
    assert made <= CALLS[role], f"the matrix does not know that {role} calls {made - CALLS[role]}"
    wrong = [one for one in told.results if one["problems"]]
    told_of = "\n".join(map(describe, wrong))
    assert not wrong, f"{len(wrong)} of {len(told.results)} cells are wrong:\n{told_of}"
    assert sum(one["hits"] > 0 for one in told.results) > 0.8 * len(told.results), "most faults came too late"


def test_each_known_call_has_errors() -> None:
    assert {call for calls in CALLS.values() for call in calls} <= ERRNOS.keys()


_OPENING = """
import errno, os, pathlib, sys
from tests.support.faults.control import SHORT, Control
control, folder = Control(), pathlib.Path(sys.argv[1])
with control.failing(folder, "create", "v#.part", errno.EDQUOT, times=1, skip=1):
    outcomes = []
    for name in ("v1.part", "v2.part", "v3.part", "w1.part"):
        try:
            (folder / name).write_bytes(b"12")
            outcomes.append("done")
        except OSError as error:
            outcomes.append(errno.errorcode[error.errno])
assert outcomes == ["done", "EDQUOT", "done", "done"] and control.hits == 1, outcomes
with control.failing(folder, "write", "*", SHORT, times=1):
    descriptor = os.open(folder / "x", os.O_WRONLY | os.O_CREAT)
    assert os.write(descriptor, b"1234") == 2
with control.recording(folder) as calls:
    os.rename(folder / "v1.part", folder / "0123456789abcdef")
    (folder.parent / "elsewhere").write_bytes(b"")
assert calls == {("rename", "v#.part>@"): 1}, calls
"""


def test_shim_fails_the_armed_call_only(shim: Path, tmp_path: Path) -> None:
    make_file(tmp_path / "control")
    (tmp_path / "folder").mkdir()
    env = processes.environment(**{VARIABLE: str(tmp_path / "control"), "LD_PRELOAD": str(shim)})
    subprocess.run([sys.executable, "-c", _OPENING, str(tmp_path / "folder")], cwd=ROOT, env=env, check=True)
