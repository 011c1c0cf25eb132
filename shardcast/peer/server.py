"""A server as typed calls: lists, feeds, leases, reports, manifests and shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import aiohttp

from shardcast.constants import FEED_DEAD, HTTP_TIMEOUT
from shardcast.errors import BadAnswer, ServerBusy, ServerLacks, ServerStalled, WrongBytes
from shardcast.json_text import parse_json
from shardcast.peer.bulk import Bulk, NotPlain
from shardcast.peer.download_limit import shard_turn
from shardcast.peer.failures import wants_token
from shardcast.peer.landing_writer import write_body
from shardcast.peer.pace import PORTION, read_by, read_paced
from shardcast.peer.requests import Answer, RangeRequest, request_headers
from shardcast.peer.session import Session, answer
from shardcast.protocol.distribution import Distribution, Listing, parse
from shardcast.protocol.feed import Event, FeedError, FeedReader, Hello, UpTo
from shardcast.protocol.lines import LineReader, LineTooLong
from shardcast.protocol.manifest import Header, Manifest
from shardcast.protocol.manifest_reader import MAX_MEMORY, Aborted, ManifestError, ManifestReader
from shardcast.protocol.wire import (
    DISTRIBUTION_PATH,
    FEED_PATH,
    MAX_DISTRIBUTION_SIZE,
    NDJSON,
    NODE_ID_HEADER,
    REPORT_PATH,
    lease_path,
    manifest_path,
    shard_path,
)
from shardcast.store.landing import Landing, WrongPiece

_SECOND_LOOK = 0.1
"""Seconds until a list caught half-written is read again."""
_LIMITED_SECONDS = 1.0
"""Seconds for which the download limit counts as reached after an answer has waited for the limit."""
_FEED_PORTION = 16 * 1024
_FEED_PACE = 0.01
"""Bytes of a feed parsed at a time, and seconds until the next where there are more: a flood gets no more of
the loop's time."""
_LEASE_PORTION = 1024
"""Bytes of a lease parsed at a time: a flood gets no more of the loop's time."""
_LIMIT_SERIAL = 2
"""Requests at once to a server that answers one after the other: the next one waits there already."""


class Peer:
    """One server, as typed calls.

    Attributes:
        url: base URL.
        node_id: the id of a shardcast node; None for old and static servers.
        serial: whether the server speaks HTTP/1.0, and so perhaps answers one request after the other.
    """

    def __init__(self, url: str, session: Session, timeout: float = HTTP_TIMEOUT) -> None:
        """Prepare to ask the server at ``url``; ``timeout`` is the ``HTTP_TIMEOUT`` of its requests.

        Raises:
            UsageError: the server is not https, and TLS is required.
        """
        session.access.check_server(url)
        self.url = url
        self.node_id: str | None = None
        self.serial = False
        self._session = session
        self._bulk = Bulk(url, session, timeout)
        self._timeout = timeout

    @property
    def max_requests(self) -> int:
        """Maximum of useful simultaneous requests to the server."""
        return _LIMIT_SERIAL if self.serial else 1_000_000

    async def listings(self) -> tuple[Listing, ...]:
        """Return the complete versions on offer at the server, oldest first.

        A list possibly caught in the middle of an old node's write is read twice.

        Raises:
            PeerError: there is none, or the answer is no distribution list.
        """
        first = await self._distribution()
        if first.doubtful:
            await asyncio.sleep(_SECOND_LOOK)
            first = first.settle(await self._distribution())
        if first.is_foreign:
            raise BadAnswer(self.url, f"GET {DISTRIBUTION_PATH}: the answer is no distribution list")
        return first.listings

    async def _distribution(self) -> Distribution:
        """Read the distribution list once.

        Raises:
            PeerError: there is none, or it is no text.
        """
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout),
                answer(self._session, self.url, DISTRIBUTION_PATH) as response,
            ):
                self._head(response).check_status(200)
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_DISTRIBUTION_SIZE:
                        break
            return parse(bytes(body))
        except TimeoutError:
            raise ServerStalled(
                self.url, f"GET {DISTRIBUTION_PATH}: no whole answer within {self._timeout:g} s"
            ) from None
        except ValueError as error:
            raise BadAnswer(self.url, f"GET {DISTRIBUTION_PATH}: {error}") from None

    async def feed(self, after: str) -> AsyncGenerator[Hello | Event | UpTo, None]:
        """Yield the events of the server's versions, until the server ends its feed.

        Args:
            after: ``<feed id>:<seq>``; where the server still knows this event, its feed goes on from there.

        Raises:
            ServerLacks: there is no feed (old and static servers).
            AccessDenied: the server wants a token, or another one.
            PeerError: the feed can't be had, broke off, is wrong, or is dead.
        """
        reader = FeedReader()
        path = f"{FEED_PATH}?after={after}" if after else FEED_PATH
        async with answer(self._session, self.url, path, silence=FEED_DEAD) as response:
            head = self._head(response)
            if wants_token(head.status, head.headers):
                head.check_status(200)
            if response.status != 200 or response.content_type != NDJSON:
                raise ServerLacks(self.url, f"GET {FEED_PATH}: there is no feed ({response.status})")
            loop = asyncio.get_running_loop()
            dead_at = loop.time() + FEED_DEAD
            content = response.content
            while chunk := await read_by(dead_at, content.read, _FEED_PORTION):
                if len(chunk) == _FEED_PORTION:
                    await asyncio.sleep(_FEED_PACE)
                try:
                    for message in reader.feed(chunk):
                        if isinstance(message, UpTo):
                            dead_at = loop.time() + FEED_DEAD
                        yield message
                except FeedError as error:
                    raise BadAnswer(self.url, f"GET {FEED_PATH}: {error}") from None

    async def lease(self, version: str, holder: str) -> AsyncGenerator[None, None]:
        """Hold a version during the iteration, until the server ends the lease.

        Args:
            version: name of the version.
            holder: the reader's name, for the server's operators.

        Yields:
            None, at each confirmation of the server.

        Raises:
            ServerLacks: the server doesn't have the version (any more), or has no leases (old and static
                servers).
            PeerError: the lease can't be had, broke off, is wrong, or is dead.
        """
        path = f"{lease_path(version)}?holder={quote(holder, safe='')}"
        what, reader = f"GET {lease_path(version)}", LineReader()
        async with answer(self._session, self.url, path, silence=FEED_DEAD) as response:
            self._head(response).check_status(200)
            if response.content_type != NDJSON:
                raise ServerLacks(self.url, f"{what}: it is no shardcast node with leases")
            loop, content = asyncio.get_running_loop(), response.content
            dead_at = loop.time() + FEED_DEAD
            while chunk := await read_by(dead_at, content.read, _LEASE_PORTION):
                try:
                    lines = list(reader.feed(chunk))
                except LineTooLong as error:
                    raise BadAnswer(self.url, f"{what}: {error}") from None
                for line in lines:
                    message = _json_object(line)
                    if message is None:
                        raise BadAnswer(self.url, f"{what}: a line that is no JSON object")
                    if "ended" in message:
                        raise ServerLacks(self.url, f"{what}: {str(message['ended'])[:200]!r}")
                if lines:
                    yield None
                    dead_at = loop.time() + FEED_DEAD

    async def report(self, body: bytes) -> None:
        """Tell the server of the versions of this node and the nodes below.

        Raises:
            PeerError: the server can't be reached, or refuses the report.
        """
        # The next report is minutes away, and the server need not keep a connection until then.
        headers = {"Content-Type": "application/json", "Connection": "close"}
        async with answer(
            self._session, self.url, REPORT_PATH, "POST", headers=headers, silence=self._timeout, body=body
        ) as response:
            self._head(response).check_status(204)

    async def manifest(self, version: str, memory: int = MAX_MEMORY) -> Manifest | None:
        """Return a version's manifest; None where the server has none (old and static servers).

        Args:
            version: name of the version.
            memory: maximum bytes of memory for the manifest.

        Raises:
            PeerError: the manifest can't be had, or is wrong.
        """
        reader = await self._read_manifest(version, lambda reader: False, memory)
        if reader is None:
            return None
        try:
            return reader.manifest()
        except ManifestError as error:
            raise BadAnswer(self.url, f"GET {manifest_path(version)}: a wrong manifest: {error}") from None

    async def follow_manifest(
        self, version: str, known: bytes, on_lines: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Read a growing manifest, until the answer ends or brings no line within the time-out.

        Bytes without a newline are no progress.

        Args:
            version: name of the version.
            known: the lines known by now, expected again.
            on_lines: takes the following lines; ends the reading by ``Aborted``.

        Raises:
            ServerLacks: the server doesn't have the manifest, or not any more.
            PeerError: the manifest can't be had, broke off, contradicts the known lines, or is wrong.
        """
        path = manifest_path(version)
        reader, position, progress, answered = LineReader(), 0, 0, False
        try:
            async with answer(self._session, self.url, path) as response:
                self._head(response).check_status(200)
                answered, loop, content = True, asyncio.get_running_loop(), response.content
                dead_at = loop.time() + self._timeout
                while chunk := await read_by(dead_at, content.readany):
                    again = min(len(known) - position, len(chunk))
                    if chunk[:again] != known[position : position + again]:
                        raise BadAnswer(self.url, f"GET {path}: it is not the manifest that others have")
                    position, progress = position + again, progress + again
                    try:
                        lines = b"".join(line + b"\n" for line in reader.feed(chunk[again:]))
                        if lines:
                            await on_lines(lines)
                    except Aborted:
                        return
                    except LineTooLong as error:
                        raise BadAnswer(self.url, f"GET {path}: {error}") from None
                    except ManifestError as error:
                        raise BadAnswer(self.url, f"GET {path}: a wrong manifest: {error}") from None
                    if lines or progress >= PORTION:
                        progress, dead_at = 0, loop.time() + self._timeout
        except ServerStalled:
            if not answered:
                raise

    async def manifest_header(self, version: str) -> Header | None:
        """Return the first line of a version's manifest; None where the server has none.

        Raises:
            PeerError: the manifest can't be had, or is wrong.
        """
        reader = await self._read_manifest(version, lambda reader: reader.header is not None)
        return reader.header if reader else None

    async def _read_manifest(
        self, version: str, enough: Callable[[ManifestReader], bool], memory: int = MAX_MEMORY
    ) -> ManifestReader | None:
        """Read a manifest until it is ``enough``, or to its end; None where the server has none.

        Raises:
            PeerError: the manifest can't be had, or is wrong.
        """
        path = manifest_path(version)
        reader = ManifestReader(version, memory)
        try:
            async with answer(self._session, self.url, path) as response:
                self._head(response).check_status(200)
                async with aclosing(read_paced(response, self.url, f"GET {path}", self._timeout)) as chunks:
                    async for chunk in chunks:
                        self._count(chunk)
                        reader.feed(chunk)
                        if enough(reader):
                            response.close()
                            break
                return reader
        except ServerBusy:  # a ServerLacks, but the server may have a manifest
            raise
        except ServerLacks:
            return None
        except ManifestError as error:
            if reader.header is None and self.node_id is None:
                return None  # a web page where a static server has nothing
            raise BadAnswer(self.url, f"GET {path}: a wrong manifest: {error}") from None

    async def shard_size(self, version: str, shard: int, digits: int) -> int:
        """Return the bytes of a shard, by HEAD, or by GET for a server without HEAD.

        Args:
            version: name of the version.
            shard: number of the shard.
            digits: digits of the number in the shard's name.

        Raises:
            ServerLacks: the server doesn't have the shard.
            PeerError: the server doesn't say.
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

    async def receive(self, version: str, landing: Landing, request: RangeRequest, digits: int = 3) -> None:
        """Ask for a range of a shard, verify and write the bytes as they come.

        Pieces landed before an error stay. Plain answers are received in a thread (``Bulk``), the others by
        aiohttp.

        Raises:
            PeerError: no answer, another one than the range, or a broken one.
            WrongBytes: a piece was wrong.
            LocalDiskError: the landing can't be written.
        """
        shard = landing.shard
        path = shard_path(version, shard.number, digits)
        headers = request_headers(shard, request, self.node_id is not None)
        request.writing = True  # it may wait for its turn here
        try:
            async with shard_turn(self._session.downloads, self.url) as share:
                request.writing = False
                if self._bulk.direct:
                    try:
                        head = await self._bulk.receive(path, headers, landing, request, share=share)
                        self._learn(head)
                        return
                    except NotPlain:
                        request.received = 0
                async with answer(self._session, self.url, path, headers=headers) as response:
                    skip = self._head(response).check_body(shard, request)
                    await write_body(
                        response, landing, request, server=self.url, path=path, skip=skip, share=share
                    )
        except WrongPiece as error:
            raise WrongBytes(
                self.url, f"{version} shard {shard.number}: wrong bytes in the piece at {error.offset}"
            ) from None

    @property
    def is_limited_here(self) -> bool:
        """Whether the download limit of this node, no server, sets the speed of answers now."""
        limit = self._session.downloads
        return limit is not None and limit.is_reached(_LIMITED_SECONDS)

    def _count(self, data: bytes) -> None:
        """Count bytes of a manifest, which do not wait."""
        if self._session.downloads:
            self._session.downloads.count(self.url, len(data))

    def _head(self, response: aiohttp.ClientResponse) -> Answer:
        """Return the head of an answer, and learn the kind of the server."""
        request = f"{response.method} {response.url.path}"
        headers = response.headers
        head = Answer(self.url, request, response.status, headers, response.reason)
        self._learn(head)
        self.serial = response.version is not None and response.version < (1, 1)
        return head

    def _learn(self, head: Answer) -> None:
        self.node_id = head.headers.get(NODE_ID_HEADER, "") or None


def _json_object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line; None for anything else."""
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
