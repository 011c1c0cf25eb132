"""Requests of a mirror to its servers, in their order; arriving blobs go into the local store."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from shardcast.blobs.directory.batch_writer import BatchWriter
from shardcast.blobs.framing import Part
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.mirror.pending_fetch import PendingFetch, Wanted
from shardcast.concurrency import start_staggered
from shardcast.errors import (
    AccessDenied,
    BadAnswer,
    LocalDiskError,
    PeerError,
    ReadOnlyStore,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TlsFailure,
    WrongBytes,
)
from shardcast.log_fields import about

log = logging.getLogger(__name__)

_BACK_OFF = 10.0
"""Seconds until a server is asked again after no answer."""
_PROGRESS = 64 << 10
"""Bytes, or a whole blob, expected within the patience, else the next server is asked as well."""
_MAX_WRONG = 4
"""Wrong blobs in the answers to one request after which a server is not asked for the rest."""
_LANES = 8
"""Requests at once to a server without pulls."""


class BlobServer(Protocol):
    """A source of blobs (a ``RemoteStore``)."""

    url: str
    node_id: str | None

    async def takes_pulls(self) -> bool:
        """Return whether the server answers requests for many blobs at once.

        Raises:
            PeerError: the server can't be asked.
        """

    def fetch(self, wanted: Mapping[str, int | None], via: Sequence[str]) -> AsyncGenerator[list[Part], None]:
        """Yield the parts of these blobs as they arrive; ``via`` names the nodes on the request's way."""


@dataclass
class MirrorCounts:
    """The counters of a mirror, shown in its status.

    Attributes:
        fetched: number of blobs from servers.
        fetched_bytes: bytes of those blobs.
        lacking: number of requests for blobs at no server.
        joined: number of requests answered by an unfinished fetch.
        failures: number of failed requests to servers.
    """

    fetched: int = 0
    fetched_bytes: int = 0
    lacking: int = 0
    joined: int = 0
    failures: int = 0


class ServerFetcher:
    """Fetcher of blobs from several servers into a store.

    The servers are asked in their order; the next one also after ``patience`` seconds without progress. A
    server without an answer, with a refusal, or overtaken by others, is skipped for a while.
    """

    def __init__(
        self,
        local: BlobStore,
        servers: Sequence[BlobServer],
        node_id: str,
        counts: MirrorCounts,
        *,
        clock: Callable[[], float],
        patience: float,
    ) -> None:
        """Put blobs into ``local`` and count in ``counts``; ``node_id`` names this node to the servers."""
        self._local = local
        self._servers = tuple(servers)
        self._node_id = node_id
        self._counts = counts
        self._clock = clock
        self._patience = patience
        self._skipped_until: dict[str, float] = {}
        self._denied: dict[str, AccessDenied] = {}

    async def fetch(
        self, fetches: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        """Ask the servers until every fetch has ended, and return the error that leaves the others uncertain.

        Returns:
            None if every server answered: then no server has the blobs that did not arrive.
        """
        failure: ShardcastError | None = None
        under_way = set[str]()

        def remaining() -> dict[Wanted, PendingFetch]:
            return {wanted: fetch for wanted, fetch in fetches.items() if not fetch.outcome.done()}

        async def ask(server: BlobServer) -> ShardcastError | None:
            """Ask one server for the remaining blobs, unless to be skipped."""
            if not remaining():
                return None
            if server.node_id in via:
                return BadAnswer(server.url, "the request came through this server, so it was not asked")
            if self._skipped_until.get(server.url, -math.inf) > self._clock():
                return self._denied.get(server.url) or ServerUnreachable(
                    server.url,
                    f"it failed or was too slow a moment ago, and is not asked for {_BACK_OFF:g} s",
                )
            under_way.add(server.url)
            failed = await self._ask(server, remaining(), via)
            under_way.discard(server.url)
            return failed

        def progress() -> tuple[int, int]:
            return len(remaining()), sum(fetch.received for fetch in fetches.values()) // _PROGRESS

        works = [partial(ask, server) for server in self._servers]
        async with aclosing(start_staggered(works, self._patience, progress)) as asked:
            async for asking in asked:
                failure = (asking.result() if asking else None) or failure
                if not remaining():
                    break
        # An unfinished server kept all requesters waiting, and those behind it had everything.
        self._skipped_until |= dict.fromkeys(under_way, self._clock() + _BACK_OFF)
        return failure

    async def _ask(
        self, server: BlobServer, fetches: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        """Ask one server, and return the first error."""
        try:
            lanes = 1 if await server.takes_pulls() else _LANES
        except PeerError as error:
            return self._failed(server, error)
        everything = list(fetches.items())
        groups = [dict(group) for lane in range(lanes) if (group := everything[lane::lanes])]
        failures = await asyncio.gather(*(self._receive(server, group, via) for group in groups))
        return next((failure for failure in failures if failure), None)

    async def _receive(
        self, server: BlobServer, fetches: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        """Ask one server for a group of blobs, and return the first error.

        A wrong blob ends an answer, and the blobs behind it may be right: they are requested again.
        """
        remaining, first = dict(fetches), None
        for _ in range(_MAX_WRONG):
            failure = await self._receive_once(server, remaining, via)
            first = first or failure
            if not isinstance(failure, WrongBytes):
                break
            remaining = {
                wanted: fetch
                for wanted, fetch in remaining.items()
                if wanted[0] != failure.key and not fetch.outcome.done()
            }
            if not remaining:
                break
        return first

    async def _receive_once(
        self, server: BlobServer, fetches: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> ShardcastError | None:
        """Send one request for a group of blobs, put the arriving ones, and return the error."""
        lengths, by_key = dict(fetches.keys()), {key: fetch for (key, _), fetch in fetches.items()}
        answer = aclosing(server.fetch(lengths, (*via, self._node_id)))

        def kept(key: str, length: int) -> None:
            self._counts.fetched += 1
            self._counts.fetched_bytes += length
            by_key[key].end(True)

        try:
            async with BatchWriter(self._local, kept) as putting, answer as batches:
                async for batch in batches:
                    for part in batch:
                        by_key[part.key].started.set()
                        by_key[part.key].received += len(part.data)
                        await putting.write_part(part)
        except PeerError as error:
            return self._failed(server, error)
        except (LocalDiskError, ReadOnlyStore) as error:
            log.error("could not store a blob of %s: %s", server.url, error, extra=about(server=server.url))
            return error
        self._denied.pop(server.url, None)
        return None

    def _failed(self, server: BlobServer, error: PeerError) -> PeerError:
        """Count a failed request, skip an absent or refusing server for a while; return the error.

        A refusal is logged when it begins.
        """
        known = self._denied.pop(server.url, None)
        if not isinstance(error, AccessDenied):
            log.warning("could not fetch: %s", error)
        else:
            if known is None:
                log.warning("could not fetch: %s; the server is asked again from time to time", error)
            self._denied[server.url] = error
        self._counts.failures += 1
        if isinstance(error, (ServerUnreachable, TlsFailure, ServerStalled, AccessDenied)):
            self._skipped_until[server.url] = self._clock() + _BACK_OFF
        return error
