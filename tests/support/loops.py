"""Event loops on which nodes run: asyncio's, and uvloop's, on which the client command runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

on_each_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
"""Runs a test, which is no coroutine, once for each loop."""


def run_on(loop: str, work: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
    """Run work on a new loop; skip the test where that loop is not installed."""
    if loop == "uvloop" and not find_spec("uvloop"):
        work.close()
        pytest.skip("uvloop is not installed")
    factory = import_module("uvloop").new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(work, seconds))
