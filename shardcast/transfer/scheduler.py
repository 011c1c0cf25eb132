"""Fetch ranges of shards: from the best server, again from another after a failure, split when idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from shardcast.concurrency import Notifier, cancel
from shardcast.errors import CannotAsk, LocalLimit, PeerError, ServerStalled
from shardcast.peer.requests import RangeRequest
from shardcast.peer.server import Peer
from shardcast.policy.stalls import AnswerProgress
from shardcast.policy.stealing import Range, steal
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.ranges import ActiveRequest, RangeTask, ShardDownload
from shardcast.transfer.retry_state import RetryState
from shardcast.transfer.servers import Servers
from shardcast.waits import Wait

log = logging.getLogger(__name__)

_SETTLED = 0.2
"""Seconds after which an answer's rate is meaningful."""


class Scheduler:
    """Carries out range tasks: chooses a server for each, asks, and turns to another after a failure."""

    def __init__(
        self,
        servers: Servers,
        retries: RetryState,
        manifest: LiveManifest,
        *,
        digits: int,
        notifier: Notifier,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Work on one version. ``digits``: digits of the numbers in its shards' names."""
        self._servers = servers
        self._retries = retries
        self._manifest = manifest
        self._version = manifest.version
        self._digits = digits
        self._notifier = notifier
        self._clock = clock
        self._sleep = sleep
        self._tasks = 0
        self._busy_since = clock()

    @property
    def full(self) -> bool:
        """Whether as many tasks are carried out as should be at once."""
        return self._tasks >= self._servers.width.value

    @property
    def wait(self) -> Wait | None:
        """The current wait, while ranges are asked for and no byte comes."""
        running = self._servers.running.values()
        if not self._tasks or any(active.request.writing for active in running):
            return None
        seconds = self._clock() - max(self._retries.progress_at, self._busy_since)
        if outage := self._retries.outage:
            return Wait(seconds, f"{self._version}: {outage}")
        asked = dict.fromkeys(active.peer.url for active in running)
        return Wait(seconds, f"bytes of {self._version} from {', '.join(asked) or self._servers.names}")

    async def fetch(self, task: RangeTask) -> None:
        """Request a range until it has landed, or another worker has taken it over.

        Raises:
            NoServerReachable, TransferFailed, IntegrityError, AccessDenied: as in ``RetryState.final_error``.
            LocalLimit: this machine cannot open even one connection.
            LocalDiskError: this machine's disk failed.
        """
        if not self._tasks:
            self._busy_since = self._clock()
        self._tasks += 1
        retries, download = self._retries, task.download
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(PeerError),
                stop=lambda state: retries.is_exhausted(download, _error(state)),
                wait=lambda state: retries.pause(download, _error(state), state.attempt_number - 1),
                sleep=self._sleep,
                reraise=True,
            ):
                with attempt:
                    while missing := task.missing():
                        try:
                            await self._ask(task, *missing)
                        except (LocalLimit, CannotAsk) as error:
                            await self._narrow(error)
        except PeerError as error:
            raise retries.final_error(download, error) from error
        finally:
            self._tasks -= 1

    async def _narrow(self, limit: LocalLimit | CannotAsk) -> None:
        """Wait for an answer under way to end, and have fewer at once from now on.

        Raises:
            LocalLimit, CannotAsk: no answer is under way, and so nothing can give way.
        """
        running, width = self._servers.running, self._servers.width
        if not running:
            raise limit
        if len(running) < width.value:
            log.warning("requests at once from now on: %d at most; %s", len(running), limit)
            width.cap(len(running))
        await self._notifier.change()
        while len(running) >= width.value:
            await self._notifier.change()

    async def _ask(self, task: RangeTask, start: int, end: int) -> None:
        """Ask the best server for bytes ``start`` to ``end`` of a shard, and score the answer.

        Raises:
            PeerError: the answer failed; pieces landed before are kept.
        """
        peer, servers = await self._free_peer(task.download), self._servers
        now, request = self._clock(), RangeRequest(start, end)
        answer = asyncio.ensure_future(
            peer.receive(self._version, task.download.landing, request, self._digits)
        )
        active = ActiveRequest(task, peer, request, answer, now, AnswerProgress(now, now))
        servers.running[task] = active
        try:
            await self._answered(active)
        except PeerError as error:
            missing = task.missing()
            useful = missing is None or missing[0] > start
            self._retries.failed(task.download, peer.url, error, useful=useful)
            raise
        finally:
            del servers.running[task]
            # Bytes since the last look of the stall monitor. The sum may fall: bytes received before the
            # answer was handed over to aiohttp come again.
            new = request.received - active.progress.received
            if new > 0:
                self._retries.progress_at = self._clock()
            servers.received[peer.url] += new
            self._notifier.notify()
        self._retries.answered()
        servers.ranking.succeeded(peer.url)
        if servers.ranking.scores[peer.url].throughput is None:
            seconds = max(self._clock() - now, 1e-3)
            busy = servers.under_way().get(peer.url, 0) + 1
            servers.ranking.observed(peer.url, (end - start) / seconds * busy)

    async def _answered(self, active: ActiveRequest) -> None:
        """Wait for the end of an answer.

        Raises:
            ServerStalled: the stall monitor cancelled the answer.
            PeerError, LocalDiskError: as ``Peer.receive``.
        """
        answer = active.answer
        try:
            await asyncio.wait([answer])
        finally:
            if not answer.done():
                await cancel([answer])
            elif not answer.cancelled():
                answer.exception()  # raised below, or of no more interest when this is cancelled
        if not answer.cancelled():
            answer.result()
        elif not active.taken_over:
            where = f"{self._version} shard {active.task.download.landing.shard.number}"
            raise ServerStalled(active.peer.url, f"{where}: {active.stalled}")

    async def _free_peer(self, download: ShardDownload) -> Peer:
        """Return the best server for a shard, once one can take a request.

        Raises:
            AccessDenied: every server refuses this node.
        """
        while True:
            if denied := self._servers.all_denied:
                raise denied
            url = self._servers.choose(download)
            if url is not None:
                return self._servers.peers[url]
            await self._notifier.change()

    def steal(self, may_lose: Callable[[ShardDownload], bool]) -> RangeTask | None:
        """Take over a part of the slowest range under way, as a separate task; None if not worth it.

        ``may_lose`` returns whether a shard's ranges may be split.
        """
        servers = self._servers
        slowest = self._slowest(may_lose)
        if slowest is None:
            return None
        victim, measured = slowest
        if victim.peer.is_limited_here:
            return None  # another request would wait for the same limit
        # Do not split onto the same server when it serializes requests, streams a landing, or when local
        # readers need the bytes in order.
        in_order = victim.peer.serial or victim.request.still_landing or victim.task.download.landing.readers
        url = servers.choose(victim.task.download, {victim.peer.url} if in_order else ())
        if url is None:
            return None
        throughput = servers.ranking.scores[url].throughput
        rate = throughput / (servers.under_way().get(url, 0) + 1) if throughput else None
        stolen = steal([measured], self._manifest.header.piece_size, rate, url != victim.peer.url)
        if stolen is None:
            return None
        _, start = stolen
        end = min(victim.task.end, victim.request.end)
        if start >= end:
            return None
        victim.task.end = victim.request.end = start
        if start <= measured.position:
            victim.taken_over = True
            victim.answer.cancel()
        return RangeTask(victim.task.download, start, end)

    def cut_short(self, piece_size: int) -> None:
        """End each answer under way after its present piece, and leave the rest of its range."""
        for active in self._servers.running.values():
            request = active.request
            begun = (request.start + request.received) // piece_size + 1
            end = min(active.task.end, request.end, begun * piece_size)
            active.task.end = request.end = end

    def _slowest(self, may_lose: Callable[[ShardDownload], bool]) -> tuple[ActiveRequest, Range] | None:
        """Return the request with the latest expected end, and the rest of its range."""
        now = self._clock()
        candidates = []
        for active in self._servers.running.values():
            request, age = active.request, now - active.started_at
            # An answer before its first byte says nothing about its server: the request may be queued there.
            if request.received and age >= _SETTLED and may_lose(active.task.download):
                position = request.start + request.received
                end = min(active.task.end, request.end)
                candidates.append((active, Range(0, position, end, request.received / age)))
        return max(candidates, key=lambda candidate: candidate[1].seconds_left, default=None)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
