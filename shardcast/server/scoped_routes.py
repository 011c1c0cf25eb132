"""Routes with their scopes: the one way to add a route to a listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import HttpVersion11, hdrs, web

from shardcast.access.scopes import Scope
from shardcast.plain_text import one_line

RouteHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""A function to answer requests."""
ExpectHandler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""A function to answer ``Expect: 100-continue`` before the body is sent."""


@dataclass(frozen=True)
class RouteRule:
    """The requirements of a route.

    Attributes:
        scope: the scope required of a request's token; None for a route open to all.
        stays_open: whether answers stay open, and end with their token.
        also_accepts: returns whether a bearer's credentials other than a token of the server allow the
            request.
    """

    scope: Scope | None
    stays_open: bool = False
    also_accepts: Callable[[str], bool] | None = None


RULES = web.AppKey("rules", dict[web.AbstractRoute, RouteRule])
"""The rules of an application's routes."""
MAY_SEND_BODY: web.AppKey[Callable[[web.Request], bool]] = web.AppKey("may_send_body")
"""Returns whether a request may get its ``100 Continue``; the guard sets this."""


def add_route(
    app: web.Application,
    method: str,
    path: str,
    handler: RouteHandler,
    *,
    scope: Scope | None,
    stays_open: bool = False,
    also_accepts: Callable[[str], bool] | None = None,
    expect_handler: ExpectHandler | None = None,
) -> None:
    """Add a route and its rule; a GET answers HEAD too.

    Args:
        app: the application.
        method: the method, ``*`` for all.
        path: the path, as the router writes it.
        handler: answers the requests.
        scope: the scope required of a request; None for a route open to all.
        stays_open: whether answers stay open, and end with their token.
        also_accepts: returns whether other credentials than a token of the server allow the request.
        expect_handler: answers ``Expect: 100-continue``; None for aiohttp's.
    """
    rules, rule = app.setdefault(RULES, {}), RouteRule(scope, stays_open, also_accepts)
    if MAY_SEND_BODY in app:
        expect_handler = _guarded(expect_handler or send_continue)
    resource = app.router.add_resource(path)
    for name in (hdrs.METH_HEAD, method) if method == hdrs.METH_GET else (method,):
        rules[resource.add_route(name, handler, expect_handler=expect_handler)] = rule


def _guarded(expect_handler: ExpectHandler) -> ExpectHandler:
    """Return an expect handler that asks for the body of an allowed request alone."""

    async def expect(request: web.Request) -> web.StreamResponse | None:
        if not request.app[MAY_SEND_BODY](request):
            return None  # the guard answers
        return await expect_handler(request)

    return expect


async def send_continue(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body, as aiohttp does by default.

    Raises:
        HTTPExpectationFailed: something else is expected.
    """
    expected = request.headers.get(hdrs.EXPECT, "")
    if expected.lower() != "100-continue":
        raise web.HTTPExpectationFailed(text=f"417: {one_line(expected, 100)} can't be met\n")
    if request.version >= HttpVersion11 and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None
