"""What is learnt of servers: throughput × success."""

from __future__ import annotations

import pytest

from shardcast.policy.selection import ALPHA, FIRST_PAUSE, MAX_PAUSE, MIN_SUCCESS, Ranking, Score

FAST, SLOW, DEAD = "http://fast", "http://slow", "http://dead"


def known(**rates: float) -> Ranking:
    ranking = Ranking([FAST, SLOW, DEAD])
    for server, rate in {"http://" + name: rate for name, rate in rates.items()}.items():
        ranking.observed(server, rate)
    return ranking


def test_weight_is_throughput_times_success() -> None:
    ranking = known(fast=400.0, slow=100.0)
    assert (ranking.weight(FAST), ranking.weight(SLOW)) == (400.0, 100.0)
    ranking.failed(FAST, now=0.0)
    assert ranking.weight(FAST) == pytest.approx(400.0 * 0.7)


def test_throughput_is_moving_average_starting_at_first_sample() -> None:
    score = Score().observed(100.0)
    assert score.throughput == 100.0
    assert score.observed(200.0).throughput == pytest.approx(ALPHA * 200 + (1 - ALPHA) * 100)
    for _ in range(30):
        score = score.observed(200.0)
    assert score.throughput == pytest.approx(200.0, rel=0.01)


def test_failure_lowers_success_but_not_throughput() -> None:
    score = Score().observed(100.0).failed(now=0.0)
    assert (score.throughput, score.success, score.failures) == (100.0, pytest.approx(0.7), 1)
    assert score.succeeded().success == pytest.approx(0.3 + 0.7 * 0.7)
    assert score.succeeded().throughput == 100.0


def test_unknown_server_is_weighted_as_the_best() -> None:
    ranking = known(fast=400.0)
    assert ranking.weight(SLOW) == ranking.weight(FAST)
    assert known().weight(SLOW) > 0


def test_update_raises_success_of_other_servers_slightly() -> None:
    ranking = known(fast=400.0, slow=100.0, dead=400.0)
    ranking.failed(DEAD, now=0.0)
    after_failure = ranking.scores[DEAD].success
    ranking.succeeded(FAST)
    ranking.failed(SLOW, now=0.0)
    assert after_failure < ranking.scores[DEAD].success < after_failure + 0.05
    assert ranking.scores[SLOW].success == pytest.approx(0.7)
    for _ in range(200):
        ranking.succeeded(FAST)
    assert ranking.scores[DEAD].success == 1.0
    assert ranking.weight(DEAD) == 400.0


def test_failed_server_gets_one_request_until_it_succeeds() -> None:
    ranking = known(fast=400.0, dead=400.0)
    ranking.failed(DEAD, now=0.0)
    assert (ranking.limit(DEAD, 10), ranking.limit(FAST, 10)) == (1, 10)
    ranking.succeeded(DEAD)
    assert ranking.limit(DEAD, 10) == 10


def test_success_has_a_lower_bound() -> None:
    score = Score().observed(100.0)
    for _ in range(50):
        score = score.failed(now=0.0)
    assert score.success == MIN_SUCCESS


def test_backoff_doubles_with_each_failure_up_to_a_bound() -> None:
    ranking, now, rests = known(), 100.0, []
    for _ in range(12):
        ranking.failed(DEAD, now)
        until = ranking.scores[DEAD].backing_off_until
        assert ranking.backing_off(DEAD, now) and not ranking.backing_off(DEAD, until)
        rests.append(until - now)
        now = until
    assert rests[:4] == [1.0, 2.0, 4.0, 8.0]
    assert rests[-1] == max(rests) == MAX_PAUSE
    assert not ranking.backing_off(FAST, now)


def test_one_success_ends_backoff() -> None:
    ranking = known()
    for _ in range(5):
        ranking.failed(DEAD, now=0.0)
    ranking.succeeded(DEAD)
    assert not ranking.backing_off(DEAD, now=0.0)
    ranking.failed(DEAD, now=10.0)
    assert ranking.scores[DEAD].backing_off_until == 11.0


def test_backoff_stays_bounded_over_the_longest_transfer() -> None:
    ranking = known()
    now = 0.0
    for _ in range(5000):
        now = ranking.scores[DEAD].backing_off_until
        ranking.failed(DEAD, now)
    assert ranking.scores[DEAD].backing_off_until == now + MAX_PAUSE


def test_simultaneous_failures_count_once() -> None:
    ranking = known()
    for _ in range(8):
        ranking.failed(DEAD, now=0.0)
    assert ranking.scores[DEAD].backing_off_until == FIRST_PAUSE
