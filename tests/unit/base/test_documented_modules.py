"""The index of modules in docs/design.md lists the modules that there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_index_of_modules_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "modules", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
