"""``POST /report``: the nodes below this one report their versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aiohttp import web

from shardcast.access.certificates import subject_name
from shardcast.access.scopes import Scope
from shardcast.plain_text import short_name
from shardcast.protocol.report import MAX_NAME, MAX_REPORT, Node, ReportError, parse, parse_in_slices
from shardcast.protocol.wire import REPORT_PATH
from shardcast.server.bodies import read_body
from shardcast.server.downstream import Downstream
from shardcast.server.guard import token_name
from shardcast.server.scoped_routes import add_route
from shardcast.server.turns import Turns

_SMALL = 16 << 10
"""Maximum bytes of a report recorded at once."""


def _named(nodes: list[Node], subject: str) -> list[Node]:
    """Return the nodes of a report with the reporter under the name in its certificate or of its token.

    Its own name stands behind this one: anybody can claim any name.
    """
    if not subject:
        return nodes
    reporter = nodes[0]
    own = f" ({reporter.name})" if reporter.name and reporter.name != subject else ""
    return [replace(reporter, name=short_name(subject + own, MAX_NAME)), *nodes[1:]]


def _record(raw: bytes, below: Downstream, address: str, subject: str) -> Iterator[None]:
    """Record a report, slice by slice.

    Raises:
        ReportError: the bytes are no report; then no part of it counts.
    """
    nodes: list[Node] = []
    for batch in parse_in_slices(raw):
        nodes += batch
        yield
    yield from below.record_in_slices(_named(nodes, subject), address)


def add_report_routes(app: web.Application, downstream: Downstream) -> None:
    """Record the reports of nodes in ``downstream``."""
    turns = Turns()

    async def report(request: web.Request) -> web.StreamResponse:
        raw = await read_body(request, MAX_REPORT)
        address = request.remote or ""
        subject = subject_name(request.get_extra_info("peercert") or {}) or token_name(request)
        try:
            if len(raw) <= _SMALL:
                downstream.record(_named(parse(raw), subject), address)
            else:
                await turns.run(_record(raw, downstream, address, subject))
        except ReportError as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        return web.Response(status=204)

    add_route(app, "POST", REPORT_PATH, report, scope=Scope.REPORT)
