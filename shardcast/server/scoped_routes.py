"""Routes with their scopes: the one way in which a listener gets a route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import hdrs, web

from shardcast.access.scopes import Scope

RouteHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""A function that answers requests."""
ExpectHandler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""A function that answers ``Expect: 100-continue`` before the body is sent."""


@dataclass(frozen=True)
class RouteRule:
    """The requirements of a route.

    Attributes:
        scope: the scope that a request's token must have; None for a route that is open to all.
        stays_open: whether answers stay open, and end when their token ends.
    """

    scope: Scope | None
    stays_open: bool = False


RULES = web.AppKey("rules", dict[web.AbstractRoute, RouteRule])
"""The rules of an application's routes."""


def add_route(
    app: web.Application,
    method: str,
    path: str,
    handler: RouteHandler,
    *,
    scope: Scope | None,
    stays_open: bool = False,
    expect_handler: ExpectHandler | None = None,
) -> None:
    """Add a route and its rule; a GET answers HEAD too.

    Args:
        app: the application.
        method: the method, ``*`` for all.
        path: the path, as the router writes it.
        handler: answers the requests.
        scope: the scope that a request needs; None for a route that is open to all.
        stays_open: whether answers stay open, and end when their token ends.
        expect_handler: answers ``Expect: 100-continue``; None for aiohttp's.
    """
    rules, rule = app.setdefault(RULES, {}), RouteRule(scope, stays_open)
    resource = app.router.add_resource(path)
    for name in (hdrs.METH_HEAD, method) if method == hdrs.METH_GET else (method,):
        rules[resource.add_route(name, handler, expect_handler=expect_handler)] = rule
