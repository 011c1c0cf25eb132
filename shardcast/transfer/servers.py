"""The servers of one transfer: who is asked for what, how they do, when one is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import count
from random import Random

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from shardcast.concurrency import Notifier, cancel
from shardcast.errors import (
    CannotAsk,
    IntegrityError,
    LocalLimit,
    NoServerReachable,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TransferFailed,
    WrongBytes,
)
from shardcast.peer.requests import RangeRequest
from shardcast.peer.server import Peer
from shardcast.policy.backoff import Backoff
from shardcast.policy.selection import Ranking, ServerCandidate, choose
from shardcast.policy.stealing import Range, steal
from shardcast.policy.width import ConcurrencyLimit
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.limits import Limits, ServerProgress
from shardcast.transfer.ranges import RangeTask, ShardDownload
from shardcast.waits import Wait

log = logging.getLogger(__name__)

_TICK = 0.1
"""Seconds between two looks at what the servers do."""
_SETTLED = 0.2
"""Seconds after which an answer's rate says something."""
_BUSY_PAUSE = 0.2
"""Seconds until a server is asked again for a shard that had not begun to arrive there."""
_BACKOFF = Backoff(first=0.5, longest=8.0)
"""Pauses between two attempts at a shard."""


class Servers:
    """Sees to claims: chooses a server for each, asks, scores what it does, and turns to another."""

    def __init__(
        self,
        manifest: LiveManifest,
        peers: Sequence[Peer],
        digits: int,
        limits: Limits,
        notifier: Notifier,
        clock: Callable[[], float],
        random: Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._manifest = manifest
        self._version = manifest.version
        self._piece_size = manifest.header.piece_size
        self._peers = {peer.url: peer for peer in peers}
        self._digits = digits
        self._limits = limits
        self._notifier = notifier
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._ranking = Ranking(self._peers)
        self._received = dict.fromkeys(self._peers, 0)
        self._width = ConcurrencyLimit(len(peers), limits.answers_for(manifest.header.piece_size))
        self._seen_to = 0
        self._keys = count()
        self._running: dict[int, RangeTask] = {}
        self._unreachable_since: float | None = None
        self._begun = False
        self._progress_at = self._asked_since = clock()
        self._last_failure: PeerError | None = None

    @property
    def names(self) -> str:
        """The servers' URLs, for messages."""
        return ", ".join(self._peers)

    @property
    def progress(self) -> dict[str, ServerProgress]:
        """What each server does, now."""
        under_way = self._under_way()
        return {
            url: ServerProgress(
                score.throughput or 0.0, under_way.get(url, 0), self._received[url], score.failures
            )
            for url, score in self._ranking.scores.items()
        }

    @property
    def wait(self) -> Wait | None:
        """What is waited for while ranges are asked for and no byte comes."""
        if not self._seen_to or any(one.order and one.order.landing for one in self._running.values()):
            return None
        seconds = self._clock() - max(self._progress_at, self._asked_since)
        if self._unreachable_since is not None and self._last_failure is not None:
            return Wait(seconds, f"{self._version}: {self._last_failure}")
        asked = {claim.peer.url: None for claim in self._running.values() if claim.peer}
        return Wait(seconds, f"bytes of {self._version} from {', '.join(asked) or self.names}")

    @property
    def full(self) -> bool:
        """Whether as many claims are seen to as should be at once."""
        return self._seen_to >= self._width.value

    def join(self, peer: Peer) -> None:
        """Ask one more server from now on."""
        if peer.url not in self._peers:
            self._peers[peer.url] = peer
            self._ranking.joined(peer.url)
            self._received[peer.url] = 0
            self._width.joined()
            self._notifier.notify()

    def claim(self, arriving: ShardDownload, start: int, end: int) -> RangeTask:
        """A range of a shard to be seen to."""
        return RangeTask(next(self._keys), arriving, start, end)

    async def watch(self) -> None:
        """Measure the servers, leave those that stall, and wake who waits."""
        before, at = dict(self._received), self._clock()
        while True:
            await self._sleep(_TICK)
            now = self._clock()
            for claim in self._running.values():
                self._look_at(claim, now)
            for url, received in list(self._received.items()):
                busy = any(one.peer and one.peer.url == url for one in self._running.values())
                if busy and received > before.get(url, 0):
                    self._ranking.observed(url, (received - before.get(url, 0)) / max(now - at, 1e-6))
            before, at = dict(self._received), now
            self._width.observed(now, sum(self._received.values()), len(self._running))
            self._notifier.notify()

    def _look_at(self, claim: RangeTask, now: float) -> None:
        order = claim.order
        if order is None or claim.peer is None or claim.answer is None:
            return
        if order.received > claim.seen:
            self._received[claim.peer.url] += order.received - claim.seen
            claim.seen, claim.byte_at = order.received, now
            self._unreachable_since, self._begun, self._progress_at = None, True, now
        if order.landing:  # that this machine's disk is slow is not the server's fault
            claim.byte_at = claim.piece_at = now
        if order.received - claim.piece_seen >= self._piece_size:
            claim.piece_seen, claim.piece_at = order.received, now
        silent, slow = now - claim.byte_at, now - claim.piece_at
        queued = claim.peer.serial and not order.received
        if slow >= self._limits.timeout:  # and so where no byte comes
            claim.stalled = f"no piece within {self._limits.timeout:g} s"
        elif silent >= self._limits.stall and not queued and self._another_can(claim, now):
            claim.stalled = f"nothing came for {self._limits.stall:g} s, and another server can serve"
        if claim.stalled:
            claim.answer.cancel()

    def _another_can(self, claim: RangeTask, now: float) -> bool:
        failures = claim.arriving.failures
        assert claim.peer
        here = failures.get(claim.peer.url, 0)
        known = self._begun or self._manifest.whole is not None  # of an open version there may be nothing yet
        return any(
            not self._ranking.rests(url, now) and failures.get(url, 0) <= here and known
            for url in self._peers
            if url != claim.peer.url
        )

    # One claim, until it is there

    async def see_to(self, claim: RangeTask) -> None:
        """Ask for a range until it is there."""
        self._asked_since = self._asked_since if self._seen_to else self._clock()
        self._seen_to += 1
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(PeerError),
                stop=lambda state: self._given_up(claim, state),
                wait=lambda state: self._pause(claim, state),
                sleep=self._sleep,
                reraise=True,
            ):
                with attempt:
                    while left := claim.left():
                        try:
                            await self._ask(claim, *left)
                        except (LocalLimit, CannotAsk) as error:
                            await self._with_less(error)
        except PeerError as error:
            raise self._failure(claim, error) from error
        finally:
            self._seen_to -= 1

    async def _with_less(self, limit: LocalLimit | CannotAsk) -> None:
        """Wait for an answer under way to end, and have fewer at once from now on.

        Raises:
            LocalLimit, CannotAsk: there is none, and so nothing to give way.
        """
        if not self._running:
            raise limit
        if len(self._running) < self._width.value:
            log.warning("requests at once from now on: %d at most; %s", len(self._running), limit)
            self._width.narrowed(len(self._running))
        await self._notifier.change()
        while len(self._running) >= self._width.value:
            await self._notifier.change()

    async def _ask(self, claim: RangeTask, start: int, end: int) -> None:
        peer = await self._free_peer(claim.arriving)
        now = self._clock()
        claim.peer, claim.order, claim.taken_over = peer, RangeRequest(start, end), False
        claim.seen = claim.piece_seen = 0
        claim.since = claim.byte_at = claim.piece_at = now
        claim.answer = asyncio.ensure_future(
            peer.receive(self._version, claim.arriving.landing, claim.order, self._digits)
        )
        self._running[claim.key] = claim
        try:
            await self._answered(claim, claim.answer, peer)
        except PeerError as error:
            left = claim.left()
            self._score_failure(claim, peer, error, left is None or left[0] > start)
            raise
        finally:
            del self._running[claim.key]
            if claim.order.received > claim.seen:
                self._progress_at = self._clock()
            self._received[peer.url] += claim.order.received - claim.seen
            claim.answer = claim.order = None
            self._notifier.notify()
        self._unreachable_since, self._begun = None, True
        self._ranking.succeeded(peer.url)
        if self._ranking.scores[peer.url].throughput is None:
            seconds = max(self._clock() - claim.since, 1e-3)
            self._ranking.observed(
                peer.url, (end - start) / seconds * (self._under_way().get(peer.url, 0) + 1)
            )

    async def _answered(self, claim: RangeTask, answer: asyncio.Future[None], peer: Peer) -> None:
        try:
            await asyncio.wait([answer])
        finally:
            if not answer.done():
                await cancel([answer])
            elif not answer.cancelled():
                answer.exception()  # raised below, or of no more interest when this is cancelled
        stalled, claim.stalled = claim.stalled, ""
        if not answer.cancelled():
            answer.result()
        elif not claim.taken_over:
            where = f"{self._version} shard {claim.arriving.landing.shard.number}"
            raise ServerStalled(peer.url, f"{where}: {stalled}")

    async def _free_peer(self, arriving: ShardDownload) -> Peer:
        while True:
            url = self._choose(arriving)
            if url is not None:
                return self._peers[url]
            await self._notifier.change()

    def _choose(self, arriving: ShardDownload, but: Collection[str] = ()) -> str | None:
        under_way, now = self._under_way(), self._clock()
        return choose(
            (
                ServerCandidate(
                    url,
                    self._ranking.weight(url),
                    under_way.get(url, 0),
                    self._limit(url),
                    arriving.failures.get(url, 0),
                    self._ranking.rests(url, now),
                )
                for url in self._peers
                if url not in but
            ),
            self._random,
        )

    def _limit(self, url: str) -> int:
        """A server that failed is on probation, where there are others."""
        limit = self._peers[url].limit
        return self._ranking.limit(url, limit) if len(self._peers) > 1 else limit

    def _under_way(self) -> dict[str, int]:
        busy: dict[str, int] = {}
        for claim in self._running.values():
            if claim.peer:
                busy[claim.peer.url] = busy.get(claim.peer.url, 0) + 1
        return busy

    def _score_failure(self, claim: RangeTask, peer: Peer, error: PeerError, brought: bool) -> None:
        """``brought``: whether the answer brought any pieces, and so was not in vain."""
        arriving, now = claim.arriving, self._clock()
        self._last_failure = error
        arriving.failures[peer.url] = arriving.failures.get(peer.url, 0) + 1
        if isinstance(error, WrongBytes):
            arriving.wrong = error
        if isinstance(error, ServerUnreachable):
            self._unreachable_since = now if self._unreachable_since is None else self._unreachable_since
        else:
            self._unreachable_since = None
            # That one server lacks it says nothing while there are others that were not asked.
            # And that it is asked too early says nothing as long as others are not. Of a version that is
            # being made, its manifest tells whether it was given up.
            made = self._manifest.whole is None and isinstance(error, ServerLacks)
            early = made or isinstance(error, ServerBusy)
            early = early and now - self._progress_at < self._limits.timeout
            vain = not brought or isinstance(error, WrongBytes)
            if (
                vain
                and not early
                and (not isinstance(error, ServerLacks) or len(arriving.failures) >= len(self._peers))
            ):
                arriving.attempts += 1
        if not isinstance(error, ServerLacks):
            self._ranking.failed(peer.url, now)

    def _given_up(self, claim: RangeTask, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ServerUnreachable):
            limits = self._limits
            budget = limits.unreachable_once_begun if self._begun else limits.unreachable_at_start
            since = self._unreachable_since
            tried = all(url in claim.arriving.failures for url in self._peers)
            return tried and since is not None and self._clock() - since >= budget
        return claim.arriving.attempts >= self._limits.attempts

    def _pause(self, claim: RangeTask, state: RetryCallState) -> float:
        """No pause before asking a server that has not failed at this shard, else longer and longer."""
        if state.outcome and isinstance(state.outcome.exception(), ServerBusy):
            return _BUSY_PAUSE  # it waited for the shard itself
        now, failures = self._clock(), claim.arriving.failures
        if any(url not in failures and not self._ranking.rests(url, now) for url in self._peers):
            return 0.0
        return _BACKOFF.spread(state.attempt_number - 1, self._random)

    def _failure(self, claim: RangeTask, error: PeerError) -> ShardcastError:
        shard = claim.arriving.landing.shard
        where = f"{self._version} shard {shard.number} of {len(self._manifest.shards)}"
        if isinstance(error, CannotAsk):
            return LocalLimit(error.what)
        if isinstance(error, ServerUnreachable):
            return NoServerReachable(
                f"{where}: no server could be reached any more ({error}); what is here is kept, so try again"
            )
        if claim.arriving.wrong:
            return IntegrityError(
                f"{where}: {claim.arriving.wrong}; after {claim.arriving.attempts} failed answers no server "
                "sent the right bytes; name other servers, or broadcast it again"
            )
        return TransferFailed(
            f"{where}: given up after {claim.arriving.attempts} failed answers, the last from {error}; "
            "what is here is kept, so try again, or name other servers"
        )

    def steal(self, may_lose: Callable[[ShardDownload], bool]) -> RangeTask | None:
        """A part of the slowest range under way, as a claim of its own; of those that ``may_lose`` it."""
        now = self._clock()
        ranges = []
        for claim in self._running.values():
            age = now - claim.since
            # An answer that has not begun says nothing of its server: it may wait its turn there.
            if claim.order and claim.order.received and age >= _SETTLED and may_lose(claim.arriving):
                position = claim.order.start + claim.order.received
                ranges.append(
                    Range(claim.key, position, min(claim.end, claim.order.end), claim.order.received / age)
                )
        if not ranges:
            return None
        slowest = max(ranges, key=lambda one: one.seconds_left)
        victim = self._running[slowest.key]
        assert victim.peer and victim.order
        # There it would only wait: at the same door, or for bytes that have yet to come there, out of order.
        # And who reads it along from here waits for what comes next, not for what comes after that.
        vain = victim.peer.serial or victim.order.passed_on or victim.arriving.landing.readers
        url = self._choose(victim.arriving, {victim.peer.url} if vain else set())
        if url is None:
            return None
        throughput = self._ranking.scores[url].throughput
        rate_here = throughput / (self._under_way().get(url, 0) + 1) if throughput else None
        elsewhere = url != victim.peer.url
        stolen = steal([slowest], self._piece_size, rate_here, elsewhere)
        if stolen is None:
            return None
        _, start = stolen
        end = min(victim.end, victim.order.end)
        if start >= end:
            return None
        victim.end = victim.order.end = start
        if start <= slowest.position and victim.answer:
            victim.taken_over = True
            victim.answer.cancel()
        return self.claim(victim.arriving, start, end)
