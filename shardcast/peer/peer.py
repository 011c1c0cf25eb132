"""A server as typed calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp

from shardcast.constants import FEED_DEAD, HTTP_TIMEOUT
from shardcast.distribution import Distribution, Listing, parse
from shardcast.errors import BadAnswer, ServerLacks, ServerStalled, WrongBytes
from shardcast.feed import Event, FeedError, FeedReader, Hello, Known
from shardcast.manifest import MAX_LINE, Aborted, Header, Manifest, ManifestError, ManifestReader
from shardcast.peer.bulk import Bulk, HandOver
from shardcast.peer.checking import Answer, Order, request_headers
from shardcast.peer.session import Session, answer
from shardcast.store.landing import Landing, WrongPiece
from shardcast.wire import (
    DISTRIBUTION_PATH,
    FEED_PATH,
    MAX_DISTRIBUTION_SIZE,
    NDJSON,
    NODE_ID,
    manifest_path,
    shard_path,
)

_BUFFER_SIZE = 1 << 20
"""Bytes that are verified and written at a time."""
_LONGEST_HELD = 0.01
"""Seconds that a whole piece waits for more before it is verified and written."""
_SECOND_LOOK = 0.1
"""Seconds until a list that may be half-written is read again."""
_PROGRESS = 64 * 1024
"""Bytes of a manifest that must come within the time-out."""
_LIMIT_SERIAL = 2
"""Requests at once to a server that answers one after the other: the next waits at its door."""


class Peer:
    """One server.

    Attributes:
        url: its base URL.
        node_id: what a shardcast node calls itself; None for old and static servers.
        serial: whether it speaks HTTP/1.0, and so perhaps answers one request after the other.
    """

    def __init__(self, url: str, session: Session, timeout: float = HTTP_TIMEOUT) -> None:
        self.url = url
        self.node_id: str | None = None
        self.serial = False
        self._session = session.http
        self._bulk = Bulk(url, session.threads, timeout)
        session.closing.append(self._bulk.close)
        self._timeout = timeout

    @property
    def limit(self) -> int:
        """Requests that it can usefully have at once."""
        return _LIMIT_SERIAL if self.serial else 1_000_000

    async def listings(self) -> tuple[Listing, ...]:
        """The complete versions that it offers, oldest first. A list that may have been caught while an
        old node wrote it is read twice.

        Raises:
            PeerError: it can't be had, or is no distribution list.
        """
        first = await self._distribution()
        if first.doubtful:
            await asyncio.sleep(_SECOND_LOOK)
            first = first.settled(await self._distribution())
        if first.strange:
            raise BadAnswer(self.url, f"GET {DISTRIBUTION_PATH}: what came is no distribution list")
        return first.listings

    async def _distribution(self) -> Distribution:
        try:
            return parse(await asyncio.wait_for(self._read_distribution(), self._timeout))
        except asyncio.TimeoutError:
            raise ServerStalled(
                self.url, f"GET {DISTRIBUTION_PATH}: no whole answer within {self._timeout:g} s"
            ) from None
        except ValueError as error:
            raise BadAnswer(self.url, f"GET {DISTRIBUTION_PATH}: {error}") from None

    async def _read_distribution(self) -> bytes:
        async with answer(self._session, self.url, DISTRIBUTION_PATH) as response:
            self._head(response).check_status(200)
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_DISTRIBUTION_SIZE:
                    break
            return bytes(body)

    async def feed(self, after: str) -> AsyncGenerator[Hello | Event | Known, None]:
        """What happens to its versions, after ``<feed id>:<seq>`` where that is still known; ends when the
        server ends it.

        Raises:
            ServerLacks: it has no feed (old and static servers).
            PeerError: it can't be had, broke off, is wrong, or is dead.
        """
        reader = FeedReader()
        path = f"{FEED_PATH}?after={after}" if after else FEED_PATH
        async with answer(self._session, self.url, path, silence=FEED_DEAD) as response:
            self._head(response)
            if response.status != 200 or response.content_type != NDJSON:
                raise ServerLacks(self.url, f"GET {FEED_PATH}: there is no feed ({response.status})")
            loop = asyncio.get_running_loop()
            dead_at = loop.time() + FEED_DEAD
            while chunk := await asyncio.wait_for(response.content.readany(), dead_at - loop.time()):
                try:
                    for said in reader.feed(chunk):
                        if isinstance(said, Known):
                            dead_at = loop.time() + FEED_DEAD
                        yield said
                except FeedError as error:
                    raise BadAnswer(self.url, f"GET {FEED_PATH}: {error}") from None

    async def manifest(self, version: str) -> Manifest | None:
        """A version's manifest; None where it has none (old and static servers).

        Raises:
            PeerError: it can't be had, or is wrong.
        """
        reader = await self._read_manifest(version, lambda reader: False)
        if reader is None:
            return None
        try:
            return reader.manifest()
        except ManifestError as error:
            raise BadAnswer(self.url, f"GET {manifest_path(version)}: a wrong manifest: {error}") from None

    async def follow_manifest(
        self, version: str, known: bytes, take: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Read a manifest as it grows: lines that are ``known`` must come again, those that follow go to
        ``take``. Returns when the answer ends, or has no more lines for as long as other answers may take.

        Raises:
            ServerLacks: it doesn't have it, or not any more.
            PeerError: it can't be had, broke off, contradicts what is known, or is wrong.
        """
        path = manifest_path(version)
        pending, position, begun = bytearray(), 0, False
        try:
            async with answer(self._session, self.url, path) as response:
                self._head(response).check_status(200)
                begun = True
                async for chunk in response.content.iter_any():
                    pending += chunk
                    again = min(len(known) - position, len(pending))
                    if pending[:again] != known[position : position + again]:
                        raise BadAnswer(self.url, f"GET {path}: it is not the manifest that others have")
                    del pending[:again]
                    position += again
                    lines = bytes(pending[: pending.rfind(b"\n") + 1])
                    del pending[: len(lines)]
                    if len(pending) > MAX_LINE:
                        raise BadAnswer(self.url, f"GET {path}: a line of more than {MAX_LINE} bytes")
                    try:
                        if lines:
                            await take(lines)
                    except Aborted:
                        return
                    except ManifestError as error:
                        raise BadAnswer(self.url, f"GET {path}: a wrong manifest: {error}") from None
        except ServerStalled:
            if not begun:
                raise

    async def header(self, version: str) -> Header | None:
        """The first line of a version's manifest; None where it has none.

        Raises:
            PeerError: it can't be had, or is wrong.
        """
        reader = await self._read_manifest(version, lambda reader: reader.header is not None)
        return reader.header if reader else None

    async def _read_manifest(
        self, version: str, enough: Callable[[ManifestReader], bool]
    ) -> ManifestReader | None:
        path = manifest_path(version)
        reader = ManifestReader(version)
        try:
            async with answer(self._session, self.url, path) as response:
                self._head(response).check_status(200)
                loop, received = asyncio.get_running_loop(), 0
                deadline = loop.time() + self._timeout
                async for chunk in response.content.iter_any():
                    reader.feed(chunk)
                    received += len(chunk)
                    if received >= _PROGRESS:
                        received, deadline = 0, loop.time() + self._timeout
                    elif loop.time() > deadline:
                        raise ServerStalled(self.url, f"GET {path}: next to nothing came for too long")
                    if enough(reader):
                        response.close()
                        break
                return reader
        except ServerLacks:
            return None
        except ManifestError as error:
            if reader.header is None and self.node_id is None:
                return None  # a web page where a static server has nothing
            raise BadAnswer(self.url, f"GET {path}: a wrong manifest: {error}") from None

    async def shard_size(self, version: str, shard: int, digits: int) -> int:
        """Bytes of a shard.

        Raises:
            ServerLacks: it doesn't have the shard.
            PeerError: it doesn't say.
        """
        path = shard_path(version, shard, digits)
        for method in ("HEAD", "GET"):
            async with answer(self._session, self.url, path, method) as response:
                head = self._head(response)
                if method == "HEAD" and head.status in (405, 501):
                    continue
                head.check_status(200)
                if method == "GET":
                    response.close()
                if head.length is None:
                    raise BadAnswer(self.url, f"{head.request}: it doesn't say how many bytes there are")
                return head.length
        raise BadAnswer(self.url, f"HEAD {path}: it doesn't say how many bytes there are")

    async def receive(self, version: str, landing: Landing, order: Order, digits: int = 3) -> None:
        """Ask for a range of a shard, verify and write it as it comes. What landed before an error stays.

        Raises:
            ServerUnreachable, ServerStalled, ServerLacks, BadAnswer: as their names say.
            WrongBytes: a piece was wrong.
            LocalDiskError: it can't be written.
        """
        shard = landing.shard
        path = shard_path(version, shard.number, digits)
        headers = request_headers(shard, order, self.node_id is not None)
        try:
            if self._bulk.direct:
                try:
                    self._learn(await self._bulk.receive(path, headers, landing, order))
                    return
                except HandOver:
                    order.received = 0
            async with answer(self._session, self.url, path, headers=headers) as response:
                skip = self._head(response).check_body(shard, order)
                await self._pour(response, landing, order, skip, path)
        except WrongPiece as error:
            raise WrongBytes(
                self.url, f"{version} shard {shard.number}: wrong bytes in the piece at {error.offset}"
            ) from None

    def _head(self, response: aiohttp.ClientResponse) -> Answer:
        request = f"{response.method} {response.url.path}"
        headers = response.headers
        head = Answer(self.url, request, response.status, headers)
        self._learn(head)
        self.serial = response.version is not None and response.version < (1, 1)
        return head

    def _learn(self, head: Answer) -> None:
        self.node_id = head.headers.get(NODE_ID, "") or None

    async def _pour(
        self, response: aiohttp.ClientResponse, landing: Landing, order: Order, skip: int, path: str
    ) -> None:
        """The body ─▶ the landing. While one buffer is verified and written, the next one fills."""
        pouring = _Pouring(landing, order.start)
        rest = memoryview(b"")
        try:
            while pouring.position < order.end:
                if not rest:
                    rest = memoryview(await response.content.readany())
                    order.received += max(0, len(rest) - skip)
                    if not rest:
                        missing = order.end - pouring.position
                        raise BadAnswer(self.url, f"GET {path}: it ended {missing} bytes too early")
                if skip:
                    skip, rest = skip - min(skip, len(rest)), rest[skip:]
                    continue
                # The end may have come nearer while this waited: another connection took the rest over.
                order.landing = True
                rest = rest[await pouring.pour(rest[: max(0, order.end - pouring.position)], order.end) :]
                order.landing = False
        finally:
            await pouring.finish(order.end)


class _Pouring:
    """Bytes of one answer on their way into a landing. While some are verified and written, the next ones
    fill a buffer; whole pieces go as soon as there are many, or the last ones went some time ago."""

    def __init__(self, landing: Landing, start: int) -> None:
        size = max(_BUFFER_SIZE // landing.piece_size, 1) * landing.piece_size
        self._landing = landing
        self._buffer, self._spare = memoryview(bytearray(size)), memoryview(bytearray(size))
        self._filled = 0
        self._start = start  # of the buffer, in the shard
        self._under_way: asyncio.Future[None] | None = None
        self._landed_at = 0.0

    @property
    def position(self) -> int:
        """The next byte that it takes."""
        return self._start + self._filled

    async def pour(self, data: memoryview, end: int) -> int:
        """Take bytes, as many as fit; ``end`` is where the last piece ends."""
        count = min(len(data), len(self._buffer) - self._filled)
        self._buffer[self._filled : self._filled + count] = data[:count]
        self._filled += count
        if self._filled == len(self._buffer) or self.position >= end or self._is_time():
            await self._land(end)
        return count

    def _is_time(self) -> bool:
        if self._filled < self._landing.piece_size or (self._under_way and not self._under_way.done()):
            return False
        return asyncio.get_running_loop().time() - self._landed_at >= _LONGEST_HELD

    async def finish(self, end: int) -> None:
        """Land what is whole, however the answer ended."""
        if self._filled:
            await self._land(end)
        await self._wait()

    async def _land(self, end: int) -> None:
        await self._wait()
        beyond = max(0, self.position - end)  # a part that another connection took over meanwhile
        whole = self._filled - beyond
        if self.position < end:
            whole -= whole % self._landing.piece_size
        left = self._filled - beyond - whole
        self._filled = left
        if whole > 0:
            self._spare[:left] = self._buffer[whole : whole + left]
            self._under_way = asyncio.ensure_future(self._landing.land(self._start, self._buffer[:whole]))
            self._start += whole
            self._buffer, self._spare = self._spare, self._buffer
        self._landed_at = asyncio.get_running_loop().time()

    async def _wait(self) -> None:
        """The spare buffer is free only when what was landing from it has landed."""
        if self._under_way:
            try:
                await asyncio.shield(self._under_way)
            finally:
                if self._under_way.done():
                    self._under_way = None
