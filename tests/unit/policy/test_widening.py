"""How many answers at once: more only where more brings more."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from shardcast.policy.width import FIRST_PAUSE, MAX_PAUSE, MIN_LIMIT, STEP, ConcurrencyLimit

TICK = 0.1


def watched(
    width: ConcurrencyLimit, rate: Callable[[int], float], seconds: float, start: float = 0.0
) -> list[int]:
    """The widths over so many seconds of answers whose rate together depends on their number."""
    now, received, seen = start, 1.0 + 1e9 * start, []
    while now < start + seconds:
        now += TICK
        received += rate(width.value) * TICK
        width.observe(now, int(received), width.value)
        seen.append(width.value)
    return seen


def test_link_filled_by_few_requests_keeps_few() -> None:
    seen = watched(ConcurrencyLimit(1, 10), lambda _: 25e6, 60.0)
    assert seen[0] == MIN_LIMIT
    assert seen.count(MIN_LIMIT) > 0.9 * len(seen)  # now and then it tries whether that is still so


def test_concurrency_soon_reaches_maximum_when_each_request_adds_rate() -> None:
    seen = watched(ConcurrencyLimit(1, 10), lambda width: 1e6 * width, 6.0)
    assert seen[-1] == 10
    assert seen.index(10) * TICK < 4.0


def test_concurrency_stops_growing_when_rate_hardly_grows() -> None:
    seen = watched(ConcurrencyLimit(1, 40), lambda width: 1e6 * min(width, 8), 20.0)
    assert 8 <= max(seen[-5:]) <= 12


def test_failed_trials_are_repeated_at_growing_intervals() -> None:
    seen = watched(ConcurrencyLimit(1, 10), lambda _: 25e6, 300.0)
    tried = [at * TICK for at in range(1, len(seen)) if seen[at] > seen[at - 1]]
    pauses = [round(later - sooner) for sooner, later in pairwise(tried)]
    assert pauses[0] >= FIRST_PAUSE
    assert pauses == sorted(pauses)


def test_pause_between_trials_is_bounded() -> None:
    seen = watched(ConcurrencyLimit(1, 10), lambda _: 25e6, 600.0)
    tried = [at * TICK for at in range(1, len(seen)) if seen[at] > seen[at - 1]]
    assert max(later - sooner for sooner, later in pairwise(tried)) < MAX_PAUSE + 3


def test_time_before_first_byte_does_not_count_towards_rate() -> None:
    """Counted in, it would make few answers look slow, and every trial a success."""
    width, seen = ConcurrencyLimit(1, 10), []
    for tick in range(100):
        received = max(0, tick - 4) * TICK * 25e6  # the first bytes come after 0.4 s
        width.observe(tick * TICK, int(received), width.value)
        seen.append(width.value)
    assert max(seen) == int(MIN_LIMIT * STEP + 0.5), "a trial that brought nothing was kept"


def test_joining_server_adds_two_answers() -> None:
    width = ConcurrencyLimit(1, 10)
    for _ in range(3):
        width.add_server()
    assert width.value == 8


def test_each_server_gets_two_answers_up_to_the_maximum() -> None:
    assert ConcurrencyLimit(4, 10).value == 8
    assert ConcurrencyLimit(9, 10).value == 10
    assert ConcurrencyLimit(1, 1).value == 1
    assert max(watched(ConcurrencyLimit(1, 1), lambda width: 1e6 * width, 10.0)) == 1


def test_unused_concurrency_does_not_change_the_limit() -> None:
    width = ConcurrencyLimit(1, 10)
    for tick in range(100):
        width.observe(tick * TICK, tick * 1000, width.value - 1)
        assert width.value == MIN_LIMIT
