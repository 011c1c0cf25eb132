"""The one watch of a transfer: measure the servers ten times a second, and cancel stalled answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shardcast.concurrency import Notifier
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.limits import Limits
from shardcast.transfer.ranges import ActiveRequest
from shardcast.transfer.retry_state import RetryState
from shardcast.transfer.servers import Servers

_TICK = 0.1
"""Seconds between two looks at the servers."""


class StallMonitor:
    """Measures the servers of one transfer, and cancels answers with too little progress."""

    def __init__(
        self,
        servers: Servers,
        retries: RetryState,
        manifest: LiveManifest,
        limits: Limits,
        *,
        notifier: Notifier,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        when_looked: Callable[[float], None] = lambda now: None,
    ) -> None:
        """Measure nothing yet; ``when_looked`` is called with the time after each look."""
        self._servers = servers
        self._retries = retries
        self._manifest = manifest
        self._limits = limits
        self._notifier = notifier
        self._clock = clock
        self._sleep = sleep
        self._when_looked = when_looked

    async def run(self) -> None:
        """Look at all answers, score their servers, adapt the width, and wake the workers; for ever."""
        servers = self._servers
        received_before, looked_at = dict(servers.received), self._clock()
        while True:
            await self._sleep(_TICK)
            now = self._clock()
            for active in servers.running.values():
                self._look_at(active, now)
            busy = servers.under_way()
            for url, received in servers.received.items():
                new = received - received_before.get(url, 0)
                if url in busy and new > 0:
                    servers.ranking.observed(url, new / max(now - looked_at, 1e-6))
            received_before, looked_at = dict(servers.received), now
            servers.width.observe(now, sum(servers.received.values()), len(servers.running))
            self._when_looked(now)
            self._notifier.notify()

    def _look_at(self, active: ActiveRequest, now: float) -> None:
        """Count the new bytes of an answer, and cancel a stalled one."""
        request = active.request
        new = active.progress.observed(
            now, request.received, self._manifest.header.piece_size, writing=request.writing
        )
        if new:
            self._servers.received[active.peer.url] += new
            self._retries.answered()
            self._retries.progress_at = now
        stalled = active.progress.stall(
            now, self._limits.timeout, self._limits.stall, lambda: self._can_move(active)
        )
        if stalled:
            active.stalled = stalled
            active.answer.cancel()

    def _can_move(self, active: ActiveRequest) -> bool:
        """Return whether a silent answer is worth leaving for another server."""
        if active.peer.serial and not active.request.received:
            return False  # it waits its turn there, behind another answer to this node
        # Of an open version there may be nothing yet at any server.
        known = self._retries.started or self._manifest.manifest is not None
        return known and self._servers.has_alternative(active)
