"""The door on the data directory's Unix socket through which versions are pinned there.

``POST /pin`` and ``POST /unpin`` with ``{"version": "v3"}`` are answered with ``{"done": "v3"}`` or
``{"error": …}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from shardcast.errors import ShardcastError, to_wire
from shardcast.wire import NDJSON, PIN_PATH, UNPIN_PATH


class Pinning(Protocol):
    """What holds versions."""

    async def pin(self, version: str) -> None: ...
    async def unpin(self, version: str) -> None: ...


def add_pins(app: web.Application, versions: Pinning) -> None:
    """Pin and unpin ``versions``."""

    def answering(work: Callable[[str], Awaitable[None]]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                version = str((await request.json())["version"])
            except (ValueError, KeyError, TypeError) as error:
                raise web.HTTPBadRequest(text=f"400: {error}\n") from None
            try:
                await work(version)
            except ShardcastError as error:
                return web.json_response({"error": to_wire(error)}, content_type=NDJSON)
            return web.json_response({"done": version}, content_type=NDJSON)

        return answer

    app.router.add_post(PIN_PATH, answering(versions.pin))
    app.router.add_post(UNPIN_PATH, answering(versions.unpin))
