"""A span of a file ─▶ the socket, by sendfile where the event loop has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import BinaryIO

from aiohttp import web

from shardcast.constants import STALLED_READER
from shardcast.store.shelf import Span
from shardcast.wire import BYTES, REPR_DIGEST, Unsatisfiable, etag, matches, parse_range, repr_digest

log = logging.getLogger(__name__)

_PORTION = 16 << 20
"""Bytes after which a reader must have shown that it still takes any."""
_FALLBACK_CHUNK = 1 << 20
"""Bytes read at a time where there is no sendfile (TLS, uvloop)."""


async def send_span(request: web.Request, span: Span) -> web.StreamResponse:
    """Answer a GET or HEAD with the bytes of a span: whole or a range, if the preconditions hold."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": BYTES, "Access-Control-Allow-Origin": "*"}
    if span.digest:
        headers |= {"ETag": etag(span.digest), REPR_DIGEST: repr_digest(span.digest)}
    wanted = request.headers.get("If-Match")
    if wanted is not None and not matches(wanted, span.digest):
        return web.Response(status=412, text="412: other bytes are here\n", headers=_tag_only(headers))
    known = request.headers.get("If-None-Match")
    if known is not None and matches(known, span.digest):
        return web.Response(status=304, headers=_tag_only(headers))
    start, end, status = 0, span.length, 200
    if_range = request.headers.get("If-Range")
    if if_range is None or matches(if_range, span.digest):
        try:
            asked = parse_range(request.headers.get("Range"), span.length)
        except Unsatisfiable:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{span.length}"})
        if asked:
            start, end, status = *asked, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{span.length}"
    try:
        file = span.path.open("rb", buffering=0)
    except OSError as error:
        log.error("can't serve %s: %s", span.path, error.strerror)
        return web.Response(status=404, text="404: it is gone\n")
    with file:
        file.seek(0, 2)
        if file.tell() < span.offset + span.length:
            log.error("can't serve %s: it has %d bytes, not %d", span.path, file.tell(), span.length)
            return web.Response(status=404, text="404: it is gone\n")
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = end - start
        await response.prepare(request)
        if request.method != "HEAD":
            try:
                await _send(request, response, file, span.offset + start, end - start)
            except ConnectionError as error:
                log.debug("%s did not take all of %s: %s", request.remote, request.path, error)
                return response
    await response.write_eof()
    return response


def _tag_only(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key == "ETag"}


async def _send(
    request: web.Request, response: web.StreamResponse, file: BinaryIO, offset: int, count: int
) -> None:
    """
    Raises:
        ConnectionResetError: the reader went away, or took nothing for too long.
    """
    loop, transport = asyncio.get_running_loop(), request.transport
    by_sendfile = True
    while count:
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the reader went away")
        portion = min(count, _PORTION if by_sendfile else _FALLBACK_CHUNK)
        try:
            if by_sendfile:
                work = loop.sendfile(transport, file, offset, portion, fallback=False)
                await asyncio.wait_for(work, STALLED_READER)
            else:
                file.seek(offset)
                chunk = await asyncio.to_thread(file.read, portion)
                await asyncio.wait_for(response.write(chunk), STALLED_READER)
        except (NotImplementedError, asyncio.SendfileNotAvailableError):
            by_sendfile = False
            continue
        except asyncio.TimeoutError:
            log.info("%s took nothing for %g s, and was dropped", request.remote, STALLED_READER)
            transport.abort()
            raise ConnectionResetError("the reader stalled") from None
        offset += portion
        count -= portion
