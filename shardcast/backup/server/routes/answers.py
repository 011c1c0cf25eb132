"""Answers of a backup server, with errors as JSON and a status."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from shardcast.backup.entries import bytes_of_text
from shardcast.backup.server.accounts import BackupClient
from shardcast.backup.server.refusals import BackupRefused, ChunksMissing
from shardcast.backup.server.routes.authentication import client_of, known_client
from shardcast.backup.server.state import BackupServerState
from shardcast.backup.wire import MAX_JSON, MAX_TEXT
from shardcast.disk_errors import is_full
from shardcast.errors import IntegrityError, LocalDiskError
from shardcast.json_text import parse_json
from shardcast.protocol.wire import BYTES, RETRY_AFTER
from shardcast.server.bodies import BodyTooLarge, read_body
from shardcast.server.connections import BodyTooSlow
from shardcast.server.guard import send_refusal
from shardcast.server.scoped_routes import ExpectHandler, RouteHandler, send_continue

log = logging.getLogger(__name__)

ClientHandler = Callable[[web.Request, BackupClient], Awaitable[web.StreamResponse]]
"""A handler of a client's requests."""


def answering(handler: RouteHandler) -> RouteHandler:
    """Return a handler whose errors are answered as JSON; missing chunks (409) as the bytes of their ids."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ChunksMissing as error:
            return web.Response(status=409, body=b"".join(error.ids), content_type=BYTES)
        except BackupRefused as error:
            return await refuse(request, error.status, str(error))
        except BodyTooLarge as error:
            return await refuse(
                request, 413, f"the body is too large: at most {error.args[0]} bytes are taken"
            )
        except BodyTooSlow as error:
            return await refuse(request, 408, str(error))
        except IntegrityError as error:
            log.error("%s %s: %s", request.method, request.path, error)
            return await refuse(request, 500, str(error))
        except LocalDiskError as error:
            log.error("%s %s: %s", request.method, request.path, error)
            if is_full(error):
                return await refuse(request, 507, "the disk of the backup server is full; tell its operator")
            return await refuse(
                request, 503, "the backup server could not use its disk; its log says why, tell its operator"
            )

    return answer


def for_client(state: BackupServerState, handler: ClientHandler, *, writes: bool = False) -> RouteHandler:
    """Return a handler of requests with a client's key; see ``answering``."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request, await client_of(state, request, writes=writes))

    return answering(answer)


def expecting(state: BackupServerState) -> ExpectHandler:
    """Return a handler of ``Expect: 100-continue``: only clients with a known key are asked for the body."""

    async def expect(request: web.Request) -> web.StreamResponse | None:
        try:
            if await known_client(state, request) is None:
                return None  # the handler answers
        except (BackupRefused, LocalDiskError):
            return None
        return await send_continue(request)

    return expect


async def refuse(request: web.Request, status: int, message: str) -> web.StreamResponse:
    """Answer with an error, without the rest of the request's body."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="shardcast-backup", error="invalid_token"'
    if status in (429, 503):
        headers["Retry-After"] = RETRY_AFTER
    return await send_refusal(request, status, message, headers)


def json_refusal(request: web.Request, status: int, message: str, headers: Mapping[str, str]) -> web.Response:
    """Return an error as JSON (for ``REFUSAL_ANSWER``)."""
    return web.json_response({"error": message}, status=status, headers=headers)


async def read_fields(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        BackupRefused: the body is no JSON object.
        BodyTooLarge: the body is too large.
    """
    return parse_fields(await read_body(request, MAX_JSON))


def parse_fields(data: bytes) -> dict[str, Any]:
    """Return the JSON object in bytes.

    Raises:
        BackupRefused: they are no JSON object.
    """
    try:
        fields = parse_json(data)
    except ValueError as error:
        raise BackupRefused(f"the body is no JSON: {error}", status=400) from None
    if not isinstance(fields, dict):
        raise BackupRefused("the body is no JSON object", status=400)
    return fields


def text_field(fields: Mapping[str, Any], name: str, *, default: str | None = None) -> str:
    """Return a text among the fields of a body.

    Raises:
        BackupRefused: the field is missing, no text, or too long.
    """
    value = fields.get(name, default)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise BackupRefused(f"{name!r} must be a text of at most {MAX_TEXT} characters", status=400)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BackupRefused(f"{name!r} is no text in Unicode", status=400) from None
    return value


def path_field(fields: Mapping[str, Any]) -> str:
    """Return the path among the fields of a body, ``path`` or ``path64``, as text for people.

    Raises:
        BackupRefused: the path is missing, or malformed.
    """
    for name in ("path", "path64"):
        text_field(fields, name, default="")
    try:
        return bytes_of_text(fields, "path").decode(errors="backslashreplace")
    except ValueError as error:
        raise BackupRefused(f"'path' is malformed: {error}", status=400) from None


def json_lines(items: list[dict[str, Any]]) -> web.Response:
    """Return an answer with a JSON object a line."""
    text = "".join(json.dumps(item, separators=(",", ":")) + "\n" for item in items)
    return web.Response(body=text.encode(), content_type="application/x-ndjson")
