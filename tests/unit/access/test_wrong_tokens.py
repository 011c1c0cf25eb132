"""How long answers to wrong tokens wait."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from shardcast.access.wrong_tokens import (
    FORGET_SECONDS,
    LONGEST_DELAY,
    MAX_ADDRESSES,
    MAX_WAITING,
    MAX_WAITING_OF_ADDRESS,
    WrongTokens,
    address_key,
)


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def delay(wrong: WrongTokens, host: str) -> float | None:
    with wrong.attempt(host) as slowing:
        return slowing.seconds


def test_each_further_wrong_token_of_an_address_waits_longer_up_to_a_bound() -> None:
    wrong = WrongTokens(Clock())
    delays = [delay(wrong, "10.0.0.1") for _ in range(40)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == max(filter(None, delays)) == LONGEST_DELAY
    assert delay(wrong, "10.0.0.2") == 0.1


def test_address_is_forgotten_when_it_was_silent() -> None:
    clock = Clock()
    wrong = WrongTokens(clock)
    for _ in range(9):
        delay(wrong, "10.0.0.1")
    clock.now = FORGET_SECONDS
    with wrong.attempt("10.0.0.1") as slowing:
        assert (slowing.seconds, slowing.first) == (0.1, True)
    with wrong.attempt("10.0.0.1") as slowing:
        assert (slowing.seconds, slowing.first) == (0.2, False)


def test_memory_is_bounded_whatever_addresses_come() -> None:
    wrong = WrongTokens(Clock())
    for number in range(MAX_ADDRESSES * 2):
        delay(wrong, f"10.0.{number >> 8}.{number & 255}")
    assert wrong.remembered == MAX_ADDRESSES


def test_waiting_answers_are_bounded_by_address_and_in_all() -> None:
    wrong = WrongTokens(Clock())
    with ExitStack() as stack:
        of_one = [stack.enter_context(wrong.attempt("10.0.0.1")) for _ in range(MAX_WAITING_OF_ADDRESS + 1)]
        assert [slowing.seconds is None for slowing in of_one] == [False] * MAX_WAITING_OF_ADDRESS + [True]
        others = [
            stack.enter_context(wrong.attempt(f"10.1.0.{number % 250}")) for number in range(MAX_WAITING)
        ]
        assert sum(slowing.seconds is not None for slowing in of_one + others) == MAX_WAITING
    assert delay(wrong, "10.2.0.1") is not None


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("", ""),
    ],
)
def test_machine_counts_as_one_address(host: str, key: str) -> None:
    assert address_key(host) == key
