"""Who gets the next request: alone, and over time in a small simulated network."""

from __future__ import annotations

from collections import Counter
from random import Random

from shardcast.policy.selection import Ranking, ServerCandidate, choose_server

RATES = {"http://a": 400.0, "http://b": 100.0, "http://c": 10.0}
A, B, C = RATES


def chosen(*candidates: ServerCandidate) -> set[str | None]:
    return {choose_server(candidates, Random(seed)) for seed in range(30)}


def test_best_server_gets_the_request() -> None:
    assert chosen(ServerCandidate(A, 400), ServerCandidate(B, 100)) == {A}
    assert chosen(ServerCandidate(A, 400, under_way=4), ServerCandidate(B, 100)) == {B}


def test_equal_servers_are_chosen_at_random() -> None:
    assert chosen(ServerCandidate(A, 100), ServerCandidate(B, 100), ServerCandidate(C, 10)) == {A, B}


def test_server_at_its_limit_is_not_chosen() -> None:
    assert chosen(ServerCandidate(A, 400, under_way=2, limit=2), ServerCandidate(B, 1)) == {B}
    assert chosen(ServerCandidate(A, 400, under_way=2, limit=2)) == {None}
    assert chosen() == {None}


def test_server_with_fewest_failures_for_the_shard_is_chosen() -> None:
    assert chosen(ServerCandidate(A, 400, failures=1), ServerCandidate(B, 1, under_way=9)) == {B}
    assert chosen(
        ServerCandidate(A, 400, failures=2), ServerCandidate(B, 1, failures=1, backing_off=True)
    ) == {B}
    assert chosen(ServerCandidate(A, 400, failures=1), ServerCandidate(B, 1, under_way=1, limit=1)) == {A}


def test_backing_off_server_is_chosen_only_without_alternative() -> None:
    assert chosen(ServerCandidate(A, 400, backing_off=True), ServerCandidate(B, 1)) == {B}
    assert chosen(ServerCandidate(A, 400, backing_off=True)) == {A}
    assert chosen(ServerCandidate(A, 400, backing_off=True), ServerCandidate(B, 1, backing_off=True)) == {A}


def test_server_with_zero_weight_can_be_chosen() -> None:
    assert chosen(ServerCandidate(A, 0.0)) == {A}


def test_requests_are_spread_in_proportion_to_the_weights() -> None:
    under_way: Counter[str] = Counter()
    for _ in range(510):
        server = choose_server(
            [ServerCandidate(one, rate, under_way[one]) for one, rate in RATES.items()], Random(0)
        )
        under_way[str(server)] += 1
    assert all(abs(under_way[server] - rate) <= 1 for server, rate in RATES.items())


class Network:
    """Servers that send what they can, shared by the requests under way there, and a transfer that asks
    them as the policy says. A request is for 5 bytes; a server that is down fails at once."""

    STEP, REQUEST = 0.05, 5.0

    def __init__(self, at_once: int) -> None:
        self.now = 0.0
        self.down: set[str] = set()
        self.ranking = Ranking(RATES)
        self.random = Random(1)
        self.at_once = at_once
        self.under_way: list[tuple[str, float]] = []  # the server, and bytes still to come
        self.sent: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Go on for so long, and count what happens meanwhile."""
        self.sent.clear()
        self.asked.clear()
        for step in range(round(seconds / self.STEP)):
            while len(self.under_way) < self.at_once:
                self._ask()
            self._send()
            if step % 5 == 4:
                self._measure()

    def _busy(self) -> Counter[str]:
        return Counter(server for server, _ in self.under_way)

    def _ask(self) -> None:
        busy = self._busy()
        server = choose_server(
            [
                ServerCandidate(
                    one,
                    self.ranking.weight(one),
                    busy[one],
                    limit=self.ranking.limit(one, 100),
                    backing_off=self.ranking.backing_off(one, self.now),
                )
                for one in RATES
            ],
            self.random,
        )
        assert server
        self.asked[server] += 1
        self.under_way.append((server, self.REQUEST))

    def _send(self) -> None:
        busy, before = self._busy(), self.under_way
        self.now += self.STEP
        self.under_way = []
        for server, left in before:
            portion = min(left, RATES[server] * self.STEP / busy[server])
            if server in self.down:
                self.ranking.failed(server, self.now)
                continue
            self.sent[server] += portion
            if portion < left:
                self.under_way.append((server, left - portion))
            else:
                self.ranking.succeeded(server)

    def _measure(self) -> None:
        for server in self._busy():
            self.ranking.observed(server, RATES[server])


def test_servers_with_different_rates_are_all_kept_busy() -> None:
    network = Network(at_once=51)
    network.run(10)
    network.run(30)
    assert {server: round(sent / 30 / RATES[server], 1) for server, sent in network.sent.items()} == {
        A: 1,
        B: 1,
        C: 1,
    }
    busy = network._busy()
    assert abs(busy[A] - 40) <= 4 and abs(busy[B] - 10) <= 3 and 1 <= busy[C] <= 3


def test_few_concurrent_requests_are_sent_to_fastest_servers() -> None:
    network = Network(at_once=10)
    network.run(10)
    network.run(30)
    assert network.sent.total() >= 0.9 * 30 * (RATES[A] + RATES[B])


def test_failing_server_is_asked_less_until_it_recovers() -> None:
    network = Network(at_once=10)
    network.run(10)
    network.down = {A}
    network.run(1)  # what was under way there breaks off
    network.run(20)
    assert network.asked[A] <= 10 < network.asked[B]
    assert network.sent[B] >= 0.9 * 20 * RATES[B]
    network.down = set()
    network.run(100)  # long enough for the longest rest
    network.run(10)
    assert network.sent[A] >= 0.9 * 10 * RATES[A]
