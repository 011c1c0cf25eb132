"""The pauses between attempts."""

from __future__ import annotations

from random import Random

from shardcast.policy.backoff import Backoff


def test_pause_doubles_up_to_its_bound() -> None:
    backoff = Backoff(0.2, 10.0)
    assert [backoff.pause(failures) for failures in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_pause_after_any_number_of_failures_is_bounded() -> None:
    assert Backoff(0.2, 10.0).pause(100_000) == 10.0


def test_bound_below_the_first_pause_holds() -> None:
    assert Backoff(0.2, 0.1).pause(0) == 0.1


def test_spread_pause_is_half_to_all_of_the_pause() -> None:
    random, backoff = Random(1), Backoff(1.0, 8.0)
    parts = [backoff.spread(2, random) / 4.0 for _ in range(1000)]
    assert 0.5 <= min(parts) < 0.51
    assert 0.99 < max(parts) <= 1.0
