"""The guard of a listener: only a request whose token has the route's scope reaches its route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import hdrs, web

from shardcast.access.authorization import Refusal, authorize, bearer_of, still_allows
from shardcast.access.scopes import Scope
from shardcast.access.token_file import TokenFile
from shardcast.access.tokens import Token
from shardcast.access.wrong_tokens import WrongTokens
from shardcast.concurrency import background_task
from shardcast.protocol.wire import RETRY_AFTER
from shardcast.server.hang_ups import while_connected
from shardcast.server.scoped_routes import MAY_SEND_BODY, RULES, RouteRule
from shardcast.server.writing import write_body

log = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0
"""Seconds between two checks of the tokens of open answers."""

_TOO_MANY = "too many wrong tokens came from this address"

RefusalAnswer = Callable[[web.Request, int, str, Mapping[str, str]], web.Response]
"""A function to make the answer of a refusal: of the request, the status, the sentence and the headers."""
REFUSAL_ANSWER: web.AppKey[RefusalAnswer] = web.AppKey("refusal_answer")
"""The answer of a listener whose clients expect another form than plain text."""


@dataclass(frozen=True, eq=False)
class _OpenAnswer:
    """An open answer, with the token and the scope behind its permission."""

    request: web.Request
    token: Token
    scope: Scope


class Guard:
    """The check of tokens before each route with a scope."""

    def __init__(self, tokens: TokenFile, clock: Callable[[], float]) -> None:
        """Guard with the tokens of a file, which expire by the wall clock ``clock``."""
        self._tokens = tokens
        self._clock = clock
        self._wrong = WrongTokens()
        self._open: set[_OpenAnswer] = set()

    def add_to(self, app: web.Application) -> None:
        """Guard the routes of an application; the caller puts ``middleware`` in its place."""
        app[GUARD], app[MAY_SEND_BODY] = self, self.allows
        app.cleanup_ctx.append(self._run)
        app.on_response_prepare.append(_keep_private)

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Hand a request to its route, or refuse the request before its body is read."""
        rule = _rule_of(request)
        if rule is None or rule.scope is None:
            return await handler(request)
        verdict = self.check(request, rule)
        if isinstance(verdict, Refusal):
            if verdict is Refusal.WRONG and not await self._slow_down(request):
                return await send_refusal(request, 429, _TOO_MANY, {"Retry-After": RETRY_AFTER})
            return await _refuse(request, verdict, rule.scope)
        if verdict is None or not rule.stays_open:
            return await handler(request)
        with self._staying_open(request, verdict, rule.scope):
            return await handler(request)

    def allows(self, request: web.Request) -> bool:
        """Return whether a request may send its body, before its handler runs."""
        rule = _rule_of(request)
        return rule is None or not isinstance(self.check(request, rule), Refusal)

    def check(self, request: web.Request, rule: RouteRule) -> Token | Refusal | None:
        """Return the token that allows a request, or the refusal; None without need of a token."""
        if rule.scope is None:
            return None
        headers = request.headers.getall(hdrs.AUTHORIZATION, [])
        verdict = authorize(headers, self._tokens.current(), rule.scope, self._clock())
        if isinstance(verdict, Refusal) and rule.also_accepts:
            bearer = bearer_of(headers)
            if isinstance(bearer, str) and rule.also_accepts(bearer):
                return None
            if isinstance(bearer, str) and verdict is Refusal.MALFORMED:
                return Refusal.WRONG  # a guess, to be slowed
        return verdict

    async def _slow_down(self, request: web.Request) -> bool:
        """Delay the answer to a wrong token; return False, at once, where too many answers wait.

        Raises:
            ConnectionError: the client hung up meanwhile.
        """
        address = request.remote or ""
        with self._wrong.attempt(address) as slowing:
            if slowing.first:
                log.warning(
                    "%s sent a token that this server does not know; its answers are delayed", address
                )
            if slowing.seconds is None:
                return False
            await while_connected(request, asyncio.sleep(slowing.seconds))
            return True

    @contextmanager
    def _staying_open(self, request: web.Request, token: Token, scope: Scope) -> Iterator[None]:
        """Have the answer end with its token inside the block."""
        answer = _OpenAnswer(request, token, scope)
        self._open.add(answer)
        try:
            yield
        finally:
            self._open.discard(answer)

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        """Check open answers while the application runs (for ``cleanup_ctx``)."""
        async with background_task(self._check_forever()):
            yield

    async def _check_forever(self) -> None:
        """Check open answers each second."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self.end_answers()

    def end_answers(self) -> None:
        """Abort the open answers whose token has expired, was revoked, or lost the scope."""
        if not self._open:
            return
        tokens, now = self._tokens.current(), self._clock()
        for answer in list(self._open):
            request, token = answer.request, answer.token
            if request.transport and not still_allows(token, tokens, answer.scope, now):
                log.info(
                    "%s is answered no more: its token %s has expired, was revoked, or lost the scope %s",
                    request.remote,
                    token.name,
                    answer.scope,
                )
                request.transport.abort()


GUARD = web.AppKey("guard", Guard)


def token_name(request: web.Request) -> str:
    """Return the name of the token behind a request's permission; empty without need of one."""
    token = token_of(request)
    return token.name if token else ""


def token_of(request: web.Request) -> Token | None:
    """Return the token behind a request's permission; None without need of one, or for a refused request."""
    guard, rule = request.app.get(GUARD), _rule_of(request)
    verdict = guard.check(request, rule) if guard and rule else None
    return verdict if isinstance(verdict, Token) else None


def _rule_of(request: web.Request) -> RouteRule | None:
    """Return the rule of a request's route; None where no route matches, and the answer is 404 or 405."""
    if request.match_info.http_exception is not None:
        return None
    return request.app[RULES][request.match_info.route]


async def _refuse(request: web.Request, refusal: Refusal, scope: Scope) -> web.StreamResponse:
    """Refuse a request, and name the scope needed (RFC 6750)."""
    challenge = 'Bearer realm="shardcast"'
    if refusal is Refusal.LACKS_SCOPE:
        challenge += ', error="insufficient_scope"'
    elif refusal is not Refusal.MISSING:
        challenge += ', error="invalid_token"'
    message = f"{refusal.value}; this request needs a token with the scope {scope}"
    headers = {"WWW-Authenticate": f'{challenge}, scope="{scope}"'}
    return await send_refusal(request, refusal.status, message, headers)


async def send_refusal(
    request: web.Request, status: int, message: str, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send a refusal without reading the body of the request.

    A sender waiting for ``100 Continue`` loses the connection: nobody knows whether its body comes.
    """
    make = request.app.get(REFUSAL_ANSWER, _plain_answer)
    response = make(request, status, message, headers)
    if request.can_read_body:
        response.force_close()
        if request.headers.get(hdrs.EXPECT):
            await write_body(request, response)
            if request.transport:
                request.transport.close()
    return response


def _plain_answer(
    request: web.Request, status: int, message: str, headers: Mapping[str, str]
) -> web.Response:
    """Return a refusal in plain text."""
    return web.Response(status=status, text=f"{status}: {message}\n", headers=headers)


async def _keep_private(request: web.Request, response: web.StreamResponse) -> None:
    """Keep shared caches from giving others an answer that needed a token (``on_response_prepare``).

    nginx's cache heeds this header, and not the token in a request.
    """
    control, (first, *rest) = hdrs.CACHE_CONTROL, response.headers.get(hdrs.CACHE_CONTROL, "").split(", ")
    if first in ("", "public"):
        response.headers[control] = ", ".join(["private", *rest])
