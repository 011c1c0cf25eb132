"""The door for operators: is it alive, and what is it doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from shardcast.wire import HEALTHCHECK_PATH, STATUS_PATH


def add_health(app: web.Application, status: Callable[[], Mapping[str, Any]]) -> None:
    """Say that the node lives, and ``status()`` as JSON."""

    async def healthcheck(request: web.Request) -> web.StreamResponse:
        return web.Response(text="OK")

    async def report(request: web.Request) -> web.StreamResponse:
        return web.json_response(status())

    app.router.add_get(HEALTHCHECK_PATH, healthcheck)
    app.router.add_get(STATUS_PATH, report)
