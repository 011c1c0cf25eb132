"""The servers of one transfer: what each is sending, how good it is, and which takes the next request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random

from shardcast.errors import AccessDenied
from shardcast.peer.server import Peer
from shardcast.policy.selection import Ranking, ServerCandidate, choose_server
from shardcast.policy.width import ConcurrencyLimit
from shardcast.transfer.arrival_rates import ArrivalRates
from shardcast.transfer.limits import ServerProgress
from shardcast.transfer.ranges import ActiveRequest, RangeTask, ShardDownload


class Servers:
    """The servers of one transfer and the requests that they are answering.

    Attributes:
        peers: the servers, by URL.
        ranking: their scores.
        width: how many answers may be under way now.
        received: bytes that each has sent, by URL.
        rates: how fast they come, also of what comes by another way than answers to requests for ranges.
        running: the requests under way.
        denied: the servers that refuse this node's token, by URL, and how; they are asked no more.
    """

    def __init__(
        self, peers: Sequence[Peer], max_width: int, clock: Callable[[], float], random: Random
    ) -> None:
        """Begin with servers of which nothing is known; ``max_width``: answers at once, at the most."""
        self.peers = {peer.url: peer for peer in peers}
        self.ranking = Ranking(self.peers)
        self.width = ConcurrencyLimit(len(peers), max_width)
        self.received = dict.fromkeys(self.peers, 0)
        self.rates = ArrivalRates()
        self.running: dict[RangeTask, ActiveRequest] = {}
        self.denied: dict[str, AccessDenied] = {}
        self._clock = clock
        self._random = random

    @property
    def names(self) -> str:
        """The servers' URLs, for messages."""
        return ", ".join(self.peers)

    @property
    def usable(self) -> list[str]:
        """The URLs of the servers that don't refuse this node."""
        return [url for url in self.peers if url not in self.denied]

    @property
    def all_denied(self) -> AccessDenied | None:
        """The refusals of all servers in one error; None while there is a server that doesn't refuse."""
        return None if self.usable else AccessDenied.among(self.denied.values())

    @property
    def progress(self) -> dict[str, ServerProgress]:
        """What each server does now, by URL."""
        under_way = self.under_way()
        return {
            url: ServerProgress(self.rates.of(url), under_way.get(url, 0), self.received[url], score.failures)
            for url, score in self.ranking.scores.items()
        }

    def join(self, peer: Peer) -> bool:
        """Ask another server from now on; return False for one that is asked already."""
        if peer.url in self.peers:
            return False
        self.peers[peer.url] = peer
        self.ranking.add_server(peer.url)
        self.received[peer.url] = 0
        self.width.add_server()
        return True

    def under_way(self) -> dict[str, int]:
        """Return how many answers each busy server is sending, by URL."""
        busy: dict[str, int] = {}
        for active in self.running.values():
            busy[active.peer.url] = busy.get(active.peer.url, 0) + 1
        return busy

    def choose(self, download: ShardDownload, excluded: Collection[str] = ()) -> str | None:
        """Return the best server for a request of a shard now, but for those ``excluded``.

        None when each has as many requests as it can take.
        """
        under_way, now = self.under_way(), self._clock()
        return choose_server(
            (
                ServerCandidate(
                    url,
                    self.ranking.weight(url),
                    under_way.get(url, 0),
                    self._limit(url),
                    download.failures.get(url, 0),
                    self.ranking.backing_off(url, now),
                )
                for url in self.usable
                if url not in excluded
            ),
            self._random,
        )

    def _limit(self, url: str) -> int:
        """Return how many requests a server may have at once.

        After a failure it is on probation, where there are others.
        """
        limit = self.peers[url].max_requests
        return self.ranking.limit(url, limit) if len(self.usable) > 1 else limit

    def has_alternative(self, active: ActiveRequest) -> bool:
        """Return whether a server that failed no more often at the shard could take a request over."""
        failures, now = active.task.download.failures, self._clock()
        own_failures = failures.get(active.peer.url, 0)
        return any(
            not self.ranking.backing_off(url, now) and failures.get(url, 0) <= own_failures
            for url in self.usable
            if url != active.peer.url
        )

    def has_untried(self, download: ShardDownload) -> bool:
        """Return whether a server that is not backing off has yet to fail at a shard."""
        now = self._clock()
        return any(
            url not in download.failures and not self.ranking.backing_off(url, now) for url in self.usable
        )

    def asked_all(self, download: ShardDownload) -> bool:
        """Return whether every server that doesn't refuse this node has failed at a shard."""
        return all(url in download.failures for url in self.usable)
