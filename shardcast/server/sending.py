"""Answers with the bytes of a span, a blob or a landing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from shardcast.constants import HTTP_TIMEOUT
from shardcast.errors import ShardcastError
from shardcast.protocol.wire import (
    BYTES,
    LANDING,
    REPR_DIGEST,
    RETRY_AFTER,
    STATE_HEADER,
    WHOLE,
    etag,
    repr_digest,
)
from shardcast.server.conditional import select
from shardcast.server.file_sender import FileSender
from shardcast.server.upload_limit import admit
from shardcast.server.writing import UNBUFFERED_HEADERS, write_in_turn
from shardcast.store.file_errors import is_absent, is_of_file
from shardcast.store.holds import Reader
from shardcast.store.interfaces import BlobReader, Span
from shardcast.store.landing import Landing

log = logging.getLogger(__name__)

_CHUNK = 256 << 10
"""Bytes of a blob read and written at a time."""
_GONE = "404: the file here is gone, or was cut short\n"


async def send_span(
    request: web.Request, span: Span, reader: Reader, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Answer a GET or HEAD with the bytes of a span: all, a range, or none where a precondition fails.

    The answer is 404 where the file is gone or too short, 503 where it can't be opened now.

    Args:
        request: the request.
        span: bytes of a file.
        reader: counts the sent bytes.
        headers: further headers of the answer.
    """
    answer = _Answer(request, span.digest, span.length, headers)
    if answer.bodiless:
        return answer.bodiless
    try:
        file = span.path.open("rb", buffering=0)
    except OSError as error:
        log.error("can't serve %s: %s", span.path, error.strerror)
        if is_absent(error) or is_of_file(error, span.path):
            return web.Response(status=404, text=_GONE)
        return web.Response(
            status=503, text="503: the file here can't be read now\n", headers={"Retry-After": RETRY_AFTER}
        )
    with file:
        file.seek(0, 2)
        if file.tell() < span.offset + span.length:
            needed = span.offset + span.length
            log.error("can't serve %s: it has %d bytes, and needs %d", span.path, file.tell(), needed)
            return web.Response(status=404, text=_GONE)

        async def send(response: web.StreamResponse) -> None:
            sender = FileSender(request, response, file, reader)
            await sender.send(span.offset + answer.start, answer.end - answer.start)

        return await answer.respond(WHOLE, send)


async def send_blob(
    request: web.Request,
    blob: BlobReader,
    digest: str,
    reader: Reader,
    *,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Answer a GET or HEAD with the bytes of a blob, like ``send_span``, also of one outside any file.

    A blob outside a file breaks the answer off where it has fewer or wrong bytes. ``digest`` is its SHA-256.
    """
    if blob.span:
        span = Span(blob.span.path, blob.span.offset, blob.span.length, digest)
        return await send_span(request, span, reader, headers)
    answer = _Answer(request, digest, blob.size, headers)
    if answer.bodiless:
        return answer.bodiless

    async def send(response: web.StreamResponse) -> None:
        position = 0
        while position < answer.end:
            data = await blob.read(min(_CHUNK, answer.end - position))
            if not data:
                raise ConnectionResetError("the file is shorter than announced")
            part = data[max(0, answer.start - position) :]
            position += len(data)
            if part:
                await write_in_turn(request, response, part)
                reader.sent += len(part)

    return await answer.respond(WHOLE, send)


async def send_landing(request: web.Request, landing: Landing, reader: Reader) -> web.StreamResponse:
    """Answer a GET or HEAD with the verified pieces of a landing, in order, as they arrive.

    The answer is 503 where the landing has ended already; it breaks off when no piece arrives for
    ``HTTP_TIMEOUT``, or the landing ends.
    """
    shard = landing.shard
    answer = _Answer(request, shard.sha256, shard.size, UNBUFFERED_HEADERS)
    if answer.bodiless:
        return answer.bodiless
    with contextlib.ExitStack() as stack:
        try:
            file, base = stack.enter_context(landing.read_along())
        except OSError:
            return web.Response(
                status=503, text="503: the shard is not here yet\n", headers={"Retry-After": "1"}
            )

        async def send(response: web.StreamResponse) -> None:
            position = answer.start
            while position < answer.end:
                async with asyncio.timeout(HTTP_TIMEOUT):
                    reach = await landing.wait_for_reach(position)
                if reach <= position:
                    raise ConnectionResetError("it arrives no more")
                end = min(reach, answer.end)
                # A new sender each time: few bytes quickly sent do not justify a large portion.
                await FileSender(request, response, file, reader).send(base + position, end - position)
                position = end

        return await answer.respond(LANDING, send)


class _Answer:
    """The bytes selected by a request, and the head of its answer.

    Attributes:
        bodiless: the answer without bytes; None where bytes are to be sent.
        start: the first byte.
        end: the byte after the last.
    """

    def __init__(
        self, request: web.Request, digest: str | None, length: int, headers: Mapping[str, str] | None = None
    ) -> None:
        self._request = request
        self._headers = {"Accept-Ranges": "bytes", "Content-Type": BYTES, "Access-Control-Allow-Origin": "*"}
        self._headers |= headers or {}
        if digest:
            self._headers |= {"ETag": etag(digest), REPR_DIGEST: repr_digest(digest)}
        selected = select(request.headers, digest, length)
        self._status = selected.status
        self.start, self.end = selected.start, selected.end
        self._headers |= selected.headers
        self.bodiless = None if selected.has_bytes else self._without_bytes()

    def _without_bytes(self) -> web.Response:
        """Return the answer 304, 412 or 416."""
        names = ("Content-Range",) if self._status == 416 else ("ETag",)
        kept = {name: self._headers[name] for name in names if name in self._headers}
        text = "412: other bytes are here\n" if self._status == 412 else None
        return web.Response(status=self._status, text=text, headers=kept)

    async def respond(
        self, state: str, send: Callable[[web.StreamResponse], Awaitable[None]]
    ) -> web.StreamResponse:
        """Send the head, and the bytes by ``send``; an error on the way aborts the connection.

        Raises:
            HTTPServiceUnavailable: an upload limit has no room for another reader.
        """
        request = self._request
        if request.method != "HEAD":
            await admit(request)
        response = web.StreamResponse(status=self._status, headers={**self._headers, STATE_HEADER: state})
        response.content_length = self.end - self.start
        try:
            await response.prepare(request)
            if request.method != "HEAD":
                await send(response)
            await response.write_eof()
        except (TimeoutError, ConnectionError, ShardcastError) as error:
            log.debug("%s did not get all of %s: %s", request.remote, request.path, error)
            if request.transport:
                request.transport.abort()
        return response
