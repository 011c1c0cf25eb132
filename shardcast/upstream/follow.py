"""The servers of a node, followed together: their offers, and this node's beliefs about them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Self

from shardcast.concurrency import Notifier, cancel
from shardcast.constants import FEED_DEAD, HTTP_TIMEOUT, STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    AccessDenied,
    CannotAsk,
    IntegrityError,
    LocalLimit,
    NoServerReachable,
    PeerError,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TlsFailure,
    TransferFailed,
)
from shardcast.peer.server import Peer
from shardcast.policy.line_tracker import LineTracker
from shardcast.policy.standing import LineMemory, Memory, Patience, Standing
from shardcast.protocol.manifest import Manifest
from shardcast.upstream.follower import Follower
from shardcast.waits import Wait

log = logging.getLogger(__name__)

_MAX_NOTES = 1000
"""Maximum distinct warnings about servers, each logged once; bounded, since servers choose their text."""


class Following:
    """All servers of a node, followed for as long as the context is entered.

    Attributes:
        changes: a counter of changes of the servers' offers; ``wait_for_change`` waits for the next.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        interval: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        node_id: str | None = None,
        memory: Memory | None = None,
        accepted: str | None = None,
        patience: Patience | None = None,
        first_line: float = FEED_DEAD,
    ) -> None:
        """Prepare to follow ``peers``, in the order of their authority.

        Args:
            peers: the servers, in the order of their naming.
            interval: seconds between two requests to a server without a feed.
            clock: gives seconds; a test's or a simulator's, as are ``random`` and ``sleep``.
            random: spreads pauses.
            sleep: pauses.
            node_id: own id of a serving node.
            memory: this node's memory of its line.
            accepted: the only origin id to follow; None for any.
            patience: times to wait for other lines and silent authorities.
            first_line: seconds without a line of a feed until the list is asked for instead.
        """
        self.changes = 0
        random = random or Random()
        self._clock = clock
        self._notifier = Notifier()
        self._followers = {
            peer.url: Follower(
                peer,
                interval,
                self.notify,
                clock=clock,
                random=random,
                sleep=sleep,
                first_line=first_line,
            )
            for peer in peers
        }
        self._memory = memory or LineMemory()
        self._tracker = LineTracker(
            node_id, self._memory, clock(), random, accepted=accepted, patience=patience
        )
        self._standing: Standing | None = None
        self._look_at = -math.inf
        self._noted: set[str] = set()
        self._silent_since: float | None = clock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timekeeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._tasks = {
            url: asyncio.ensure_future(follower.run()) for url, follower in self._followers.items()
        }
        for task in self._tasks.values():
            task.add_done_callback(lambda _: self.notify())
        self._timekeeper = asyncio.ensure_future(self._keep_time())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timekeeper
        tasks = [*self._tasks.values(), self._timekeeper]
        await cancel(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # standing() has raised it

    @property
    def followers(self) -> tuple[Follower, ...]:
        """The followers, in the order of their servers' naming."""
        return tuple(self._followers.values())

    @property
    def has_news(self) -> bool:
        """Whether the versions of any server are known now."""
        return any(follower.versions_known for follower in self._followers.values())

    async def remove_server(self, url: str) -> None:
        """Stop following a server."""
        self._followers.pop(url, None)
        task = self._tasks.pop(url, None)
        if task:
            await cancel([task])
        self.notify()

    async def refresh(self) -> None:
        """Ask the servers without a feed for their lists now."""
        await asyncio.gather(*(follower.refresh() for follower in self.followers))

    # Beliefs

    def standing(self) -> Standing:
        """Return the present beliefs, also while no server tells anything.

        They are kept until a server tells something, or until time alone changes them.
        """
        self._check_followers()
        now = self._clock()
        if self._standing is None or now >= self._look_at:
            self._standing = self._tracker.look(now, [follower.view for follower in self._followers.values()])
            wait = self._standing.seconds_to_change
            self._look_at = math.inf if wait is None else now + wait
            for note in self._standing.notes:
                if note not in self._noted and len(self._noted) < _MAX_NOTES:
                    self._noted.add(note)
                    log.warning("%s", note)
            if self._standing.confirm:
                self._followers[self._standing.confirm].reconnect()
        return self._standing

    def _check_followers(self) -> None:
        """Raise the error of an ended follower: a bug, since none ends otherwise."""
        for task in self._tasks.values():
            if task.done():
                task.result()

    def standing_or_error(self) -> Standing:
        """Return the present beliefs.

        Raises:
            NoServerReachable, TransferFailed, AccessDenied: no server tells anything.
            LocalLimit: this machine can't ask.
        """
        if not self.has_news:
            raise no_news_error(
                {
                    follower.peer.url: follower.failure
                    for follower in self._followers.values()
                    if follower.failure
                }
            )
        return self.standing()

    def change_line(self, old_line: str | None) -> None:
        """Begin with the line now in the node's memory, after the node left the line ``old_line``."""
        self._tracker.change_line(self._clock(), old_line)
        self.notify()

    async def _keep_time(self) -> None:
        """Notify when time alone changes the beliefs; for ever."""
        while True:
            seen = self.changes
            self.standing()
            left = self._look_at - self._clock()
            try:
                async with asyncio.timeout(None if left == math.inf else max(left, 0.01)):
                    await self.wait_for_change(seen)
            except TimeoutError:
                self.notify()

    # Waiting

    async def confirm(self, manifest: Manifest, patience: float = HTTP_TIMEOUT) -> None:
        """Wait until this node's line lists the version with this manifest.

        An open version has no digest yet, so until then any server of the line may have invented its bytes.

        Raises:
            IntegrityError: the line lists other bytes under this number.
            TransferFailed: the line did not list the version for ``patience`` seconds.
        """
        number, digests = int(manifest.version[1:]), set(manifest.digests.values())
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            seen, listing = self.changes, self.standing().listed.get(number)
            if listing is None and self._memory.digests.get(number) in digests:
                return  # listed earlier, and retired by now
            if listing is not None:
                same = None in (listing.manifest, manifest.identity) or listing.manifest == manifest.identity
                if listing.digest in digests and same:
                    return
                raise IntegrityError(
                    f"{manifest.version} is not the version that the first-named server lists: expected "
                    f"{listing.digest}, got {', '.join(sorted(digests))}"
                )
            try:
                async with asyncio.timeout_at(deadline):
                    await self.wait_for_change(seen)
            except TimeoutError:
                raise TransferFailed(
                    f"{manifest.version} is here, but after {patience:g} s the first-named server "
                    "does not list it, so its bytes are not trusted; try again later"
                ) from None

    async def wait_until_settled(self) -> None:
        """Wait for each server's offers or failure; at most 2 s after the first one."""
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        while not all(follower.answered for follower in self._followers.values()):
            self._check_followers()
            if deadline is None and self.has_news:
                deadline = loop.time() + STALL_WHEN_OTHERS_CAN
            try:
                async with asyncio.timeout_at(deadline):
                    await self.wait_for_change(self.changes)
            except TimeoutError:
                return

    @property
    def wait(self) -> Wait | None:
        """The present wait, while no server tells anything."""
        if self._silent_since is None:
            return None
        silent = ", ".join(
            f"{follower.peer.url} ({follower.failure.what if follower.failure else 'no answer yet'})"
            for follower in self.followers
        )
        return Wait(self._clock() - self._silent_since, f"an answer of {silent or 'a server'}")

    async def wait_for_change(self, since: int) -> None:
        """Wait until ``changes`` differs from ``since``, an earlier value."""
        await self._notifier.wait_for(lambda: self.changes != since)

    def notify(self) -> None:
        """Count a change and wake all waiting tasks."""
        self.changes += 1
        self._standing = None
        if self.has_news:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._clock()
        self._notifier.notify()


def no_news_error(failures: Mapping[str, PeerError]) -> ShardcastError:
    """Return the error for servers without any news; ``failures`` by URL."""
    if not failures:
        return NoServerReachable("no server is left to ask")
    for failure in failures.values():
        if isinstance(failure, CannotAsk):
            return LocalLimit(failure.what)
    if denied := AccessDenied.among(failures.values()):
        return denied
    reasons = "; ".join(map(str, failures.values()))
    if all(isinstance(failure, TlsFailure) for failure in failures.values()):
        return NoServerReachable(f"no server can be used: {reasons}")
    gone = (ServerUnreachable, ServerStalled, TlsFailure)
    if all(isinstance(failure, gone) for failure in failures.values()):
        return NoServerReachable(
            f"no server could be reached: {reasons}; check the addresses and that the servers run"
        )
    return TransferFailed(f"no server has a list of versions: {reasons}; are these shardcast's servers?")
