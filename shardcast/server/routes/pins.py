"""``POST /pin`` and ``POST /unpin`` on the data directory's Unix socket.

``{"version": "v3"}`` is answered with ``{"done": "v3"}`` or ``{"error": …}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from shardcast.protocol.wire import PIN_PATH, UNPIN_PATH
from shardcast.server.bodies import malformed
from shardcast.server.callers import Handler, add_change_route, read_request


class Pinning(Protocol):
    """The pinnable versions of a node."""

    async def pin(self, version: str) -> None:
        """Keep a version until the end of its pin."""

    async def unpin(self, version: str) -> None:
        """Release a version."""


def add_pin_routes(app: web.Application, versions: Pinning) -> None:
    """Pin and unpin ``versions``."""

    def answering(change: Callable[[str], Awaitable[None]]) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                caller, values = await read_request(request)
                version = str(values["version"])
            except (ValueError, KeyError) as error:
                raise malformed(error) from None

            async def work() -> Mapping[str, Any]:
                await change(version)
                return {"done": version}

            return await caller.make_change(work)

        return answer

    add_change_route(app, PIN_PATH, answering(versions.pin))
    add_change_route(app, UNPIN_PATH, answering(versions.unpin))
