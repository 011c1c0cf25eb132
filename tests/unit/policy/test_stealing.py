"""What an idle connection takes over, and that everything then ends at nearly the same time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.policy.stealing import FEWEST_PIECES, HOPELESS_WAIT, SHORTEST_WAIT, Range, steal
from tests.support.payloads import patient

PIECE = 1000
RANGES = st.lists(
    st.builds(
        lambda position, left, rate: (position, position + left, rate),
        st.integers(0, 10**6),
        st.integers(0, 10**7),
        st.floats(0, 1e8),
    ),
    max_size=5,
).map(lambda found: [Range(key, *one) for key, one in enumerate(found)])


def test_slowest_range_is_halved_when_thief_rate_is_unknown() -> None:
    ranges = [
        Range(1, 0, 100_000, 50_000.0),
        Range(2, 0, 100_000, 10_000.0),
        Range(3, 50_000, 60_000, 5_000.0),
    ]
    assert steal(ranges, PIECE, None) == (2, 50_000)


@pytest.mark.parametrize(("rate", "start"), [(10_000.0, 50_000), (30_000.0, 25_000), (2_500.0, 80_000)])
def test_range_is_split_for_both_servers_to_end_together(rate: float, start: int) -> None:
    assert steal([Range(1, 0, 100_000, 10_000.0)], PIECE, rate) == (1, start)


def test_thief_too_slow_for_a_piece_steals_nothing() -> None:
    assert steal([Range(1, 0, 100_000, 100_000.0)], PIECE, 500.0) is None
    assert steal([Range(1, 0, 100_000, 100_000.0)], PIECE, 0.0) is None


def test_range_about_to_end_is_not_stolen() -> None:
    assert steal([], PIECE, None) is None
    assert steal([Range(1, 0, 29_000, 100_000.0)], PIECE, None) is None
    assert steal([Range(1, 0, 31_000, 100_000.0)], PIECE, None) is not None


def test_few_pieces_are_stolen_only_from_hopelessly_slow_server() -> None:
    few = (FEWEST_PIECES - 1) * PIECE
    assert steal([Range(1, 500, 500 + few, few / 1.9)], PIECE, None) is None
    assert steal([Range(1, 500, 500 + few, few / 2.1)], PIECE, None) == (1, 0)  # the piece begun, too
    assert steal([Range(1, 500, 500 + few, few / 2.1)], PIECE, few / 1.5) is None  # hardly better
    assert steal([Range(1, 500, 500 + few, 0.0)], PIECE, few / 1.5) == (1, 0)


def test_two_servers_without_any_rate_get_half_each() -> None:
    assert steal([Range(1, 0, 100 * PIECE, 0.0)], PIECE, 0.0, elsewhere=False) == (1, 50 * PIECE)


def test_last_piece_is_not_stolen_without_another_server() -> None:
    assert steal([Range(1, 0, PIECE, 0.0)], PIECE, None, elsewhere=False) is None
    assert steal([Range(1, 0, 100 * PIECE, 0.0)], PIECE, None, elsewhere=False) == (1, 50 * PIECE)


@patient
@given(RANGES, st.integers(1024, 1 << 20), st.one_of(st.none(), st.floats(0, 1e8)), st.booleans())
def test_stolen_part_is_piece_aligned_end_of_a_slow_range(
    ranges: list[Range], piece_size: int, rate: float | None, elsewhere: bool
) -> None:
    taken = steal(ranges, piece_size, rate, elsewhere)
    if taken is None:
        return
    key, start = taken
    victim = ranges[key]
    assert victim.seconds_left >= SHORTEST_WAIT
    assert start % piece_size == 0
    assert victim.position // piece_size * piece_size <= start < victim.end
    if start <= victim.position:
        assert elsewhere and victim.seconds_left >= HOPELESS_WAIT and victim.left < FEWEST_PIECES * piece_size
    slower = [one for one in ranges if one.seconds_left > victim.seconds_left]
    assert all(one.left < FEWEST_PIECES * piece_size for one in slower)


class Transfer:
    """Servers, each sending one range at its rate; one that is idle takes over what the policy gives it."""

    STEP = 0.05

    def __init__(self, rates: list[float], parts: list[int], known: bool) -> None:
        self.rates, self.known = rates, known
        self.ranges: dict[int, tuple[float, int]] = {}  # by server: position and end
        self.ended = [0.0] * len(rates)
        self.taken_over = 0
        start = 0
        for server, size in enumerate(parts):
            self.ranges[server] = (start, start + size)
            start += size

    def run(self) -> None:
        now = 0.0
        while self.ranges:
            now += self.STEP
            for server, (position, end) in list(self.ranges.items()):
                position += self.rates[server] * self.STEP
                self.ranges[server] = position, end
                if position >= end:
                    del self.ranges[server]
                    self.ended[server] = now
            for server in set(range(len(self.rates))) - set(self.ranges):
                self._steal(server)

    def _steal(self, thief: int) -> None:
        ranges = [
            Range(key, int(position), end, self.rates[key]) for key, (position, end) in self.ranges.items()
        ]
        stolen = steal(ranges, PIECE, self.rates[thief] if self.known else None)
        if stolen is None:
            return
        victim, start = stolen
        position, end = self.ranges.pop(victim)
        if start > position:
            self.ranges[victim] = position, start
        self.ranges[thief] = float(start), end
        self.taken_over += 1


@pytest.mark.parametrize("known", [True, False], ids=["rates known", "rates not known"])
@pytest.mark.parametrize("parts", [[510, 510, 510], [1200, 300, 30], [10, 20, 1500], [1530, 0, 0]], ids=str)
def test_transfer_does_not_wait_for_its_slowest_server(parts: list[int], known: bool) -> None:
    transfer = Transfer([400.0 * PIECE, 100.0 * PIECE, 10.0 * PIECE], [part * PIECE for part in parts], known)
    transfer.run()
    best = sum(parts) / 510
    assert max(transfer.ended) <= best * 1.1 + SHORTEST_WAIT + 2 * transfer.STEP
    assert max(transfer.ended) - min(transfer.ended) <= 2 * SHORTEST_WAIT
    assert transfer.taken_over <= 60
