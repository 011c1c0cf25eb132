"""When a client's snapshots are more than usual."""

from __future__ import annotations

import pytest

from shardcast.backup.server.unusual import DAY, unusual_count

NOW = 100 * DAY


@pytest.mark.parametrize(
    ("today", "before", "unusual"),
    [(0, 0, False), (1, 0, False), (24, 1, False), (25, 1, True), (60, 24, False), (73, 24, True)],
)
def test_day_with_many_more_snapshots_than_any_before_is_unusual(
    today: int, before: int, unusual: bool
) -> None:
    arrivals = [NOW - 1] * today + [NOW - 5 * DAY] * before
    words = unusual_count(arrivals, NOW)
    assert (words is not None) is unusual
    if words:
        assert f"{today} snapshots" in words and f"at most {before} a day" in words


def test_times_from_a_wrong_clock_count_as_today_or_long_ago() -> None:
    assert unusual_count([NOW + 50 * DAY] * 25, NOW)
    assert unusual_count([0.0] * 25, NOW) is None
