"""The door for operators: is it alive, has it caught up, and what is it doing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from shardcast.protocol.wire import HEALTHCHECK_PATH, READY_PATH, STATUS_PATH

_SLICE = 100
"""Rows of a list that are written at once; between two slices others have their turn."""
_CHEAP = 0.005
"""Seconds of the event loop that a status may take each time it is asked for."""
_VALID = 20.0
"""How many times as long as it took a larger one is given again: it takes a twentieth of the loop at most."""
_LONGEST_VALID = 5.0
"""Seconds for which one is given at the most."""


def add_health(
    app: web.Application, status: Callable[[], Mapping[str, Any]], behind: Callable[[], str | None]
) -> None:
    """Say that the node lives, ``status()`` as JSON, and whether it has caught up: ``behind()`` says what is
    missing, None when nothing is."""
    shared = _Shared(status)

    async def healthcheck(request: web.Request) -> web.StreamResponse:
        return web.Response(text="OK")

    async def ready(request: web.Request) -> web.StreamResponse:
        missing = behind()
        if missing is None:
            return web.Response(text="OK")
        return web.Response(status=503, text=f"503: {missing}\n")

    async def report(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await shared.now(), content_type="application/json", charset="utf-8")

    app.router.add_get(HEALTHCHECK_PATH, healthcheck)
    app.router.add_get(READY_PATH, ready)
    app.router.add_get(STATUS_PATH, report)


class _Shared:
    """A status as JSON, made once for all who ask at the same time."""

    def __init__(
        self, status: Callable[[], Mapping[str, Any]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._status = status
        self._clock = clock
        self._making: asyncio.Task[bytes] | None = None
        self._made = b""
        self._valid_until = 0.0

    async def now(self) -> bytes:
        """Return the status; one that was costly is some seconds old at the most."""
        if self._clock() < self._valid_until:
            return self._made
        if self._making is None or self._making.done():
            self._making = asyncio.ensure_future(self._make())
        return await asyncio.shield(self._making)

    async def _make(self) -> bytes:
        text, busy, begun = "", 0.0, self._clock()
        for piece in _json(self._status()):
            text += piece
            now = self._clock()
            busy += now - begun
            await asyncio.sleep(0)
            begun = self._clock()
        self._made = text.encode()
        if busy > _CHEAP:
            self._valid_until = self._clock() + min(_VALID * busy, _LONGEST_VALID)
        return self._made


def _json(said: Mapping[str, Any]) -> Iterator[str]:
    """Yield an object as JSON in slices of few milliseconds' work."""
    piece = "{"
    for key, value in said.items():
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
