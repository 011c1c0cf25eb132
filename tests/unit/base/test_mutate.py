"""The lists of faults beside the code that they change; `make mutate` tries them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MUTATE = Path(__file__).resolve().parents[3] / "scripts" / "mutate"


def test_every_fault_applies_once_and_names_tests() -> None:
    done = subprocess.run(
        [sys.executable, str(MUTATE), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
