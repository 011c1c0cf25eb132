"""Where pieces are verified and written, by how long the last ones held up the event loop."""

from __future__ import annotations

import pytest

from shardcast.policy.landing_place import (
    MAX_SECONDS,
    MAX_SHARE,
    THREADS_SECONDS,
    WINDOW_SECONDS,
    LandingPlace,
)


def test_pieces_of_a_slow_link_stay_on_the_loop() -> None:
    place = LandingPlace()
    for number in range(1000):
        now = number / 45
        assert place.is_loop(now)
        place.took(now, now + 0.004)


def test_one_piece_that_holds_up_the_loop_sends_the_next_ones_to_threads() -> None:
    place = LandingPlace()
    place.took(5.0, 5.001 + MAX_SECONDS)
    assert not place.is_loop(5.001 + MAX_SECONDS)
    assert not place.is_loop(5.0 + MAX_SECONDS + THREADS_SECONDS - 0.1)


def test_many_pieces_that_take_too_much_of_the_loop_go_to_threads() -> None:
    place, now = LandingPlace(), 0.0
    while place.is_loop(now):
        place.took(now, now + 0.01)
        now += 0.02
    assert now == pytest.approx(MAX_SHARE * WINDOW_SECONDS * 2, abs=0.03)


def test_loop_is_tried_again_after_a_while() -> None:
    place = LandingPlace()
    place.took(0.0, 1.0)
    assert place.is_loop(1.0 + THREADS_SECONDS)
    place.took(1.0 + THREADS_SECONDS, 1.0 + THREADS_SECONDS + 0.001)
    assert place.is_loop(1.1 + THREADS_SECONDS)
