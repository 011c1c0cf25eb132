"""The routes of an archive, as Casa's: a blob by its key, many in one pull, and pushes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.blobs.server.archive_routes.answers import NOT_HERE, failure, key_of
from shardcast.blobs.server.archive_routes.context import ArchiveContext
from shardcast.blobs.server.archive_routes.pages import Pages
from shardcast.blobs.server.archive_routes.pulls import Pulls
from shardcast.blobs.server.archive_routes.pushes import Pushes
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError, ShardcastError
from shardcast.protocol.wire import (
    IMMUTABLE,
    METADATA_PATH,
    PULL_PATH,
    PUSH_PATH,
    RETRY_AFTER,
    VIA_HEADER,
    parse_via,
)
from shardcast.server.application import ACCESS
from shardcast.server.guard import REFUSAL_ANSWER
from shardcast.server.hang_ups import open_while_connected
from shardcast.server.scoped_routes import add_route
from shardcast.server.sending import send_blob
from shardcast.store.holds import READ, Reader

log = logging.getLogger(__name__)


def add_archive_routes(app: web.Application, context: ArchiveContext, push: bool) -> None:
    """Serve an archive; ``push``: whether pushes at this port need no token."""
    app.middlewares.append(_casa_failures)
    app[REFUSAL_ANSWER] = _refusal
    guarded = app[ACCESS].tokens is not None  # then its guard has checked pushes, too
    pages = Pages(context)
    add_route(app, "POST", PULL_PATH, Pulls(context).answer, scope=Scope.STORE_READ)
    push_scope = None if push else Scope.ARCHIVE_PUSH
    pushes = Pushes(context, push or guarded)
    add_route(
        app,
        "POST",
        PUSH_PATH,
        pushes.answer,
        scope=push_scope,
        stays_open=True,
        also_accepts=context.is_push_token,
    )
    add_route(app, "GET", f"{METADATA_PATH}/{{key}}", pages.metadata, scope=Scope.STORE_READ)
    add_route(app, "GET", "/meta/{key}", pages.page, scope=Scope.STORE_READ)
    add_route(app, "GET", "/stats", pages.stats, scope=Scope.STORE_READ)
    add_route(app, "GET", "/liveness", pages.liveness, scope=None)
    add_route(app, "GET", "/", pages.home, scope=Scope.STORE_READ)
    add_route(app, "GET", "/{key}", _Blobs(context).answer, scope=Scope.STORE_READ)


def _refusal(request: web.Request, status: int, message: str, headers: Mapping[str, str]) -> web.Response:
    """Return the answer to a request without a valid token."""
    return failure(request, status, f"Permission Denied. {message[:1].upper()}{message[1:]}", headers=headers)


@web.middleware
async def _casa_failures(
    request: web.Request, handler: Callable[[web.Request], object]
) -> web.StreamResponse:
    """Turn failures of routes into Casa's answers."""
    try:
        response = await handler(request)  # type: ignore[misc]
        assert isinstance(response, web.StreamResponse)
        return response
    except web.HTTPMethodNotAllowed as error:
        headers = {"Allow": ",".join(sorted(error.allowed_methods))}
        return failure(request, 405, "Bad method", {"method": request.method}, headers=headers)
    except web.HTTPNotFound:
        return failure(request, 404, NOT_HERE)
    except LocalDiskError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return failure(request, 503, "Service Unavailable", headers={"Retry-After": RETRY_AFTER})


class _Blobs:
    """Answers to requests for a blob by its key."""

    def __init__(self, context: ArchiveContext) -> None:
        self._context = context

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send a blob, and count the pull; a mirror fetches a missing or damaged blob first."""
        key = key_of(request)
        self._context.access_stats.count_pulls([key])
        headers = {"Cache-Control": IMMUTABLE}
        for may_fetch in (True, False):
            try:
                async with open_while_connected(request, self._context.store.open(key)) as blob:
                    self._context.hits += may_fetch
                    return await send_blob(
                        request, blob, key, Reader(READ, request.remote or ""), headers=headers
                    )
            except (BlobMissing, BlobCorrupt) as error:
                if isinstance(error, BlobCorrupt):
                    log.error("can't serve %s: %s", key, error)
                upstream = self._context.upstream
                if not may_fetch or upstream is None:
                    break
                try:
                    if not await upstream.fetch_one(key, parse_via(request.headers.get(VIA_HEADER))):
                        break
                except ShardcastError as failed:
                    log.warning("could not fetch %s: %s", key, failed)
                    return failure(request, 503, "Service Unavailable", headers={"Retry-After": RETRY_AFTER})
        return failure(request, 404, NOT_HERE)
