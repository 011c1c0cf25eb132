"""Routes and their rules: no route is added without one."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import web

import shardcast
from shardcast.access.scopes import Scope
from shardcast.server.scoped_routes import RULES, RouteRule, add_route

_PACKAGE = Path(shardcast.__file__).parent
_OTHER_WAYS = re.compile(
    r"\.(add_(get|post|put|head|delete|patch|options|view|static|routes|resource|route|subapp|domain)\(|register_resource)"
    r"|web\.(get|post|put|head|delete|patch|view|static|route|RouteTableDef)\("
)


async def _answer(request: web.Request) -> web.StreamResponse:
    return web.Response()


def test_route_has_rule_for_each_of_its_methods() -> None:
    app = web.Application()
    add_route(app, "GET", "/feed", _answer, scope=Scope.READ, stays_open=True)
    add_route(app, "POST", "/report", _answer, scope=Scope.REPORT)
    add_route(app, "GET", "/ready", _answer, scope=None)
    rules = {(route.method, route.resource.canonical): rule for route, rule in app[RULES].items()}  # type: ignore[union-attr]
    assert rules == {
        ("GET", "/feed"): RouteRule(Scope.READ, stays_open=True),
        ("HEAD", "/feed"): RouteRule(Scope.READ, stays_open=True),
        ("POST", "/report"): RouteRule(Scope.REPORT),
        ("GET", "/ready"): RouteRule(None),
        ("HEAD", "/ready"): RouteRule(None),
    }
    assert set(app[RULES]) == set(app.router.routes())


def test_no_route_is_added_in_another_way() -> None:
    others = [
        f"{path.relative_to(_PACKAGE)}: {line.strip()}"
        for path in sorted(_PACKAGE.rglob("*.py"))
        if path != _PACKAGE / "server" / "scoped_routes.py"
        for line in path.read_text().splitlines()
        if _OTHER_WAYS.search(line)
    ]
    assert others == [], "use shardcast.server.scoped_routes.add_route, which takes the scope"
