"""What servers offer, kept current: told by their feeds, or asked again and again where they have none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from types import TracebackType

from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.distribution import Listing
from shardcast.errors import (
    BadAnswer,
    PeerError,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
)
from shardcast.feed import COMPLETE, OPEN, Event, Hello
from shardcast.peer.peer import Peer
from shardcast.policy.lines import Line
from shardcast.store.tasks import cancel
from shardcast.transfer.offers import Offers, sort_out
from shardcast.wire import version_name

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
"""Seconds until a server that was lost is asked again; doubled each time, and spread, so that one that
comes back is not stormed."""
_PACE = 0.01
"""Seconds between two readings of a feed: one that floods is read no faster."""
_MOST_VERSIONS = 10_000
"""Versions of one server that are kept in mind."""


class Follower:
    """One server, followed.

    Attributes:
        peer: the server.
        listings: the complete versions that it offers, oldest first; None while that isn't known.
        opened: the numbers of those that are open there.
        hello: who it says it is; None where it has no feed.
        failure: why it isn't known.
        heard_at: when it said something last.
    """

    def __init__(
        self,
        peer: Peer,
        interval: float,
        tell: Callable[[], None],
        clock: Callable[[], float],
        random: Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.peer = peer
        self.listings: tuple[Listing, ...] | None = None
        self.opened: frozenset[int] = frozenset()
        self.hello: Hello | None = None
        self.failure: PeerError | None = None
        self.heard_at: float | None = None
        self._interval = interval
        self._tell = tell
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._versions: dict[str, Listing | None] = {}  # None: open
        self._after = ""
        self._failures = 0

    @property
    def answered(self) -> bool:
        """Whether it said what it offers, or failed to."""
        return self.listings is not None or self.failure is not None

    async def run(self) -> None:
        """Follow it for ever."""
        while True:
            begun = self._clock()
            try:
                await self._hear()
                self._lost(ServerUnreachable(self.peer.url, "it ended its feed"))
            except ServerLacks:
                try:
                    await self._ask()
                    self._failures = 0
                    await self._sleep(self._interval)
                    continue
                except PeerError as error:
                    self._lost(error)
            except PeerError as error:
                self._lost(error)
            if self._clock() - begun > _LONGEST_PAUSE:
                self._failures = 0
            pause = min(_FIRST_PAUSE * 2.0**self._failures, _LONGEST_PAUSE, self._interval)
            self._failures = min(self._failures + 1, 30)
            await self._sleep(pause * self._random.uniform(0.5, 1.0))

    async def look_again(self) -> None:
        """Ask it now for its list, if it has no feed."""
        if self.hello is None and self.listings is not None:
            try:
                await self._ask()
            except PeerError as error:
                self._lost(error)

    async def _ask(self) -> None:
        self.hello, self._after, self._versions = None, "", {}
        listings = await self.peer.listings()
        self._known(listings)

    async def _hear(self) -> None:
        """Read its feed to the end."""
        versions, spoke = self._versions, False
        try:
            async with contextlib.aclosing(self.peer.feed(self._after)) as feed:
                async for said in feed:
                    self.heard_at, spoke = self._clock(), True
                    if isinstance(said, Hello):
                        if not said.now and said.feed != self._after.partition(":")[0]:
                            raise BadAnswer(self.peer.url, "its feed goes on with another one")
                        self.hello = said
                        versions = {} if said.now else self._versions
                    elif isinstance(said, Event):
                        _happened(versions, said)
                        if len(versions) > _MOST_VERSIONS:
                            raise BadAnswer(self.peer.url, f"more than {_MOST_VERSIONS} versions")
                    else:
                        self._known_by_feed(versions, said.seq)
                        await self._sleep(_PACE)
        except ServerStalled as error:
            if not spoke:  # a proxy holds it back, perhaps
                raise ServerLacks(self.peer.url, error.what) from error
            raise

    def _known_by_feed(self, versions: dict[str, Listing | None], seq: int) -> None:
        assert self.hello
        self._versions, self._after = versions, f"{self.hello.feed}:{seq}"
        complete = [one for one in versions.values() if one]
        opened = frozenset(int(version[1:]) for version, one in versions.items() if not one)
        self._known(tuple(sorted(complete, key=lambda one: one.number)), opened)

    def _known(self, listings: tuple[Listing, ...], opened: frozenset[int] = frozenset()) -> None:
        self.heard_at = self._clock()
        news = (listings, opened) != (self.listings, self.opened)
        self.listings, self.opened, self.failure = listings, opened, None
        if news:
            self._tell()

    def _lost(self, error: PeerError) -> None:
        log.debug("%s is followed no more for now: %s", self.peer.url, error)
        news = self.failure is None
        self.listings, self.opened, self.failure = None, frozenset(), error
        if news:
            self._tell()


def _happened(versions: dict[str, Listing | None], event: Event) -> None:
    if event.kind == COMPLETE:
        versions[event.version] = event.listing
    elif event.kind == OPEN:
        versions.setdefault(event.version, None)
    else:
        versions.pop(event.version, None)


class Following:
    """All servers of a node, followed for as long as it is entered.

    Attributes:
        changes: counts what happened.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        interval: float,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``interval``: seconds between two looks at a server without a feed."""
        self.changes = 0
        self._news = asyncio.Event()
        self._followers = {
            peer.url: Follower(peer, interval, self.tell, clock, random or Random(), sleep) for peer in peers
        }
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Following:
        self._tasks = {url: asyncio.ensure_future(one.run()) for url, one in self._followers.items()}
        for task in self._tasks.values():
            task.add_done_callback(lambda _: self.tell())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel(self._tasks.values())
        for task in self._tasks.values():
            if not task.cancelled():
                task.exception()  # told by offers(), if anybody asked

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

    async def look_again(self) -> None:
        """Ask those without a feed now."""
        await asyncio.gather(*(one.look_again() for one in self.followers))

    def offers(self) -> Offers:
        """What they offer now.

        Raises:
            NoServerReachable, TransferFailed: none tells.
        """
        for task in self._tasks.values():
            if task.done():
                task.result()  # it never ends but by an error of our own
        readings = [
            (one.peer.url, one.listings) for one in self._followers.values() if one.listings is not None
        ]
        failures = {one.peer.url: one.failure for one in self._followers.values() if one.failure}
        return sort_out(readings, failures)

    def opened(self, line: Line, nearer_than: int | None = None) -> dict[int, list[Peer]]:
        """The versions that are open at servers of a line, and at which; of a node that serves itself only
        at those ``nearer_than`` so many hops to the origin, so that no two wait for each other."""
        found: dict[int, list[Peer]] = {}
        for one in self._followers.values():
            far = one.hello is None or one.hello.distance is None
            if one.peer.url not in line.servers or (nearer_than is not None and far):
                continue
            if nearer_than is not None and one.hello and (one.hello.distance or 0) >= nearer_than:
                continue
            for number in one.opened:
                found.setdefault(number, []).append(one.peer)
        return found

    async def join(
        self, number: int, peers: list[Peer], join: Callable[[Peer], None], nearer_than: int | None = None
    ) -> None:
        """Add the servers of the first line to ``peers``, as they say that they have a version, open or
        complete, and tell ``join`` of them; for ever."""
        while True:
            seen = self.changes
            with contextlib.suppress(ShardcastError):  # nobody tells anything just now
                line = self.offers().lines[0]
                complete = line.offers.get(version_name(number), ())
                having = [one.peer for one in self._followers.values() if one.peer.url in complete]
                for peer in [*having, *self.opened(line, nearer_than).get(number, [])]:
                    if peer not in peers:
                        peers.append(peer)
                        join(peer)
            await self.change(seen)

    async def settled(self) -> None:
        """Wait until all have told what they offer or failed to; once one has told, not for long."""
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        while not all(one.answered for one in self._followers.values()):
            if deadline is None and any(one.listings is not None for one in self._followers.values()):
                deadline = loop.time() + STALL_WHEN_OTHERS_CAN
            try:
                await asyncio.wait_for(
                    self.change(self.changes), None if deadline is None else deadline - loop.time()
                )
            except asyncio.TimeoutError:
                return

    async def change(self, since: int) -> None:
        """Wait until more has happened than ``since``, a value of ``changes``."""
        while self.changes == since:
            await self._news.wait()

    def tell(self) -> None:
        """Something changed: wake who waits for it."""
        self.changes += 1
        news, self._news = self._news, asyncio.Event()
        news.set()
