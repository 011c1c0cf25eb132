"""Nodes that want tokens: a gate before every route of an origin, a store or an archive."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest.mock import patch

from aiohttp import web

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.secret import Secret
from shardcast.server.application import application

_SCOPES = {"/report": "report", "/status": "status", "/v1/push": "archive-push"}
_OPEN = ("/healthcheck", "/ready")
_PLACES = (
    "shardcast.nodes.origin.application",
    "shardcast.blobs.server.hash_server.application",
    "shardcast.blobs.server.archive_server.application",
)


class Gate:
    """The tokens that a server takes, which a test may change at any time.

    Attributes:
        seen: method, path and ``Authorization`` of each request.
    """

    def __init__(self, **tokens: str) -> None:
        """Take tokens; each with the scopes that it has, ``token="read report"``."""
        self.tokens = tokens
        self.seen: list[tuple[str, str, str | None]] = []

    def add(self, token: str, scopes: str) -> None:
        """Take another token."""
        self.tokens[token] = scopes

    def answer(self, path: str, authorization: str | None) -> tuple[int, str] | None:
        """Return the status and the challenge of a refusal; None for a request that may pass."""
        scope = _SCOPES.get(path, "read")
        if path in _OPEN:
            return None
        token = (authorization or "").removeprefix("Bearer ")
        if not token:
            return 401, f'Bearer realm="shardcast", scope="{scope}"'
        if token not in self.tokens:
            return 401, f'Bearer realm="shardcast", error="invalid_token", scope="{scope}"'
        if scope not in self.tokens[token].split():
            return 403, f'Bearer realm="shardcast", error="insufficient_scope", scope="{scope}"'
        return None

    def requests(self, path: str = "") -> int:
        """Return the number of requests, for one path or for all."""
        return sum(1 for _, asked, _ in self.seen if path in ("", asked))

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Put the gate before every application of a node that starts inside the block."""
        with contextlib.ExitStack() as stack:
            for place in _PLACES:
                stack.enter_context(patch(place, self._application))
            yield

    def _application(self, *words: Any, **settings: Any) -> web.Application:
        """Return an application behind the gate."""

        @web.middleware
        async def middleware(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            authorization = request.headers.get("Authorization")
            self.seen.append((request.method, request.path, authorization))
            if refusal := self.answer(request.path, authorization):
                status, challenge = refusal
                return web.Response(status=status, headers={"WWW-Authenticate": challenge})
            return await handler(request)

        app = application(*words, **settings)
        if "access" in settings:  # the socket of a data directory has no access rules
            app.middlewares.append(middleware)
        return app


def showing(token: str) -> ClientAccess:
    """Return an access that shows a token, or lines ``host=token``, to servers."""
    return ClientAccess(credentials=Credentials.from_text(Secret(token), "the token"))
