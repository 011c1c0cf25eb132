from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.errors import UsageError
from shardcast.policy.byte_limit import CREDIT, MAX_DEBT, MIN_RATE, Address, FairShares, Rates, Schedule

RATES = st.integers(MIN_RATE, 10**10)


class Readers:
    """Readers that always ask, each at an address, in a time of its own.

    Attributes:
        sent: bytes by reader.
        events: time and bytes of each portion that went.
    """

    def __init__(self, rates: Rates, addresses: Sequence[int]) -> None:
        self.shares = FairShares(rates, 0.0)
        self.readers = [self.shares.open(key, 0.0) for key in addresses]
        self.sent: Counter[int] = Counter()
        self.events: list[tuple[float, int]] = []
        self._order = itertools.count()
        self._waiting = [(0.0, next(self._order), index, 0, 0) for index in range(len(addresses))]

    def run(self, until: float, portions: int = 3000) -> float:
        """Let them send until a time, or so many portions went; return the time."""
        while portions:
            now, _, index, stage, count = self._waiting[0]
            if now > until:
                return until
            heapq.heappop(self._waiting)
            address: Address = self.readers[index]
            schedules = [address.schedule, None] if address.schedule else [None]
            if stage == len(schedules):
                self.sent[index] += count
                self.events.append((now, count))
                stage, portions = 0, portions - 1
            if stage == 0:
                count = self.shares.portion(address)
            wait = self.shares.reserve(schedules[stage], count, now)
            heapq.heappush(self._waiting, (now + wait, next(self._order), index, stage + 1, count))
        return now


@settings(deadline=None, max_examples=40)
@given(RATES, st.integers(1, 40), st.floats(0.5, 20))
def test_readers_together_get_the_rate(rate: int, count: int, seconds: float) -> None:
    readers = Readers(Rates(total=rate), range(count))
    ended = readers.run(seconds)
    sent = sum(readers.sent.values())
    portion = readers.shares.portion(readers.readers[0])
    assert sent <= rate * (ended + CREDIT) + portion
    assert sent >= rate * ended - (count + 1) * portion


@settings(deadline=None, max_examples=40)
@given(RATES, st.integers(2, 40))
def test_readers_that_always_ask_get_equal_shares(rate: int, count: int) -> None:
    readers = Readers(Rates(total=rate), range(count))
    readers.run(20.0)
    portion = readers.shares.portion(readers.readers[0])
    assert max(readers.sent.values()) - min(readers.sent.values()) <= 2 * portion
    assert len(readers.sent) == count


@settings(deadline=None, max_examples=40)
@given(RATES, st.integers(1, 8), st.integers(1, 8))
def test_addresses_get_equal_shares_whatever_their_connections(rate: int, one: int, other: int) -> None:
    readers = Readers(Rates(total=10 * rate), [0] * one + [1] * other)
    readers.run(5.0, 5000)
    first = sum(readers.sent[index] for index in range(one))
    second = sum(readers.sent[index] for index in range(one, one + other))
    smallest = readers.shares.portion(readers.readers[0 if one > other else -1])
    if smallest > max(10 * rate / 2000, 4096):  # else portions are as small as they get
        most = sum(readers.shares.portion(reader) for reader in readers.readers)
        assert abs(first - second) <= 2 * most


@settings(deadline=None, max_examples=40)
@given(RATES, RATES, st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_no_address_gets_more_than_its_limit(total: int, each: int, keys: list[int]) -> None:
    readers = Readers(Rates(total, each), keys)
    ended = readers.run(10.0)
    portions = {key: readers.shares.portion(readers.readers[keys.index(key)]) for key in keys}
    for key in set(keys):
        sent = sum(readers.sent[index] for index, at in enumerate(keys) if at == key)
        assert sent <= each * (ended + CREDIT) + portions[key] * keys.count(key)


def test_share_that_another_address_may_not_use_goes_to_the_rest() -> None:
    readers = Readers(Rates(total=1_000_000, per_address=700_000), [0, 1])
    readers.run(5.0)
    assert sum(readers.sent.values()) == pytest.approx(5_000_000, rel=0.03)
    only = Readers(Rates(total=1_000_000, per_address=700_000), [0])
    only.run(5.0)
    assert only.sent[0] == pytest.approx(3_500_000, rel=0.03)


@settings(deadline=None, max_examples=40)
@given(RATES, st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_schedule_makes_up_for_a_moment_of_a_pause_at_most(rate: int, pauses: list[float]) -> None:
    schedule, now, sent = Schedule(rate, 0.0), 0.0, 0
    size = max(1, rate // 100)
    for pause in pauses:
        now += pause
        before = now
        for _ in range(50):
            now += schedule.reserve(size, now)
            sent += size
        assert 50 * size <= rate * (now - before + CREDIT) + size + 1
    assert sent <= rate * (now + CREDIT) + size + 1


@settings(deadline=None, max_examples=40)
@given(RATES, st.lists(st.integers(1, 10**12), min_size=1, max_size=20))
def test_urgent_bytes_delay_others_by_a_bound(rate: int, counts: list[int]) -> None:
    schedule = Schedule(rate, 0.0)
    for count in counts:
        schedule.count(count, 0.0)
    assert schedule.seconds_ahead(0.0) <= MAX_DEBT
    assert schedule.seconds_ahead(0.0) >= min(MAX_DEBT, sum(counts) / rate - CREDIT) - 1e-9


def test_urgent_bytes_count() -> None:
    schedule = Schedule(1000, 0.0)
    schedule.count(600, 0.0)
    assert schedule.reserve(1, 0.0) == pytest.approx(0.6, abs=CREDIT)


def test_unused_rest_of_a_slot_is_given_back() -> None:
    shares = FairShares(Rates(100_000, 100_000), 0.0)
    reader = shares.open("a", 0.0)
    shares.reserve(reader.schedule, 100_000, 0.0)
    shares.reserve(None, 100_000, 0.0)
    shares.close(reader, 99_000, 0.0)
    other = shares.open("a", 0.0)
    assert shares.reserve(other.schedule, 1, 0.0) + shares.reserve(None, 1, 0.0) < 0.03


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_memory_of_addresses_is_bounded(keys: list[int]) -> None:
    shares, now = FairShares(Rates(per_address=10**6), 0.0), 0.0
    for start in keys:
        for key in range(start, start + 200):
            shares.count(key, 1000, now)
            now += 0.001
    assert shares.remembered <= 1024 + 1


def test_address_that_has_to_wait_is_not_forgotten_for_others() -> None:
    shares = FairShares(Rates(per_address=10**5), 0.0)
    shares.count("greedy", 3 * 10**5, 0.0)
    for key in range(3000):
        shares.count(key, 1, 0.5)
    reader = shares.open("greedy", 0.5)
    assert shares.reserve(reader.schedule, 1, 0.5) == pytest.approx(2.5, abs=CREDIT)


@settings(deadline=None, max_examples=40)
@given(RATES, st.integers(1, 30))
def test_as_many_readers_as_get_a_piece_in_time_are_taken(rate: int, at_each: int) -> None:
    shares, piece, seconds = FairShares(Rates(total=rate), 0.0), 262_144, 20.0
    for opened in range(at_each):
        if shares.is_full("a", piece, seconds):
            assert opened >= 1
            assert (opened + 1) * piece / seconds > rate
            break
        shares.open("a", 0.0)
    else:
        assert at_each == 1 or at_each * piece / seconds <= rate


def test_full_address_leaves_room_for_others() -> None:
    shares = FairShares(Rates(per_address=MIN_RATE), 0.0)
    while not shares.is_full("a", 262_144, 20.0):
        shares.open("a", 0.0)
    assert not shares.is_full("b", 262_144, 20.0)


def test_readers_of_no_address_have_no_limit_of_theirs() -> None:
    shares = FairShares(Rates(per_address=MIN_RATE), 0.0)
    proxy = shares.open("proxy", 0.0, counted=False)
    assert proxy.schedule is None
    assert shares.reserve(None, 10**9, 0.0) == 0
    assert shares.reserve(None, 10**9, 0.0) == 0


@pytest.mark.parametrize("rates", [Rates(MIN_RATE - 1), Rates(None, 1)])
def test_limit_too_low_for_a_piece_in_time_is_refused(rates: Rates) -> None:
    with pytest.raises(UsageError, match="choose 32768"):
        FairShares(rates, 0.0)
