"""What docs/from-0.1.md says of modules, names and the shell is so."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import shardcast
from shardcast import constants

PAGE = (Path(__file__).parents[3] / "docs" / "from-0.1.md").read_text()


def test_modules_that_are_gone_are_gone() -> None:
    found = re.search(r"the modules (.+) are gone", PAGE)
    assert found is not None
    names = re.findall(r"`(\w+)`", found[1])
    assert len(names) == 5
    assert [name for name in names if importlib.util.find_spec(f"shardcast.{name}")] == []


def test_names_that_stay_are_there_and_others_are_not() -> None:
    found = re.search(r"^- (`initialize`[^.]+?),\s+their parameters", PAGE, re.MULTILINE)
    assert found is not None
    assert all(hasattr(shardcast, name) for name in re.findall(r"`(\w+)`", found[1]))
    assert not [name for name in ("FAST_RETRY_ATTEMPTS", "SLOW_RETRY_INTERVAL") if hasattr(constants, name)]


def test_errors_are_those_of_the_page() -> None:
    assert issubclass(shardcast.NoServerReachable, shardcast.ShardcastError)
    assert issubclass(shardcast.NotInitialized, RuntimeError)


def test_bash_exports_no_array() -> None:
    line = re.search(r"export IP_ADDR_LIST=\([^)]*\)", PAGE)
    assert line is not None
    done = subprocess.run(
        ["bash", "-c", f"{line[0]}; env"], capture_output=True, text=True, env={}, check=True
    )
    assert "192.168" not in done.stdout
