"""The servers of a node, followed together: what they offer, and what to believe of it."""

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
    CannotAsk,
    IntegrityError,
    LocalLimit,
    NoServerReachable,
    PeerError,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TransferFailed,
)
from shardcast.peer.server import Peer
from shardcast.policy.line_tracker import LineTracker
from shardcast.policy.standing import LineMemory, Memory, Patience, Standing
from shardcast.protocol.manifest import Manifest
from shardcast.upstream.follower import Follower
from shardcast.waits import Wait

log = logging.getLogger(__name__)

_MOST_NOTES = 1000
"""Different warnings about servers that are logged, each once."""


class Following:
    """All servers of a node, followed for as long as it is entered.

    Attributes:
        changes: counts what happened.
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
        """``interval``: seconds between two looks at a server without a feed. ``node_id``: this node's,
        where it serves. ``memory``: what it remembers of its line. ``accepted``: the only origin id that
        counts. ``first_line``: see ``Follower``."""
        self.changes = 0
        random = random or Random()
        self._clock = clock
        self._notifier = Notifier()
        self._followers = {
            peer.url: Follower(
                peer,
                interval,
                self.tell,
                clock=clock,
                random=random,
                sleep=sleep,
                first_line=first_line,
            )
            for peer in peers
        }
        self._memory = memory or LineMemory()
        self._tracker = LineTracker(node_id, self._memory, clock(), random, accepted, patience)
        self._standing: Standing | None = None
        self._look_at = -math.inf
        self._noted: set[str] = set()
        self._silent_since: float | None = clock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timekeeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._tasks = {url: asyncio.ensure_future(one.run()) for url, one in self._followers.items()}
        for task in self._tasks.values():
            task.add_done_callback(lambda _: self.tell())
        self._timekeeper = asyncio.ensure_future(self._keep_time())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timekeeper
        await cancel([*self._tasks.values(), self._timekeeper])
        for task in self._tasks.values():
            if not task.cancelled():
                task.exception()  # told by standing(), if anybody asked

    @property
    def followers(self) -> tuple[Follower, ...]:
        """In the order in which the servers were named."""
        return tuple(self._followers.values())

    async def drop(self, url: str) -> None:
        """Follow a server no more."""
        self._followers.pop(url, None)
        task = self._tasks.pop(url, None)
        if task:
            await cancel([task])
        self.tell()

    async def look_again(self) -> None:
        """Ask those without a feed now."""
        await asyncio.gather(*(one.look_again() for one in self.followers))

    # What to believe

    def standing(self) -> Standing:
        """Return what to believe now, also while no server tells anything."""
        self._check_followers()
        now = self._clock()
        if self._standing is None or now >= self._look_at:
            self._standing = self._tracker.look(now, [one.view for one in self._followers.values()])
            wait = self._standing.wait
            self._look_at = math.inf if wait is None else now + wait
            for note in self._standing.notes:
                if note not in self._noted and len(self._noted) < _MOST_NOTES:
                    self._noted.add(note)
                    log.warning("%s", note)
            if self._standing.confirm:
                self._followers[self._standing.confirm].reconnect()
        return self._standing

    def _check_followers(self) -> None:
        for task in self._tasks.values():
            if task.done():
                task.result()  # it never ends but by an error of our own

    def heard(self) -> Standing:
        """Return what to believe now.

        Raises:
            NoServerReachable, TransferFailed: no server tells anything.
        """
        if not any(one.told for one in self._followers.values()):
            raise no_news({one.peer.url: one.failure for one in self._followers.values() if one.failure})
        return self.standing()

    def changed(self, left: str | None) -> None:
        """Begin with the line that the node's memory has now, after it left the line ``left`` for it."""
        self._tracker.changed(self._clock(), left)
        self.tell()

    async def _keep_time(self) -> None:
        """Tell when time alone changes what is believed; for ever."""
        while True:
            seen = self.changes
            self.standing()
            left = self._look_at - self._clock()
            try:
                async with asyncio.timeout(None if left == math.inf else max(left, 0.01)):
                    await self.change(seen)
            except TimeoutError:
                self.tell()

    # Waiting

    async def confirm(self, manifest: Manifest, patience: float = HTTP_TIMEOUT) -> None:
        """Wait until this node's line lists the version with this manifest. Until then any server of the line
        may have made up what came of it: what is being made has no digest yet.

        Raises:
            IntegrityError: the line lists other bytes under this number.
            TransferFailed: it did not list the version for ``patience`` seconds.
        """
        number, digests = int(manifest.version[1:]), set(manifest.digests.values())
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            seen, one = self.changes, self.standing().listed.get(number)
            if one is None and self._memory.digests.get(number) in digests:
                return  # listed earlier, and retired by now
            if one is not None:
                same = None in (one.manifest, manifest.identity) or one.manifest == manifest.identity
                if one.digest in digests and same:
                    return
                raise IntegrityError(
                    f"{manifest.version} is not the version that the first-named server lists: expected "
                    f"{one.digest}, got {', '.join(sorted(digests))}"
                )
            try:
                async with asyncio.timeout_at(deadline):
                    await self.change(seen)
            except TimeoutError:
                raise TransferFailed(
                    f"{manifest.version} is here, and the first-named server does not list it"
                ) from None

    async def settled(self) -> None:
        """Wait until all have told what they offer or failed to; once one has told, not for long."""
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        while not all(one.answered for one in self._followers.values()):
            self._check_followers()
            if deadline is None and any(one.told for one in self._followers.values()):
                deadline = loop.time() + STALL_WHEN_OTHERS_CAN
            try:
                async with asyncio.timeout_at(deadline):
                    await self.change(self.changes)
            except TimeoutError:
                return

    @property
    def wait(self) -> Wait | None:
        """What is waited for while no server tells anything."""
        if self._silent_since is None:
            return None
        silent = ", ".join(
            f"{one.peer.url} ({one.failure.what if one.failure else 'no answer yet'})"
            for one in self.followers
        )
        return Wait(self._clock() - self._silent_since, f"an answer of {silent or 'a server'}")

    async def change(self, since: int) -> None:
        """Wait until more has happened than ``since``, a value of ``changes``."""
        await self._notifier.wait_for(lambda: self.changes != since)

    def tell(self) -> None:
        """Something changed: wake who waits for it."""
        self.changes += 1
        self._standing = None
        if any(one.told for one in self._followers.values()):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._clock()
        self._notifier.notify()


def no_news(failures: Mapping[str, PeerError]) -> ShardcastError:
    """Return the error that says why no server tells anything."""
    if not failures:
        return NoServerReachable("no server is left to ask")
    for one in failures.values():
        if isinstance(one, CannotAsk):
            return LocalLimit(one.what)
    told = "; ".join(map(str, failures.values()))
    if all(isinstance(one, (ServerUnreachable, ServerStalled)) for one in failures.values()):
        return NoServerReachable(
            f"no server could be reached: {told}; check the addresses and that the servers run"
        )
    return TransferFailed(f"no server has a list of versions: {told}; are these shardcast's servers?")
