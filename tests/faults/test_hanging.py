"""A test that hangs fails by its name, and the others run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import asyncio

async def test_that_hangs():
    await asyncio.Event().wait()

def test_after_it():
    pass
"""


def test_hanging_test_fails_by_name_under_xdist(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    shutil.copy(tests / "conftest.py", tmp_path)
    shutil.copy(tests.parent / "pyproject.toml", tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    words = ["-q", "-n", "1", "--timeout", "0.5", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED test_it.py::test_that_hangs - Failed: Timeout" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "await asyncio.Event().wait()" in done.stdout, "no stack"
