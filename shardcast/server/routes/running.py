"""``GET /running`` on the data directory's Unix socket: where the origin listens, and how it was started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.protocol.wire import RUNNING_PATH
from shardcast.server.scoped_routes import add_route


def add_running_routes(app: web.Application, running: Mapping[str, Any]) -> None:
    """Answer programs that attach to the origin with what ``running`` says."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(dict(running))

    add_route(app, "GET", RUNNING_PATH, answer, scope=Scope.PUBLISH)
