"""The servers of one transfer: their answers under way, their scores, and the choice for the next request."""

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
    """The servers of one transfer and their unfinished requests.

    Attributes:
        peers: the servers, by URL.
        ranking: their scores.
        width: present maximum of simultaneous answers.
        received: bytes received from each, by URL.
        rates: their rates, including bytes received otherwise than in answers to requests for ranges.
        running: the unfinished requests.
        denied: the servers that refuse this node's token, by URL, with the refusal; they get no more
            requests.
    """

    def __init__(
        self, peers: Sequence[Peer], max_width: int, clock: Callable[[], float], random: Random
    ) -> None:
        """Begin with unknown servers; ``max_width``: maximum of simultaneous answers."""
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
        """The URLs of the servers without a refusal."""
        return [url for url in self.peers if url not in self.denied]

    @property
    def all_denied(self) -> AccessDenied | None:
        """The refusals of all servers in one error; None while there is a server without one."""
        return None if self.usable else AccessDenied.among(self.denied.values())

    @property
    def progress(self) -> dict[str, ServerProgress]:
        """The present activity of each server, by URL."""
        under_way = self.under_way()
        return {
            url: ServerProgress(self.rates.of(url), under_way.get(url, 0), self.received[url], score.failures)
            for url, score in self.ranking.scores.items()
        }

    def join(self, peer: Peer) -> bool:
        """Ask another server from now on; return False for a known one."""
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
        """Return the best server for a request of a shard now, except those ``excluded``.

        None if all others have their maximum of requests.
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
        """Return a server's maximum of simultaneous requests.

        After a failure a server is on probation, if there are others.
        """
        limit = self.peers[url].max_requests
        return self.ranking.limit(url, limit) if len(self.usable) > 1 else limit

    def has_alternative(self, active: ActiveRequest) -> bool:
        """Return whether another server with no more failures at the shard could take a request over."""
        failures, now = active.task.download.failures, self._clock()
        own_failures = failures.get(active.peer.url, 0)
        return any(
            not self.ranking.backing_off(url, now) and failures.get(url, 0) <= own_failures
            for url in self.usable
            if url != active.peer.url
        )

    def has_untried(self, download: ShardDownload) -> bool:
        """Return whether a server neither backing off nor with a failure at a shard is left."""
        now = self._clock()
        return any(
            url not in download.failures and not self.ranking.backing_off(url, now) for url in self.usable
        )

    def asked_all(self, download: ShardDownload) -> bool:
        """Return whether every server without a refusal has failed at a shard."""
        return all(url in download.failures for url in self.usable)
