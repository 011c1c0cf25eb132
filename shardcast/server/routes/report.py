"""``POST /report``: the nodes below this one report their versions."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.protocol.report import MAX_REPORT, Node, ReportError, parse, parse_in_slices
from shardcast.protocol.wire import REPORT_PATH
from shardcast.server.bodies import read_body
from shardcast.server.downstream import Downstream
from shardcast.server.scoped_routes import add_route
from shardcast.server.turns import Turns

_SMALL = 16 << 10
"""Bytes of a report that is recorded at once."""


def _record(raw: bytes, below: Downstream, address: str) -> Iterator[None]:
    """Record a report, slice by slice.

    Raises:
        ReportError: the bytes are no report; then no part of it counts.
    """
    nodes: list[Node] = []
    for batch in parse_in_slices(raw):
        nodes += batch
        yield
    yield from below.record_in_slices(nodes, address)


def add_report_routes(app: web.Application, downstream: Downstream) -> None:
    """Record the reports of nodes in ``downstream``."""
    turns = Turns()

    async def report(request: web.Request) -> web.StreamResponse:
        raw = await read_body(request, MAX_REPORT)
        address = request.remote or ""
        try:
            if len(raw) <= _SMALL:
                downstream.record(parse(raw), address)
            else:
                await turns.run(_record(raw, downstream, address))
        except ReportError as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        return web.Response(status=204)

    add_route(app, "POST", REPORT_PATH, report, scope=Scope.REPORT)
