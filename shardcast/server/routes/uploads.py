"""``/uploads``: payloads from elsewhere, at an origin with ``--publish``.

``POST /uploads`` announces a payload, ``PATCH /uploads/<id>`` brings bytes of the payload, ``GET
/uploads/<id>`` tells the progress, ``POST /uploads/<id>/complete`` has the whole payload checked and cut,
``POST /uploads/<id>/confirm`` makes its version complete, and ``DELETE /uploads/<id>`` forgets the upload.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from aiohttp import hdrs, web

from shardcast.access.scopes import Scope
from shardcast.disk_errors import is_full
from shardcast.errors import (
    NodeEnding,
    NodeFailed,
    NoRoom,
    ShardcastError,
    UploadRefused,
    UsageError,
    to_wire,
)
from shardcast.json_text import parse_json
from shardcast.protocol.uploads import (
    UploadRequest,
    UploadsBusy,
    UploadStatus,
    UploadUnknown,
    WholePayload,
    WrongOffset,
    parse_offset,
    upload_path,
)
from shardcast.protocol.wire import NDJSON, RETRY_AFTER, UPLOAD_OFFSET_HEADER, UPLOADS_PATH
from shardcast.server.bodies import chunks, read_body
from shardcast.server.scoped_routes import add_route
from shardcast.server.writing import UNBUFFERED_HEADERS, write

log = logging.getLogger(__name__)

_MAX_REQUEST = 1 << 20
"""Bytes of an announcement; metadata have at most 16 KiB."""
_STATUSES: tuple[tuple[type[ShardcastError], int], ...] = (
    (WrongOffset, 409),
    (UploadUnknown, 404),
    (UploadsBusy, 503),
    (UsageError, 400),
    (NoRoom, 507),
    (NodeEnding, 503),
    (NodeFailed, 410),
)
"""The first matching row counts."""


class UploadTarget(Protocol):
    """The uploads of an origin. Every call raises a ``ShardcastError`` on a refusal."""

    async def begin(self, request: UploadRequest) -> UploadStatus:
        """Begin an upload, or find an earlier one again."""

    def status(self, upload: str) -> UploadStatus:
        """Return how far an upload is."""

    async def append(self, upload: str, offset: int, chunks: AsyncIterable[bytes]) -> UploadStatus:
        """Take bytes from ``offset`` on."""

    def finish(self, upload: str, whole: WholePayload) -> AsyncGenerator[Mapping[str, Any], None]:
        """Check and cut the whole payload; yield progress, then ``ready`` or ``complete``."""

    async def confirm(self, upload: str) -> str:
        """Complete the version, and return its name."""

    async def discard(self, upload: str) -> None:
        """Forget an upload."""


def add_upload_routes(app: web.Application, uploads: UploadTarget) -> None:
    """Take payloads from elsewhere into ``uploads``."""

    async def begin(request: web.Request) -> web.StreamResponse:
        announced = UploadRequest.parse(parse_json(await read_body(request, _MAX_REQUEST)))
        return _answer(await uploads.begin(announced), 201)

    async def status(request: web.Request) -> web.StreamResponse:
        return _answer(uploads.status(_id(request)))

    async def append(request: web.Request) -> web.StreamResponse:
        offset = parse_offset(request.headers.get(UPLOAD_OFFSET_HEADER))
        return _answer(await uploads.append(_id(request), offset, chunks(request)))

    async def finish(request: web.Request) -> web.StreamResponse:
        whole = WholePayload.parse(parse_json(await read_body(request, _MAX_REQUEST)))
        response = web.StreamResponse(headers={"Content-Type": NDJSON, **UNBUFFERED_HEADERS})
        async with aclosing(uploads.finish(_id(request), whole)) as lines:
            try:
                async for line in lines:
                    if not response.prepared:
                        await response.prepare(request)
                    await write(request, response, json.dumps(line).encode() + b"\n")
            except ShardcastError as error:
                if not response.prepared:
                    raise
                line = {"error": to_wire(error)}
                await write(request, response, json.dumps(line).encode() + b"\n")
        await response.write_eof()
        return response

    async def confirm(request: web.Request) -> web.StreamResponse:
        return web.json_response({"complete": await uploads.confirm(_id(request))})

    async def discard(request: web.Request) -> web.StreamResponse:
        await uploads.discard(_id(request))
        return web.Response(status=204)

    one = upload_path("{upload:[0-9a-f]{32}}")
    for method, path, handler, stays_open in (
        ("POST", UPLOADS_PATH, begin, False),
        ("GET", one, status, False),
        ("PATCH", one, append, True),  # of a live upload, followers read the bytes at once
        ("DELETE", one, discard, False),
        ("POST", f"{one}/complete", finish, True),
        ("POST", f"{one}/confirm", confirm, False),
    ):
        add_route(app, method, path, _refusing(handler), scope=Scope.PUBLISH, stays_open=stays_open)


def _id(request: web.Request) -> str:
    return request.match_info["upload"]


def _answer(status: UploadStatus, code: int = 200) -> web.Response:
    headers = {UPLOAD_OFFSET_HEADER: str(status.offset), "Cache-Control": "no-store"}
    return web.json_response(status.as_json(), status=code, headers=headers)


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _refusing(handler: _Handler) -> _Handler:
    """Return a handler that answers errors with a status and ``{"error": …}``.

    Requests of web pages are refused: a browser sends them from its machine, also to ``127.0.0.1``, and under
    a name with this address the page could read the answers.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        if hdrs.ORIGIN in request.headers:
            return _refusal(request, UploadRefused("web pages can't publish"), 403)
        try:
            return await handler(request)
        except ShardcastError as error:
            return _refusal(request, error)
        except ValueError as error:
            return _refusal(request, UsageError(str(error)))

    return answer


def _refusal(request: web.Request, error: ShardcastError, status: int | None = None) -> web.Response:
    """Return the answer to a refused request; the rest of the body is not read."""
    status = status or next(
        (code for kind, code in _STATUSES if isinstance(error, kind)), 507 if is_full(error) else 500
    )
    log.log(
        logging.WARNING if status >= 500 else logging.INFO, "%s %s: %s", request.method, request.path, error
    )
    headers = {UPLOAD_OFFSET_HEADER: str(error.offset)} if isinstance(error, WrongOffset) else {}
    if status == 503:
        headers["Retry-After"] = RETRY_AFTER
    response = web.json_response({"error": to_wire(error)}, status=status, headers=headers)
    if not request.content.is_eof():
        response.force_close()
    return response
