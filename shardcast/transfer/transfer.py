"""A version from its servers into a Filling: policy carried out, everything verified."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from shardcast import constants
from shardcast.errors import (
    IntegrityError,
    NoServerReachable,
    PeerError,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TransferFailed,
    WrongBytes,
)
from shardcast.manifest import Manifest
from shardcast.peer.checking import Order
from shardcast.peer.peer import Peer
from shardcast.policy.choosing import Candidate, choose
from shardcast.policy.ranking import Ranking
from shardcast.policy.stealing import Range, steal
from shardcast.sharding import Survey
from shardcast.store.landing import Landing
from shardcast.store.shelf import Filling
from shardcast.transfer.whole import hash_whole

_TICK = 0.25
"""Seconds between two looks at what the servers do."""
_SETTLED = 0.5
"""Seconds after which an answer's rate says something."""
_LONGEST_PAUSE = 8.0
"""Seconds between two attempts at a shard."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, how long, how often.

    Attributes:
        attempts: failed answers to one shard after which the transfer gives up.
        at_once: requests under way, over all servers.
        timeout: seconds without a piece after which an answer is given up.
        stall: seconds without a byte after which it is when another server can serve.
        look_ahead: shards open beyond the last one hashed.
        unreachable_at_start: seconds that no server may be reachable before the first byte.
        unreachable_once_begun: the same after it.
    """

    attempts: int = constants.RETRY_ATTEMPTS
    at_once: int = constants.MAX_CONCURRENT_DOWNLOADS
    timeout: float = constants.HTTP_TIMEOUT
    stall: float = constants.STALL_WHEN_OTHERS_CAN
    look_ahead: int = constants.LOOK_AHEAD
    unreachable_at_start: float = constants.UNREACHABLE_AT_START
    unreachable_once_begun: float = constants.UNREACHABLE_ONCE_BEGUN


@dataclass(frozen=True, slots=True)
class ServerProgress:
    """What one server does in a transfer.

    Attributes:
        rate: bytes a second.
        under_way: answers that it is sending.
        received: bytes that it sent.
        failures: in a row.
    """

    rate: float
    under_way: int
    received: int
    failures: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer has come.

    Attributes:
        size: bytes of the payload.
        done: bytes that are here.
        shards: how many there are.
        shards_done: those that are whole.
        servers: what each server does.
    """

    size: int
    done: int
    shards: int
    shards_done: int
    servers: dict[str, ServerProgress]


@dataclass
class _Arriving:
    """A shard under way."""

    landing: Landing
    failures: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    wrong: WrongBytes | None = None
    shelving: bool = False
    shelved: bool = False
    hashed: bool = False


@dataclass
class _Claim:
    """A range of a shard that one worker sees to; another may take its second half over."""

    key: int
    arriving: _Arriving
    start: int
    end: int
    peer: Peer | None = None
    order: Order | None = None
    since: float = 0.0
    answer: asyncio.Future[None] | None = None
    stalled: str = ""
    taken_over: bool = False
    # What the watch saw last: bytes received then, when any came, when a piece's worth had come.
    seen: int = 0
    byte_at: float = 0.0
    piece_at: float = 0.0
    piece_seen: int = 0

    def left(self) -> tuple[int, int] | None:
        """The first range in it that is not there."""
        for start, end in self.arriving.landing.missing():
            if start < self.end and end > self.start:
                return max(start, self.start), min(end, self.end)
        return None


class Transfer:
    """One version on its way here.

    Every shard is asked for whole, from the server that is best for it; what is missing after a failure is
    asked from another; when nothing is left to start, idle connections take over the second half of the
    slowest range. ``survey`` has the manifest made of what arrives, where old nodes have none.
    """

    def __init__(
        self,
        manifest: Manifest,
        peers: Sequence[Peer],
        filling: Filling,
        digits: int = 3,
        survey: bool = False,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.manifest = manifest
        self._peers = {peer.url: peer for peer in peers}
        self._filling = filling
        self._digits = digits
        self._survey = survey
        self._limits = limits or Limits()
        self._clock = clock
        self._random = random or Random()
        self._sleep = sleep
        self._ranking = Ranking(self._peers)
        self._received = dict.fromkeys(self._peers, 0)
        self._keys = count()
        self._unreachable_since: float | None = None
        self._begun = False
        self._arriving: dict[int, _Arriving] = {}
        self._todo: list[_Claim] = []
        self._running: dict[int, _Claim] = {}
        self._done_bytes = 0
        self._done_shards = 0
        self._hashed = 0
        self._opened_all = False
        self._news = asyncio.Event()

    @property
    def progress(self) -> Progress:
        """How far it has come, now."""
        under_way = self._under_way()
        return Progress(
            size=self.manifest.size,
            done=self._done_bytes + sum(one.landing.landed for one in self._arriving.values()),
            shards=len(self.manifest.shards),
            shards_done=self._done_shards + sum(one.landing.whole for one in self._arriving.values()),
            servers={
                url: ServerProgress(
                    score.throughput or 0.0, under_way.get(url, 0), self._received[url], score.failures
                )
                for url, score in self._ranking.scores.items()
            },
        )

    async def run(self) -> Manifest:
        """Fetch, verify and complete the version; returns its manifest.

        Raises:
            NoServerReachable: none could be reached for too long.
            TransferFailed: the servers answered, but not with a shard.
            IntegrityError: what they sent is not what its digest says, as often as it was worth asking.
            LocalDiskError: this machine's disk failed.
        """
        manifest = self.manifest
        algorithms = {"sha256", *manifest.digests} if self._survey else self._whole_digest()
        survey = Survey(algorithms, manifest.header.piece_size if self._survey else None)
        await self._fetch(survey)
        digests = survey.digests()
        wrong = {name: digests[name] for name in digests if digests[name] != manifest.digests.get(name)}
        if wrong.keys() & manifest.digests.keys():
            raise IntegrityError(
                f"{manifest.version} from {', '.join(self._peers)} is not what its digest says: expected "
                f"{_in_words(manifest.digests)}, got {_in_words(wrong)}; nothing was kept under a final "
                "name; name other servers, or broadcast it again"
            )
        if self._survey:
            manifest = survey.manifest(manifest.version)
        await self._filling.complete(manifest)
        return manifest

    def _whole_digest(self) -> set[str]:
        return {"sha256"} if "sha256" in self.manifest.digests else set(self.manifest.digests)

    # The parts that run at once

    async def _fetch(self, survey: Survey) -> None:
        numbers = [shard.number for shard in self.manifest.shards]
        try:
            await _together(
                self._open_ahead(),
                hash_whole(numbers, self._landing, self._was_hashed, survey),
                *(self._work() for _ in range(self._limits.at_once)),
                beside=self._watch(),
            )
        finally:
            for arriving in self._arriving.values():
                arriving.landing.close()

    async def _open_ahead(self) -> None:
        """Make room for shards, as far ahead of the whole digest as it may be."""
        for shard in self.manifest.shards:
            while shard.number > self._hashed + self._limits.look_ahead:
                await self._change()
            arriving = _Arriving(await self._filling.landing(shard))
            self._arriving[shard.number] = arriving
            for start, end in arriving.landing.missing():
                self._todo.append(_Claim(next(self._keys), arriving, start, end))
            self._tell()
            if arriving.landing.whole:
                await self._shelve(arriving)
        self._opened_all = True
        self._tell()

    async def _landing(self, number: int) -> Landing:
        while number not in self._arriving:
            await self._change()
        return self._arriving[number].landing

    def _was_hashed(self, number: int) -> None:
        self._hashed = number
        self._arriving[number].hashed = True
        self._let_go(number)

    async def _shelve(self, arriving: _Arriving) -> None:
        arriving.shelving = True
        await self._filling.shelve(arriving.landing)
        arriving.shelved = True
        self._let_go(arriving.landing.shard.number)

    def _let_go(self, number: int) -> None:
        """A shard that is shelved and hashed needs no more looking after."""
        arriving = self._arriving[number]
        if arriving.shelved and arriving.hashed:
            arriving.landing.close()
            del self._arriving[number]
            self._done_bytes += arriving.landing.shard.size
            self._done_shards += 1
        self._tell()

    async def _work(self) -> None:
        """See to one claim after the other until nothing is left."""
        while not (self._opened_all and all(one.landing.whole for one in self._arriving.values())):
            claim = self._todo.pop(0) if self._todo else self._steal()
            if claim is None:
                await self._change()
                continue
            await self._see_to(claim)
            if claim.arriving.landing.whole and not claim.arriving.shelving:
                await self._shelve(claim.arriving)

    async def _watch(self) -> None:
        """Measure the servers, leave those that stall, and wake who waits."""
        before, at = dict(self._received), self._clock()
        while True:
            await self._sleep(_TICK)
            now = self._clock()
            for claim in self._running.values():
                self._look_at(claim, now)
            for url, received in self._received.items():
                busy = any(one.peer and one.peer.url == url for one in self._running.values())
                if busy and received > before[url]:
                    self._ranking.observed(url, (received - before[url]) / max(now - at, 1e-6))
            before, at = dict(self._received), now
            self._tell()

    def _look_at(self, claim: _Claim, now: float) -> None:
        order = claim.order
        if order is None or claim.peer is None or claim.answer is None:
            return
        if order.received > claim.seen:
            self._received[claim.peer.url] += order.received - claim.seen
            claim.seen, claim.byte_at = order.received, now
            self._unreachable_since, self._begun = None, True
        if order.landing:  # that this machine's disk is slow is not the server's fault
            claim.byte_at = claim.piece_at = now
        if order.received - claim.piece_seen >= self.manifest.header.piece_size:
            claim.piece_seen, claim.piece_at = order.received, now
        silent, slow = now - claim.byte_at, now - claim.piece_at
        queued = claim.peer.serial and not order.received
        if slow >= self._limits.timeout or silent >= self._limits.timeout:
            claim.stalled = f"no piece within {self._limits.timeout:g} s"
        elif silent >= self._limits.stall and not queued and self._another_can(claim, now):
            claim.stalled = f"nothing came for {self._limits.stall:g} s, and another server can serve"
        if claim.stalled:
            claim.answer.cancel()

    def _another_can(self, claim: _Claim, now: float) -> bool:
        failures = claim.arriving.failures
        assert claim.peer
        here = failures.get(claim.peer.url, 0)
        return any(
            not self._ranking.rests(url, now) and failures.get(url, 0) <= here and self._begun
            for url in self._peers
            if url != claim.peer.url
        )

    # One claim

    async def _see_to(self, claim: _Claim) -> None:
        """Ask for a range until it is there."""
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
                        await self._ask(claim, *left)
        except PeerError as error:
            raise self._failure(claim, error) from error

    async def _ask(self, claim: _Claim, start: int, end: int) -> None:
        peer = await self._free_peer(claim.arriving)
        now = self._clock()
        claim.peer, claim.order, claim.taken_over = peer, Order(start, end), False
        claim.seen = claim.piece_seen = 0
        claim.since = claim.byte_at = claim.piece_at = now
        claim.answer = asyncio.ensure_future(
            peer.receive(self.manifest.version, claim.arriving.landing, claim.order, self._digits)
        )
        self._running[claim.key] = claim
        try:
            await self._answered(claim, claim.answer, peer)
        except PeerError as error:
            self._score_failure(claim, peer, error)
            raise
        finally:
            del self._running[claim.key]
            self._received[peer.url] += claim.order.received - claim.seen
            claim.answer = claim.order = None
            self._tell()
        self._unreachable_since, self._begun = None, True
        self._ranking.succeeded(peer.url)
        if self._ranking.scores[peer.url].throughput is None:
            seconds = max(self._clock() - claim.since, 1e-3)
            self._ranking.observed(
                peer.url, (end - start) / seconds * (self._under_way().get(peer.url, 0) + 1)
            )

    async def _answered(self, claim: _Claim, answer: asyncio.Future[None], peer: Peer) -> None:
        try:
            await asyncio.wait([answer])
        finally:
            if not answer.done():
                answer.cancel()
                await asyncio.wait([answer])
        stalled, claim.stalled = claim.stalled, ""
        if not answer.cancelled():
            answer.result()
        elif not claim.taken_over:
            where = f"{self.manifest.version} shard {claim.arriving.landing.shard.number}"
            raise ServerStalled(peer.url, f"{where}: {stalled}")

    async def _free_peer(self, arriving: _Arriving) -> Peer:
        while True:
            url = self._choose(arriving)
            if url is not None:
                return self._peers[url]
            await self._change()

    def _choose(self, arriving: _Arriving) -> str | None:
        under_way, now = self._under_way(), self._clock()
        return choose(
            (
                Candidate(
                    url,
                    self._ranking.weight(url),
                    under_way.get(url, 0),
                    self._peers[url].limit,
                    arriving.failures.get(url, 0),
                    self._ranking.rests(url, now),
                )
                for url in self._peers
            ),
            self._random,
        )

    def _under_way(self) -> dict[str, int]:
        busy: dict[str, int] = {}
        for claim in self._running.values():
            if claim.peer:
                busy[claim.peer.url] = busy.get(claim.peer.url, 0) + 1
        return busy

    def _score_failure(self, claim: _Claim, peer: Peer, error: PeerError) -> None:
        arriving, now = claim.arriving, self._clock()
        arriving.failures[peer.url] = arriving.failures.get(peer.url, 0) + 1
        if isinstance(error, WrongBytes):
            arriving.wrong = error
        if isinstance(error, ServerUnreachable):
            self._unreachable_since = now if self._unreachable_since is None else self._unreachable_since
        else:
            self._unreachable_since = None
            # That one server lacks it says nothing while there are others that were not asked.
            if not isinstance(error, ServerLacks) or len(arriving.failures) >= len(self._peers):
                arriving.attempts += 1
        if not isinstance(error, ServerLacks):
            self._ranking.failed(peer.url, now)

    def _given_up(self, claim: _Claim, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ServerUnreachable):
            limits = self._limits
            budget = limits.unreachable_once_begun if self._begun else limits.unreachable_at_start
            since = self._unreachable_since
            tried = all(url in claim.arriving.failures for url in self._peers)
            return tried and since is not None and self._clock() - since >= budget
        return claim.arriving.attempts >= self._limits.attempts

    def _pause(self, claim: _Claim, state: RetryCallState) -> float:
        """No pause before asking a server that has not failed at this shard, else longer and longer."""
        now, failures = self._clock(), claim.arriving.failures
        if any(url not in failures and not self._ranking.rests(url, now) for url in self._peers):
            return 0.0
        longest = min(_LONGEST_PAUSE, 0.25 * 2.0**state.attempt_number)
        return longest * self._random.uniform(0.5, 1.0)

    def _failure(self, claim: _Claim, error: PeerError) -> ShardcastError:
        shard = claim.arriving.landing.shard
        where = f"{self.manifest.version} shard {shard.number} of {len(self.manifest.shards)}"
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

    def _steal(self) -> _Claim | None:
        """A part of the slowest range under way, as a claim of its own."""
        now = self._clock()
        ranges = []
        for claim in self._running.values():
            age = now - claim.since
            # An answer that has not begun says nothing of its server: it may wait its turn there.
            if claim.order and claim.order.received and age >= _SETTLED and self._may_lose(claim):
                position = claim.order.start + claim.order.received
                ranges.append(
                    Range(claim.key, position, min(claim.end, claim.order.end), claim.order.received / age)
                )
        if not ranges:
            return None
        slowest = max(ranges, key=lambda one: one.seconds_left)
        victim = self._running[slowest.key]
        url = self._choose(victim.arriving)
        assert victim.peer and victim.order
        if url is None or (url == victim.peer.url and victim.peer.serial):
            return None  # it would only wait at the same door
        throughput = self._ranking.scores[url].throughput
        rate_here = throughput / (self._under_way().get(url, 0) + 1) if throughput else None
        elsewhere = url != victim.peer.url
        stolen = steal([slowest], self.manifest.header.piece_size, rate_here, elsewhere)
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
        return _Claim(next(self._keys), victim.arriving, start, end)

    def _may_lose(self, claim: _Claim) -> bool:
        """As long as shards wait for the look-ahead, only the one that keeps it from moving on matters."""
        return self._opened_all or claim.arriving.landing.shard.number == self._hashed + 1

    # Waking each other

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _change(self) -> None:
        await self._news.wait()


def _in_words(digests: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {digest}" for name, digest in digests.items())


async def _together(*parts: Coroutine[Any, Any, None], beside: Coroutine[Any, Any, None]) -> None:
    """Run all parts at once, and one more ``beside`` them for as long as they run; the first error ends
    the others and is raised."""
    pending = {asyncio.ensure_future(part) for part in parts}
    tasks = {asyncio.ensure_future(beside), *pending}
    try:
        while pending:
            done, _ = await asyncio.wait(
                {task for task in tasks if not task.done()}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            pending -= done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
