"""What programs are told of progress: plain values."""

from __future__ import annotations

import pytest

from shardcast import UsageError
from shardcast.progress import Progress, RecentRate, checked_progress

MB = 1_000_000


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = RecentRate()
    assert rate.observe(0.0, 5 * MB) is None  # of an earlier run
    for second in range(1, 11):
        rate.observe(float(second), 5 * MB + second * 100)
    assert rate.observe(11.0, 5 * MB + 1100) == pytest.approx(100)
    for second in range(12, 20):
        stopped = rate.observe(float(second), 5 * MB + 1100)
    assert stopped == 0
    assert rate.observe(20.0, 0) is None  # another work began


@pytest.mark.parametrize(
    ("done", "size", "rate", "left"),
    [
        (0, None, 5.0, None),
        (0, 10, 0.0, None),
        (2, 10, 4.0, 2.0),
        (10, 10, 0.0, 0.0),
        (0, 0, 0.0, 0.0),
        (12, 10, 1.0, 0.0),
    ],
)
def test_seconds_left_need_a_size_and_a_rate(
    done: int, size: int | None, rate: float, left: float | None
) -> None:
    assert Progress("v1", done, size, rate).seconds_left == left


def test_progress_is_a_function_a_bar_or_nothing() -> None:
    assert checked_progress(None) is checked_progress(False) is False
    assert checked_progress(True) is True
    assert checked_progress(print) is print
    with pytest.raises(UsageError, match="progress='bar' is no function"):
        checked_progress("bar")  # type: ignore[arg-type]
