"""The time that a thread has computed, or waited for a processor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from shardcast.nodes import processor_time
from shardcast.nodes.processor_time import busy_seconds


def compute(seconds: float) -> None:
    """Compute for so much time of a processor."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_computing_counts_as_busy() -> None:
    before = busy_seconds()
    compute(0.05)
    assert busy_seconds() - before >= 0.04


def test_system_without_schedstat_tells_the_time_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor_time, "_SCHEDULED", tmp_path / "none")
    before = busy_seconds()
    compute(0.02)
    assert busy_seconds() - before >= 0.02
