"""A mirror: a store that has what others have, as soon as somebody asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from shardcast.blobs.directory.batch_writer import Putting
from shardcast.blobs.flights import NOBODY, PendingFetch, Via, Wanted
from shardcast.blobs.framing import MAX_KEYS, MAX_LENGTH, Part
from shardcast.blobs.interface import BlobStore, BlobWriter
from shardcast.concurrency import cancel, staggered
from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    BadAnswer,
    BlobCorrupt,
    BlobMissing,
    LocalDiskError,
    PeerError,
    ReadOnlyStore,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    WrongBytes,
)
from shardcast.protocol.wire import MAX_VIA
from shardcast.store.interfaces import BlobReader

log = logging.getLogger(__name__)

LACKING_FOR = 30.0
"""Seconds for which it is remembered that nobody has a blob."""
_LEFT_ALONE = 10.0
"""Seconds for which a server that didn't answer is not asked."""
_MOST_LACKING = 100_000
"""Blobs that nobody has which are remembered."""
_BEGINS = 1.0
"""Seconds that a question which others pass on waits for the answer to another to begin: mirrors of each
other may wait for each other."""
_PORTION = 64 << 10
"""Bytes that must come, or a blob become whole, else the next server is asked as well."""
_MOST_WRONG = 4
"""Wrong blobs in the answers to one question after which a server isn't asked on."""
_LANES = 8
"""Requests at once to a server that takes no pulls."""


class Server(Protocol):
    """Where blobs come from (a ``RemoteStore``)."""

    url: str
    node_id: str | None

    async def pulls(self) -> bool:
        """Whether it answers many at once.

        Raises:
            PeerError: it can't be asked.
        """

    def fetch(
        self, wanted: Mapping[str, int | None], via: Sequence[str]
    ) -> AsyncGenerator[list[Part], None]: ...


@dataclass
class Counts:
    """What a mirror did.

    Attributes:
        fetched: blobs that came from elsewhere.
        fetched_bytes: theirs.
        lacking: questions for blobs that nobody has.
        joined: questions that another one answered, which was under way.
        failures: requests to servers that failed.
    """

    fetched: int = 0
    fetched_bytes: int = 0
    lacking: int = 0
    joined: int = 0
    failures: int = 0


class MirrorStore:
    """A store that keeps what it was asked for, and didn't have, from servers that do.

    What is put goes to the local store alone, and what is removed goes from there.

    Attributes:
        algorithm: of all its blobs.
        counts: what it did.
    """

    def __init__(
        self,
        local: BlobStore,
        servers: Sequence[Server],
        node_id: str,
        clock: Callable[[], float] = time.monotonic,
        lacking_for: float = LACKING_FOR,
        most: int = MAX_LENGTH,
        patience: float = STALL_WHEN_OTHERS_CAN,
    ) -> None:
        """The ``servers`` are asked in their order, the next one also when nothing comes for ``patience``
        seconds. ``node_id`` names this mirror to them, so that a question
        that comes back to it goes no further. Blobs of more than ``most`` bytes are not asked for: who asks
        says how long they are."""
        self.algorithm = local.algorithm
        self.counts = Counts()
        self._local = local
        self._servers = tuple(servers)
        self._node_id = node_id
        self._clock = clock
        self._lacking_for = lacking_for
        self._most = most
        self._patience = patience
        self._lacking: OrderedDict[tuple[Wanted, Via], float] = OrderedDict()
        self._left_alone: dict[str, float] = {}
        self._flights: dict[Wanted, PendingFetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # A store

    async def size(self, digest: str) -> int | None:
        """Bytes of a blob; None where it isn't here by now. Nobody is asked."""
        return await self._local.size(digest)

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[BlobReader]:
        """
        Raises:
            BlobMissing: nobody has it.
            BlobCorrupt: what is here is not what its digest says, and nobody has it.
            PeerError: it isn't here, and nobody could be asked.
        """
        async with AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(self._local.open(digest))
            except (BlobMissing, BlobCorrupt):
                if not await self.obtain(digest):
                    raise
                reader = await stack.enter_async_context(self._local.open(digest))
            yield reader

    async def read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        """Of those that are here by now."""
        return await self._local.read_small(digests, most)

    def put(self, digest: str | None = None) -> AbstractAsyncContextManager[BlobWriter]:
        return self._local.put(digest)

    async def delete(self, digest: str) -> bool:
        return await self._local.delete(digest)

    def digests(self) -> AsyncIterator[str]:
        """Those that are here by now."""
        return self._local.digests()

    async def close(self) -> None:
        """Give up what is under way."""
        await cancel(list(self._tasks))

    # From elsewhere

    async def obtain(self, key: str, via: Sequence[str] = ()) -> bool:
        """Have a blob come here, for a question that came through the nodes ``via``; whether it has.

        Raises:
            PeerError: nobody has it, and somebody couldn't be asked.
            LocalDiskError: it can't be kept.
        """
        one, own = (key, None), frozenset(via)
        flight = self._fly([one], via).get(one)
        if flight is None:
            return False
        if flight.via not in (own, NOBODY):
            with contextlib.suppress(ShardcastError):
                if await self._arrival(one, flight, via):
                    return True
            flight = self._start([one], via, shared=False)[one]
        return await self._arrival(one, flight, via)

    async def fetch(self, wanted: Mapping[str, int], via: Sequence[str] = ()) -> AsyncGenerator[str, None]:
        """Have blobs of these lengths come here; the key of each that has, as soon as it has. The others are
        left out.

        Raises:
            LocalDiskError: one can't be kept; it comes when all others have come.
        """
        own = frozenset(via)
        flights = self._fly(wanted.items(), via)
        doubtful = {one[0]: one for one, flight in flights.items() if flight.via not in (own, NOBODY)}
        async with aclosing(self._arrivals(flights, via)) as arrived:
            async for key in arrived:
                doubtful.pop(key, None)
                yield key
        for some in _batches(list(doubtful.values())):
            async with aclosing(self._arrivals(self._start(some, via, shared=False), via)) as arrived:
                async for key in arrived:
                    yield key

    async def _arrivals(
        self, flights: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> AsyncGenerator[str, None]:
        """The key of each that comes, as soon as it has."""
        arrivals = {
            asyncio.ensure_future(self._arrival(one, flight, via)): one[0] for one, flight in flights.items()
        }
        left, unkept = set(arrivals), None
        try:
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                outcomes = [(arrivals[task], task.exception() or task.result()) for task in done]
                for key, outcome in outcomes:
                    if outcome is True:
                        yield key
                    elif isinstance(outcome, LocalDiskError):
                        unkept = unkept or outcome
                    elif isinstance(outcome, BaseException) and not isinstance(outcome, ShardcastError):
                        raise outcome
            if unkept:
                raise unkept
        finally:
            await cancel(left)

    async def _arrival(self, one: Wanted, flight: PendingFetch, via: Sequence[str]) -> bool:
        """Wait for a flight, which may be somebody else's."""
        if via and not flight.begun.is_set():
            try:
                await asyncio.wait_for(flight.begun.wait(), _BEGINS)
            except TimeoutError:
                flight = self._start([one], via, shared=False)[one]
        return await asyncio.shield(flight.ended)

    def _fly(self, wanted: Iterable[Wanted], via: Sequence[str]) -> dict[Wanted, PendingFetch]:
        """The flights of those that anybody may have."""
        if self._node_id in via or len(via) >= MAX_VIA:
            return {}
        own, flights = frozenset(via), dict[Wanted, PendingFetch]()
        new: list[Wanted] = []
        for one in wanted:
            if (one[1] or 0) > self._most:
                continue
            if self._is_lacking(one, NOBODY) or self._is_lacking(one, own):
                self.counts.lacking += 1
            elif one in self._flights:
                self.counts.joined += 1
                flights[one] = self._flights[one]
            else:
                new.append(one)
        for some in _batches(new):
            flights |= self._start(some, via, shared=True)
        return flights

    def _is_lacking(self, one: Wanted, via: Via) -> bool:
        until = self._lacking.get((one, via))
        if until is not None and until <= self._clock():
            del self._lacking[one, via]
            until = None
        return until is not None

    def _start(
        self, wanted: Sequence[Wanted], via: Sequence[str], shared: bool
    ) -> dict[Wanted, PendingFetch]:
        own = frozenset(via)
        flights = {one: PendingFetch(own) for one in wanted}
        if shared:
            self._flights |= flights
        task = asyncio.ensure_future(self._carry(flights, via, shared))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flights

    async def _carry(self, flights: Mapping[Wanted, PendingFetch], via: Sequence[str], shared: bool) -> None:
        """Ask the servers."""
        failure: ShardcastError | None = ServerUnreachable("the mirror", "it ended before it had asked")
        try:
            failure = await self._ask_all(flights, via)
        finally:
            for one, flight in flights.items():
                if shared and self._flights.get(one) is flight:
                    del self._flights[one]
                if not flight.ended.done() and failure is None:
                    self.counts.lacking += 1
                    self._remember_lacking(one, flight.via)
                flight.end(False, failure)

    async def _ask_all(
        self, flights: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        """Why it isn't known that nobody has what didn't come."""
        failure: ShardcastError | None = None
        under_way = set[str]()

        def left() -> dict[Wanted, PendingFetch]:
            return {one: flight for one, flight in flights.items() if not flight.ended.done()}

        async def ask(server: Server) -> ShardcastError | None:
            if not left():
                return None
            if server.node_id in via:
                return BadAnswer(server.url, "it is what asks here")
            if self._left_alone.get(server.url, -math.inf) > self._clock():
                return ServerUnreachable(server.url, "it didn't answer a moment ago")
            under_way.add(server.url)
            failed = await self._ask(server, left(), via)
            under_way.discard(server.url)
            return failed

        def progress() -> tuple[int, int]:
            return len(left()), sum(flight.received for flight in flights.values()) // _PORTION

        works = [partial(ask, server) for server in self._servers]
        async with aclosing(staggered(works, self._patience, progress)) as asked:
            async for asking in asked:
                failure = (asking.result() if asking else None) or failure
                if not left():
                    break
        # One that is still under way kept everybody waiting, and those behind it had everything.
        self._left_alone |= dict.fromkeys(under_way, self._clock() + _LEFT_ALONE)
        return failure

    def _remember_lacking(self, one: Wanted, via: Via) -> None:
        self._lacking[one, via] = self._clock() + self._lacking_for
        self._lacking.move_to_end((one, via))
        while len(self._lacking) > _MOST_LACKING:
            self._lacking.popitem(last=False)

    async def _ask(
        self, server: Server, flights: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        """Ask one server; what went wrong."""
        try:
            lanes = 1 if await server.pulls() else _LANES
        except PeerError as error:
            return self._failed(server, error)
        everything = list(flights.items())
        groups = [dict(some) for lane in range(lanes) if (some := everything[lane::lanes])]
        failures = await asyncio.gather(*(self._receive(server, group, via) for group in groups))
        return next((one for one in failures if one), None)

    async def _receive(
        self, server: Server, flights: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        """Ask one server for some, and again without what is wrong there: an answer ends with that, and what
        would have come after it may be right. What went wrong first."""
        left, first = dict(flights), None
        for _ in range(_MOST_WRONG):
            failure = await self._receive_some(server, left, via)
            first = first or failure
            if not isinstance(failure, WrongBytes):
                break
            left = {
                one: flight
                for one, flight in left.items()
                if one[0] != failure.key and not flight.ended.done()
            }
            if not left:
                break
        return first

    async def _receive_some(
        self, server: Server, flights: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        wanted, by_key = dict(flights), {key: flight for (key, _), flight in flights.items()}
        asking = aclosing(server.fetch(dict(wanted.keys()), (*via, self._node_id)))

        def kept(key: str, length: int) -> None:
            self.counts.fetched += 1
            self.counts.fetched_bytes += length
            by_key[key].end(True)

        try:
            async with Putting(self._local, kept) as putting, asking as batches:
                async for batch in batches:
                    for part in batch:
                        by_key[part.key].begun.set()
                        by_key[part.key].received += len(part.data)
                        await putting.take(part)
        except PeerError as error:
            return self._failed(server, error)
        except (LocalDiskError, ReadOnlyStore) as error:
            log.error("what came from %s can't be kept: %s", server.url, error)
            return error
        return None

    def _failed(self, server: Server, error: PeerError) -> PeerError:
        log.warning("could not fetch: %s", error)
        self.counts.failures += 1
        if isinstance(error, (ServerUnreachable, ServerStalled)):
            self._left_alone[server.url] = self._clock() + _LEFT_ALONE
        return error


def _batches(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    return (wanted[start : start + MAX_KEYS] for start in range(0, len(wanted), MAX_KEYS))
