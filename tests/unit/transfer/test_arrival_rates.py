"""Rates of what arrives, over the last seconds."""

from __future__ import annotations

import pytest

from shardcast.transfer.arrival_rates import ArrivalRates


def test_rate_is_that_of_the_last_seconds() -> None:
    rates = ArrivalRates()
    assert rates.of("a") == 0
    for tick in range(101):
        received = {"a": 1000 * tick, "b": 300 * min(tick, 50)} | ({"c": 70 * tick} if tick > 90 else {})
        rates.observe(tick / 10, received)
        if tick == 50:
            assert rates.of("b") == pytest.approx(3000)
    assert rates.of("a") == pytest.approx(10_000)
    assert rates.of("b") == 0
    assert rates.of("c") == pytest.approx(70 * 100 / 2), "all of it came in these two seconds"
    assert rates.of("d") == 0


def test_memory_of_rates_is_bounded() -> None:
    rates = ArrivalRates()
    for tick in range(10_000):
        rates.observe(tick / 10, {"a": tick})
    assert len(rates._looks) < 30
    rates.observe(5000.0, {"a": 10_000})
    rates.observe(6000.0, {"a": 10_000})
    assert rates.of("a") == 0
