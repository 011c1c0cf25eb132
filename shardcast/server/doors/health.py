"""The door for operators: is it alive, has it caught up, and what is it doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from shardcast.wire import HEALTHCHECK_PATH, READY_PATH, STATUS_PATH


def add_health(
    app: web.Application, status: Callable[[], Mapping[str, Any]], behind: Callable[[], str | None]
) -> None:
    """Say that the node lives, ``status()`` as JSON, and whether it has caught up: ``behind()`` says what is
    missing, None when nothing is."""

    async def healthcheck(request: web.Request) -> web.StreamResponse:
        return web.Response(text="OK")

    async def ready(request: web.Request) -> web.StreamResponse:
        missing = behind()
        if missing is None:
            return web.Response(text="OK")
        return web.Response(status=503, text=f"503: {missing}\n")

    async def report(request: web.Request) -> web.StreamResponse:
        return web.json_response(status())

    app.router.add_get(HEALTHCHECK_PATH, healthcheck)
    app.router.add_get(READY_PATH, ready)
    app.router.add_get(STATUS_PATH, report)
