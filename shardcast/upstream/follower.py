"""One followed server: by its feed, or by its list at intervals where there is no feed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from shardcast.concurrency import cancel
from shardcast.constants import FEED_DEAD
from shardcast.errors import AccessDenied, BadAnswer, PeerError, ServerLacks, ServerStalled, ServerUnreachable
from shardcast.log_fields import about
from shardcast.peer.server import Peer
from shardcast.policy.authority import ServerView
from shardcast.policy.backoff import Backoff
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import ABORTED, COMPLETE, KNOWN, OPEN, WITHDRAWN, Event, Hello

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
"""Seconds until a lost server is asked again; doubled each time, and spread (``Backoff``)."""
_LONGEST_AFTER = 10
"""Failures in a row after which the pause is the longest."""
_PACE, _PACE_EACH = 0.01, 1e-5
"""Seconds between two readings of a feed, and more for each version there: each reading compares all
versions, and a flood is read no faster."""
_MAX_VERSIONS = 10_000
"""Maximum versions of one server in memory."""


@dataclass
class _Versions:
    """The versions of a server, by number, from its feed or its list.

    Attributes:
        complete: whole versions there.
        known: versions listed by its authority and not yet there.
        opened: open versions.
        withdrawn: versions withdrawn by their publisher.
    """

    complete: dict[int, Listing] = field(default_factory=dict)
    known: dict[int, Listing] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)
    withdrawn: dict[int, Withdrawal] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.complete) + len(self.known) + len(self.opened) + len(self.withdrawn)

    def apply(self, event: Event) -> None:
        """Apply an event of the feed."""
        number = int(event.version[1:])
        if event.kind == OPEN:
            if number not in self.complete:
                self.opened.add(number)
            return
        if event.kind != KNOWN:
            self.opened.discard(number)
        if event.kind == ABORTED:
            return
        if event.kind == KNOWN and number in self.complete:
            return
        for versions in (self.complete, self.known):
            versions.pop(number, None)
        if event.kind == WITHDRAWN:
            assert event.listing
            self.withdrawn[number] = Withdrawal(event.version, event.listing.digest, event.reason)
        elif event.kind in (COMPLETE, KNOWN):
            assert event.listing
            (self.complete if event.kind == COMPLETE else self.known)[number] = event.listing

    def copy(self) -> _Versions:
        """Return a copy, untouched by further events."""
        return _Versions(dict(self.complete), dict(self.known), set(self.opened), dict(self.withdrawn))


class Follower:
    """One server, followed by ``run``.

    Attributes:
        peer: the server.
        versions_known: whether its versions are known now.
        hello: the last hello of its feed, also after the loss of the feed; None without a feed.
        failure: reason for not knowing its versions.
        last_news_at: time of the server's last news of its versions; an endless feed without a whole line is
            no news.
    """

    def __init__(
        self,
        peer: Peer,
        interval: float,
        notify: Callable[[], None],
        *,
        clock: Callable[[], float],
        random: Random,
        sleep: Callable[[float], Awaitable[None]],
        first_line: float = FEED_DEAD,
    ) -> None:
        """Prepare to follow ``peer``.

        Args:
            peer: the server.
            interval: seconds between two requests for its list, where there is no feed.
            notify: called after each change.
            clock: gives seconds.
            random: spreads pauses.
            sleep: pauses.
            first_line: seconds without a line of the feed until the list is asked for instead.
        """
        self.peer = peer
        self.versions_known = False
        self.hello: Hello | None = None
        self.failure: PeerError | None = None
        self.last_news_at: float | None = None
        self._interval = interval
        self._backoff = Backoff(_FIRST_PAUSE, min(_LONGEST_PAUSE, interval))
        self._tell = notify
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._first_line = first_line
        self._versions = _Versions()
        self._after = ""
        self._reading = 0
        self._failures = 0
        self._spoke = False  # whether this connection to the feed brought a line
        self._counted = False  # whether it told the versions
        self._again: asyncio.Future[None] | None = None

    @property
    def answered(self) -> bool:
        """Whether the server told its versions, or failed to."""
        return self.versions_known or self.failure is not None

    @property
    def listings(self) -> tuple[Listing, ...] | None:
        """The complete versions on offer at the server, oldest first; None while unknown."""
        return (
            tuple(listing for _, listing in sorted(self._versions.complete.items()))
            if self.versions_known
            else None
        )

    @property
    def open_numbers(self) -> frozenset[int]:
        """The numbers of the open versions at the server."""
        return frozenset(self._versions.opened) if self.versions_known else frozenset()

    @property
    def view(self) -> ServerView:
        """The server in the present view of policy."""
        versions = self._versions if self.versions_known else _Versions()
        return ServerView(
            url=self.peer.url,
            list_known=self.versions_known,
            failed=self.failure is not None,
            last_news_at=self.last_news_at,
            hello=self.hello,
            reading=self._reading,
            complete=versions.complete,
            known=versions.known,
            opened=frozenset(versions.opened),
            withdrawn=versions.withdrawn,
        )

    async def run(self) -> None:
        """Follow the server for ever, by its feed where it has one, and again after each failure."""
        while True:
            started = self._clock()
            try:
                if await self._hear():
                    continue
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
            if self._clock() - started > _LONGEST_PAUSE:
                self._failures = 0
            if isinstance(self.failure, AccessDenied):
                self._failures = _LONGEST_AFTER  # nothing but a person changes it, and soon is no use
            pause = self._backoff.spread(self._failures, self._random)
            self._failures += 1
            await self._sleep(pause)

    async def refresh(self) -> None:
        """Ask now for the list of a server without a feed, unless its last request failed."""
        if self.hello is None and self.versions_known:
            try:
                await self._ask()
            except PeerError as error:
                self._lost(error)

    def reconnect(self) -> None:
        """Read the feed anew over another connection, once this one told the versions.

        Until the new connection tells them, the old ones count. A second connection shows whether an address
        leads to two origins.
        """
        if self._again and not self._again.done() and self._counted:
            self._again.set_result(None)

    async def _ask(self) -> None:
        """Take the server's list.

        Raises:
            PeerError: there is none now.
        """
        listings = await self.peer.listings()
        self._after = ""
        self._known(None, _Versions({listing.number: listing for listing in listings}))

    async def _hear(self) -> bool:
        """Read the feed to its end, and return whether ``reconnect`` ended it.

        Raises:
            ServerLacks: there is no feed, or no line of one in time.
            PeerError: the feed broke off, or is wrong.
        """
        self._again, self._spoke, self._counted = asyncio.get_running_loop().create_future(), False, False
        reading = asyncio.ensure_future(self._read_feed())
        ends: list[asyncio.Future[None]] = [reading, self._again]
        try:
            await asyncio.wait(ends, timeout=self._first_line, return_when=asyncio.FIRST_COMPLETED)
            if not self._spoke and not any(end.done() for end in ends):
                raise ServerLacks(self.peer.url, f"nothing of its feed within {self._first_line:g} s")
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                self._after = ""
                return True
            reading.result()
            return False
        finally:
            await cancel([reading])
            if not reading.cancelled():
                reading.exception()  # raised above, or of no more interest

    async def _read_feed(self) -> None:
        """Read the feed, and take its hello and versions in one step whenever they are up to date.

        Raises:
            ServerLacks: there is no feed, or not one line of one came.
            PeerError: the feed broke off, or is wrong.
        """
        versions, hello = self._versions.copy(), self.hello
        try:
            async with contextlib.aclosing(self.peer.feed(self._after)) as feed:
                async for message in feed:
                    self._spoke = True
                    if isinstance(message, Hello):
                        if not message.now and message.feed != self._after.partition(":")[0]:
                            raise BadAnswer(self.peer.url, "its feed goes on with another one")
                        hello = message
                        versions = _Versions() if message.now else versions
                    elif isinstance(message, Event):
                        versions.apply(message)
                        if len(versions) > _MAX_VERSIONS:
                            raise BadAnswer(self.peer.url, f"more than {_MAX_VERSIONS} versions")
                    else:
                        assert hello  # FeedReader refuses a feed that begins otherwise
                        self._reading += not self._counted
                        self._counted = True
                        self._after = f"{hello.feed}:{message.seq}"
                        self._known(hello, versions.copy())
                        await self._sleep(_PACE + _PACE_EACH * len(versions))
        except ServerStalled as error:
            if not self._spoke:  # perhaps a proxy buffers the feed
                raise ServerLacks(self.peer.url, error.what) from error
            raise

    def _known(self, hello: Hello | None, versions: _Versions) -> None:
        """Record a hello and all versions in one step, and notify of news; ``hello`` is None for a list."""
        self.last_news_at = self._clock()
        if hello is None:
            same = self.versions_known and self.hello is None and versions == self._versions
            self._reading = self._reading + 1 if same else 1
        news = (hello, versions, True) != (self.hello, self._versions, self.versions_known)
        self.hello, self._versions, self.versions_known, self.failure = hello, versions, True, None
        if news or hello is None:
            self._tell()

    def _lost(self, error: PeerError) -> None:
        """Record the loss of the versions' news.

        Readers are woken by the first failure, and when the server begins or ceases to refuse.
        """
        log.debug(
            "%s is followed no more for now: %s", self.peer.url, error, extra=about(server=self.peer.url)
        )
        news = self.failure is None or isinstance(self.failure, AccessDenied) != isinstance(
            error, AccessDenied
        )
        self.versions_known, self.failure = False, error
        if news:
            self._tell()
