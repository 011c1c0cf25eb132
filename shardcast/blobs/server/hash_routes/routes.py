"""The routes of a hash server: the blobs of a directory under their checksums, as hashserver serves them.

``docs/compatibility.md`` lists where the two differ, and why.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.blobs.server.hash_routes.bodies import delay_continue
from shardcast.blobs.server.hash_routes.failures import Handler, guarded
from shardcast.blobs.server.hash_routes.queries import Queries
from shardcast.blobs.server.hash_routes.reads import Reads
from shardcast.blobs.server.hash_routes.requests import BareResponse, json_response, preflight, url_of_path
from shardcast.blobs.server.hash_routes.state import HashServerState
from shardcast.blobs.server.hash_routes.writes import Writes
from shardcast.protocol.wire import HAS_NOW_PATH, HAS_PATH, HEALTHCHECK_PATH, LENGTH_PATH, PROMISE_PATH
from shardcast.server.guard import REFUSAL_ANSWER
from shardcast.server.scoped_routes import add_route


def add_hash_routes(app: web.Application, state: HashServerState) -> None:
    """Serve the blobs of a hash server, and open and close their store with the application."""
    store = state.store
    reads, writes, queries = Reads(state), Writes(state), Queries(state)

    def route(
        method: str, path: str, handler: Handler, scope: Scope | None, *, stays_open: bool = False
    ) -> None:
        answer = guarded(handler, state.activity)
        add_route(
            app, method, path, answer, scope=scope, stays_open=stays_open, expect_handler=delay_continue
        )

    async def begin(app: web.Application) -> None:
        await store.prepare()

    async def end(app: web.Application) -> None:
        await store.close()

    async def unrouted(request: web.Request) -> web.StreamResponse:
        return _unrouted(request, store.writable)

    route("GET", HEALTHCHECK_PATH, _healthcheck, None)
    route("GET", HAS_PATH, queries.has, Scope.STORE_READ)
    route("GET", HAS_NOW_PATH, queries.has_now, Scope.STORE_READ)
    route("GET", LENGTH_PATH, queries.lengths, Scope.STORE_READ)
    if store.writable:
        route("PUT", f"{PROMISE_PATH}/{{checksum:[^/]+}}", writes.promise, Scope.STORE_WRITE)
        route("PUT", "/{checksum:[^/]+}", writes.put, Scope.STORE_WRITE, stays_open=True)
        app.on_startup.append(begin)
    route("GET", "/{checksum:[^/]+}", reads.answer, Scope.STORE_READ)
    route("*", "/{tail:.*}", unrouted, None)  # preflights, and answers that no path is there
    app[REFUSAL_ANSWER] = _refusal
    app.on_response_prepare.append(_complete_head)
    app.on_cleanup.append(end)


async def _healthcheck(request: web.Request) -> web.StreamResponse:
    return BareResponse(body=b"OK")


def _refusal(request: web.Request, status: int, message: str, headers: Mapping[str, str]) -> web.Response:
    """Return the answer to a request without a valid token."""
    return json_response({"detail": message}, status, dict(headers))


def _unrouted(request: web.Request, writable: bool) -> web.Response:
    """Answer requests without a route: preflights, paths ending in a slash, other methods and paths."""
    method, path = request.headers.get("Access-Control-Request-Method"), request.path
    if request.method == "OPTIONS" and "Origin" in request.headers and method is not None:
        return preflight(request, method)
    if path != "/" and path.endswith("/") and _allowed_methods(path[:-1], writable):
        return BareResponse(status=307, headers={"Location": url_of_path(request, path[:-1])})
    methods = _allowed_methods(path, writable)
    if methods:
        return json_response({"detail": "Method Not Allowed"}, 405, {"Allow": methods})
    return json_response({"detail": "Not Found"}, 404)


def _allowed_methods(path: str, writable: bool) -> str:
    """Return the value of ``Allow`` for a path; empty for a path without a route."""
    first, *rest = path.removeprefix("/").split("/")
    if rest:
        return "PUT" if writable and [first] == [PROMISE_PATH[1:]] and len(rest) == 1 else ""
    if path in (HEALTHCHECK_PATH, HAS_PATH, HAS_NOW_PATH, LENGTH_PATH):
        return "GET, HEAD"
    return ("GET, HEAD, PUT" if writable else "GET, HEAD") if first else ""


async def _complete_head(request: web.Request, response: web.StreamResponse) -> None:
    """Let pages of other sites read an answer, and take the media type from a bare one."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
    if isinstance(response, BareResponse):
        response.headers.pop("Content-Type", None)
