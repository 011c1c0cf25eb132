"""Leases: a version held at its servers while a local reader needs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from types import TracebackType
from typing import Self

from shardcast.concurrency import Notifier, cancel
from shardcast.constants import FEED_DEAD, STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    AccessDenied,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    VersionNotOffered,
)
from shardcast.log_fields import about
from shardcast.peer.server import Peer
from shardcast.policy.backoff import Backoff

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
"""Seconds until a lost server is asked again; doubled each time, and spread."""
_BACKOFF = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
_LONGEST_AFTER = 10
"""Failures in a row after which the pause is the longest."""
_PACE = 0.01
"""Seconds between two readings of an answer: a flood is read no faster."""


class Lease:
    """A version kept at its servers while the context is entered.

    A lost connection is made again. A server lets remote readers keep a version at most ten minutes beyond
    its time, so ``servers`` may become empty.

    Attributes:
        version: name of the version.
        servers: the URLs of the present holders.
    """

    def __init__(
        self,
        version: str,
        peers: Sequence[Peer],
        holder: str,
        *,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare to hold ``version`` at ``peers``.

        Args:
            version: name of the version.
            peers: the servers.
            holder: the reader's name, for the servers' operators.
            random: spreads pauses.
            sleep: pauses.
        """
        self.version = version
        self.servers: set[str] = set()
        self._peers = list(peers)
        self._holder = holder
        self._random = random or Random()
        self._sleep = sleep
        self._failures: dict[str, PeerError] = {}
        self._ever: set[str] = set()
        self._notifier = Notifier()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Wait until a server holds the version, and 2 s at most for the others.

        Raises:
            AccessDenied: a server refused, and no other holds it.
            VersionNotOffered: no server holds it.
        """
        self._tasks = [asyncio.ensure_future(self._keep(peer)) for peer in self._peers]
        try:
            await self._notifier.wait_for(lambda: bool(self.servers) or self._all_answered)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STALL_WHEN_OTHERS_CAN):
                    await self._notifier.wait_for(lambda: self._all_answered)
            if not self.servers:
                if denied := AccessDenied.among(self._failures.values()):
                    raise denied.at(self.version)
                raise VersionNotOffered(
                    f"{self.version} is held by no server: {'; '.join(map(str, self._failures.values()))}"
                )
        except BaseException:
            await cancel(self._tasks)
            raise
        for failure in self._failures.values():
            if isinstance(failure, AccessDenied):
                log.warning(
                    "%s is held by other servers only: %s",
                    self.version,
                    failure,
                    extra=about(version=self.version),
                )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel(self._tasks)
        self.servers.clear()

    @property
    def _all_answered(self) -> bool:
        return len(self.servers | self._failures.keys()) == len(self._peers)

    async def _keep(self, peer: Peer) -> None:
        """Hold the version at one server, until it is gone there or the first request was refused."""
        failures, denied, loop = 0, "", asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._hold(peer)
                self._lost(peer, ServerUnreachable(peer.url, "it ended the lease"))
            except ServerBusy as error:
                self._lost(peer, error)
            except ServerLacks as error:
                self._lost(peer, error)
                if peer.url in self._ever:
                    self._warn(error)
                return
            except AccessDenied as error:
                self._lost(peer, error)
                if peer.url not in self._ever:
                    return
                if str(error) != denied:
                    denied = str(error)
                    self._warn(error)
                failures = _LONGEST_AFTER
            except PeerError as error:
                self._lost(peer, error)
            if loop.time() - started > _LONGEST_PAUSE:
                failures, denied = 0, ""
            pause = _BACKOFF.spread(failures, self._random)
            failures += 1
            await self._sleep(pause)

    def _warn(self, error: PeerError) -> None:
        """Log the end of a server's hold, and how many servers still hold the version."""
        log.warning(
            "%s is not held any more by a server, which may remove it; %d of %d still hold it: %s",
            self.version,
            len(self.servers),
            len(self._peers),
            error,
            extra=about(version=self.version),
        )

    async def _hold(self, peer: Peer) -> None:
        """Read the server's lease to its end.

        Raises:
            PeerError: the server does not hold the version, or not any more.
        """
        async with contextlib.aclosing(peer.lease(self.version, self._holder)) as lines:
            held = False
            while True:
                try:
                    async with asyncio.timeout(None if held else FEED_DEAD):
                        await anext(lines)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise ServerStalled(
                        peer.url, f"{self.version}: no lease within {FEED_DEAD:g} s"
                    ) from None
                held = True
                self.servers.add(peer.url)
                self._ever.add(peer.url)
                self._failures.pop(peer.url, None)
                self._notifier.notify()
                await self._sleep(_PACE)

    def _lost(self, peer: Peer, error: PeerError) -> None:
        """Record the end of a server's hold."""
        self._failures[peer.url] = error
        self.servers.discard(peer.url)
        self._notifier.notify()
