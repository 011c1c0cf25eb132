"""Every file-system call that we make, failing with every error that real systems give.

The outcome of each cell (operation × call × errno) is right, or a clear error with the right exit code and
nothing lost; and when the fault has gone, all works again. ``make test`` runs a fixed sample, ``make soak``
all cells (``SHARDCAST_SOAK_CELLS=all``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.faults.building import NoShim, build
from tests.support.faults.control import VARIABLE, make_file
from tests.support.faults.errnos import CALLS, ERRNOS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that has calls fail; skipped, with the reason, where it can't be built."""
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except NoShim as why:
        pytest.skip(str(why))


def test_each_known_call_has_errors() -> None:
    assert {call for calls in CALLS.values() for call in calls} <= ERRNOS.keys()


_OPENING = """
import errno, os, pathlib, sys
from tests.support.faults.control import SHORT, Control
control, folder = Control(), pathlib.Path(sys.argv[1])
with control.failing(folder, "create", "v#.part", errno.EDQUOT, 1, skip=1):
    outcomes = []
    for name in ("v1.part", "v2.part", "v3.part", "w1.part"):
        try:
            (folder / name).write_bytes(b"12")
            outcomes.append("done")
        except OSError as error:
            outcomes.append(errno.errorcode[error.errno])
assert outcomes == ["done", "EDQUOT", "done", "done"] and control.hits == 1, outcomes
with control.failing(folder, "write", "*", SHORT, 1):
    descriptor = os.open(folder / "x", os.O_WRONLY | os.O_CREAT)
    assert os.write(descriptor, b"1234") == 2
with control.recording(folder) as calls:
    os.rename(folder / "v1.part", folder / "0123456789abcdef")
    (folder.parent / "elsewhere").write_bytes(b"")
assert calls == {("rename", "v#.part>@")}, calls
"""


def test_shim_fails_the_armed_call_only(shim: Path, tmp_path: Path) -> None:
    make_file(tmp_path / "control")
    (tmp_path / "folder").mkdir()
    env = processes.environment(**{VARIABLE: str(tmp_path / "control"), "LD_PRELOAD": str(shim)})
    subprocess.run([sys.executable, "-c", _OPENING, str(tmp_path / "folder")], cwd=ROOT, env=env, check=True)
