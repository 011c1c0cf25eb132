"""Clients that are slow, in each way in which a client of a listener can be.

Each sends some of a request and then no more, sends it byte by byte for ever, or takes nothing of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from shardcast.server.application import application
from shardcast.server.bounds import Bounds
from shardcast.server.connections import CONNECTIONS
from shardcast.server.watch import Watch

QUICK = {"head_seconds": 0.5, "idle_seconds": 0.5, "body_seconds": 0.5, "reader_seconds": 0.5}
"""Bounds as short as a test wants them."""
MAX_UNSENT = 192 << 10
"""Bytes of answers that one connection may hold in memory."""
_TRICKLE = 0.02
_SMALL = 4096

Behaviour = Callable[[socket.socket, bytes, bytes], Awaitable[None]]
Route = tuple[str, str]
"""A method, and a path as the router writes it."""


@dataclass(frozen=True)
class Example:
    """A request to a route.

    Attributes:
        path: path of the request.
        body: body of the request; where it is empty, the slow clients announce a body all the same.
        stays_open: whether the answer ends only with its reader.
    """

    path: str
    body: bytes = b""
    stays_open: bool = False


@dataclass
class Listener:
    """An application that listens.

    Attributes:
        app: the application.
        address: address of its socket; a path where it is a Unix socket.
        connected_addresses: addresses of all clients that ever connected.
    """

    app: web.Application
    address: tuple[str, int] | str
    connected_addresses: set[object]

    @property
    def routes(self) -> set[Route]:
        """Routes of the application's router."""
        return {
            (route.method, route.resource.canonical) for route in self.app.router.routes() if route.resource
        }

    @property
    def watches(self) -> list[Watch]:
        """Watches of the open connections."""
        return list(self.app[CONNECTIONS]._watches.values())

    async def connect(self, folder: Path) -> tuple[socket.socket, object]:
        """Open a connection that takes as little as can be, and return it with its address."""
        loop = asyncio.get_running_loop()
        if isinstance(self.address, str):
            client = socket.socket(socket.AF_UNIX)
            client.bind(str(folder / f"client-{client.fileno()}"))
        else:
            client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        await loop.sock_connect(client, self.address)
        return client, client.getsockname()


def recording_application(applications: list[web.Application]) -> object:
    """Return an ``application`` that uses quick bounds and adds itself to ``applications``."""

    def make(node_id: str, *doors: Callable[[web.Application], None], **settings: object) -> web.Application:
        bounds = settings.pop("bounds", None)
        pace = bounds.body_pace if isinstance(bounds, Bounds) else 1024
        app = application(node_id, *doors, bounds=Bounds(body_pace=pace, **QUICK), **settings)  # type: ignore[arg-type]
        applications.append(app)
        return app

    return make


async def in_connection(client: socket.socket, head: bytes, body: bytes) -> None:
    """Stop after the connection."""


async def in_head(client: socket.socket, head: bytes, body: bytes) -> None:
    """Stop in the head."""
    await _send(client, head[:-10])


async def trickled_head(client: socket.socket, head: bytes, body: bytes) -> None:
    """Send the head byte by byte, and never its end."""
    await _send(client, head[:-4])
    while True:
        await _send(client, b"X")
        await asyncio.sleep(_TRICKLE)


async def after_head(client: socket.socket, head: bytes, body: bytes) -> None:
    """Stop after the head."""
    await _send(client, head)


async def in_body(client: socket.socket, head: bytes, body: bytes) -> None:
    """Stop in the body."""
    await _send(client, head + body[:-1])


async def trickled_body(client: socket.socket, head: bytes, body: bytes) -> None:
    """Send the body byte by byte, and never its end."""
    await _send(client, head.replace(b"Content-Length: ", b"Content-Length: 9999"))
    for byte in body + b" " * 10_000:
        await _send(client, bytes([byte]))
        await asyncio.sleep(_TRICKLE)


async def takes_nothing(client: socket.socket, head: bytes, body: bytes) -> None:
    """Send the request, and take nothing of the answer."""
    await _send(client, head + body)


SLOW = (in_connection, in_head, trickled_head, after_head, in_body, trickled_body, takes_nothing)
BEFORE_THE_ANSWER = (in_connection, in_head, trickled_head)


async def _send(client: socket.socket, data: bytes) -> None:
    """Send bytes."""
    await asyncio.get_running_loop().sock_sendall(client, data)


async def misbehave(client: socket.socket, behave: Behaviour, route: Route, example: Example) -> None:
    """Send a request to a route as slowly as ``behave`` does, until the listener ends the connection."""
    method, body = route[0].replace("*", "GET"), example.body or b"12345"
    head = f"{method} {example.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.suppress(ConnectionError):
        await behave(client, head, body)
