"""Dates in tables: any time that a file can have is printed."""

from __future__ import annotations

import time

import pytest

from shardcast.cli.times import shown_time


def test_time_is_a_local_date() -> None:
    then = time.mktime((2026, 11, 29, 10, 5, 7, 0, 0, -1))
    assert shown_time(then) == "2026-11-29 10:05"
    assert shown_time(then, with_seconds=True) == "2026-11-29 10:05:07"


@pytest.mark.parametrize("seconds", [1e17, -1e17, 1e300])
def test_time_beyond_any_calendar_is_a_number(seconds: float) -> None:
    assert shown_time(seconds) == str(int(seconds))
