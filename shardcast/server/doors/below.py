"""The door through which the nodes below say what they have."""

from __future__ import annotations

from aiohttp import web

from shardcast.report import MAX_REPORT, ReportError, parse
from shardcast.server.bodies import read_body
from shardcast.store.below import Below
from shardcast.wire import REPORT_PATH


def add_below(app: web.Application, below: Below) -> None:
    """Take the reports of nodes."""

    async def report(request: web.Request) -> web.StreamResponse:
        try:
            below.heard(parse(await read_body(request, MAX_REPORT)))
        except ReportError as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        return web.Response(status=204)

    app.router.add_post(REPORT_PATH, report)
