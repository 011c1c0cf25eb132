"""``/healthcheck``, ``/ready`` and ``/status``, for operators."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.policy.swarm.addresses import is_loopback
from shardcast.protocol.wire import HEALTHCHECK_PATH, READY_PATH, STATUS_PATH
from shardcast.server.scoped_routes import add_route

_SLICE = 100
"""Rows of a list encoded at a time; between two slices the event loop serves other requests."""
_CHEAP_SECONDS = 0.005
"""Seconds of the event loop allowed to a status for each request."""
_VALID_FACTOR = 20.0
"""Validity of a costlier status, in multiples of its time: such statuses take a twentieth of the loop at
most."""
_MAX_VALID_SECONDS = 5.0
"""Maximum validity in seconds."""


def add_health_routes(
    app: web.Application,
    status: Callable[[], Mapping[str, Any]],
    get_missing: Callable[[], str | None],
    *,
    local_only: bool = False,
) -> None:
    """Answer whether the node lives, whether it has caught up, and its state as JSON.

    Args:
        app: the application.
        status: returns the state.
        get_missing: returns in words why the node is not ready; None when it is.
        local_only: whether to show the state to this machine alone: a listener without tokens.
    """
    shared = _SharedStatus(status)

    async def healthcheck(request: web.Request) -> web.StreamResponse:
        return web.Response(text="OK")

    async def ready(request: web.Request) -> web.StreamResponse:
        missing = get_missing()
        if missing is None:
            return web.Response(text="OK")
        return web.Response(status=503, text=f"503: {missing}\n")

    async def report(request: web.Request) -> web.StreamResponse:
        if local_only and not _is_local(request):
            raise web.HTTPForbidden(text="403: this node shows its status to its own machine only\n")
        return web.Response(body=await shared.now(), content_type="application/json", charset="utf-8")

    add_route(app, "GET", HEALTHCHECK_PATH, healthcheck, scope=None)
    add_route(app, "GET", READY_PATH, ready, scope=None)
    add_route(app, "GET", STATUS_PATH, report, scope=Scope.STATUS)


def _is_local(request: web.Request) -> bool:
    """Return whether a request comes from this machine."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return isinstance(peer, tuple) and is_loopback(str(peer[0]).removeprefix("::ffff:"))


class _SharedStatus:
    """A status as JSON, made once for all requests at the same time."""

    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """Make no status yet; ``cpu_clock``: CPU seconds, by which a busy machine makes none costly."""
        self._status = status
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._making: asyncio.Task[bytes] | None = None
        self._made = b""
        self._valid_until = 0.0

    async def now(self) -> bytes:
        """Return the status; a costly one is some seconds old at most."""
        if self._clock() < self._valid_until:
            return self._made
        if self._making is None or self._making.done():
            self._making = asyncio.ensure_future(self._make())
        return await asyncio.shield(self._making)

    async def _make(self) -> bytes:
        """Encode the status, with a pause after each slice."""
        text, busy, started = "", 0.0, self._cpu_clock()
        for piece in _json(self._status()):
            text += piece
            now = self._cpu_clock()
            busy += now - started
            await asyncio.sleep(0)
            started = self._cpu_clock()
        self._made = text.encode()
        if busy > _CHEAP_SECONDS:
            self._valid_until = self._clock() + min(_VALID_FACTOR * busy, _MAX_VALID_SECONDS)
        return self._made


def _json(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield an object as JSON in slices of few milliseconds' work."""
    piece = "{"
    for key, value in values.items():
        piece += ("" if piece == "{" else ", ") + json.dumps(key) + ": "
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > _SLICE:
            for start in range(0, len(value), _SLICE):
                rows = json.dumps(list(value[start : start + _SLICE]))[1:-1]
                yield piece + ("[" if start == 0 else ", ") + rows
                piece = ""
            piece = "]"
        else:
            piece += json.dumps(value, default=list)
    yield piece + "}"
