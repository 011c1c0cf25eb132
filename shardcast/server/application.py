"""An aiohttp application on an address or a Unix socket, begun and ended cleanly."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import HttpVersion10, web
from aiohttp.http_exceptions import HttpProcessingError

from shardcast.concurrency import in_thread
from shardcast.constants import SHUTDOWN_GRACE
from shardcast.filesystem import disk_errors, in_words
from shardcast.protocol.wire import NODE_ID
from shardcast.server.binding import Bound, bind
from shardcast.server.bounds import BOUNDS, BodyMemory, Bounds, bounds_of
from shardcast.server.connections import CONNECTIONS, Connections
from shardcast.server.unframed import end_in_order, expect_reset
from shardcast.store.data_dir_layout import own_folder
from shardcast.store.special_files import clear_sockets, known_elsewhere, place_elsewhere, short_name

_BACKLOG = 1024
"""Connections that may wait to be accepted; a whole cluster may come at once."""

_LINGER = 10.0
"""Seconds for which the rest of a body that nobody wants is passed over, after its answer."""
_READ_AHEAD = 64 << 10
"""Bytes of a request's body that are read before somebody wants it."""


def application(
    node_id: str,
    *doors: Callable[[web.Application], None],
    as_sent: bool = False,
    bounds: Bounds | None = None,
) -> web.Application:
    """An application with these doors, whose answers name the node. Bodies of requests are read ``as_sent``,
    or decoded first as their ``Content-Encoding`` says."""
    bounds = bounds or Bounds()
    connections = Connections(bounds, BodyMemory(bounds.all_bytes))
    app = web.Application(
        client_max_size=min(1 << 20, bounds.body_bytes),
        handler_args={
            "read_bufsize": _READ_AHEAD,
            "auto_decompress": not as_sent,
            "lingering_time": min(_LINGER, bounds.body_seconds),
        },
        middlewares=[connections.answer, end_in_order, tell_disk_errors],
    )
    app[BOUNDS], app[CONNECTIONS] = bounds, connections
    app.cleanup_ctx.append(connections.in_background)

    async def name_node(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[NODE_ID] = node_id
        if request.version < HttpVersion10 and request.transport:
            request.transport.abort()  # HTTP/0.9 has no heads, and nobody who speaks it is a client of ours

    app.on_response_prepare.append(name_node)
    app.on_response_prepare.append(expect_reset)
    for add in doors:
        add(app)
    return app


@web.middleware
async def tell_disk_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer with 503 where this machine's disk fails, or break the answer off that has begun: that says
    nothing of what is here, and others may have it."""
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except OSError as error:
        log.error("%s %s is not answered: %s", request.method, request.path, in_words(error))
        if request.writer.output_size:
            raise ConnectionAbortedError("the answer breaks off") from error
        raise web.HTTPServiceUnavailable(text="503: the disk of this node failed\n") from error


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Serve on an address; gives the URL. At the end running answers have 5 s left.

    Raises:
        AddressTaken: the address can't be bound.
    """
    bound = await in_thread(bind, host, port, undo=Bound.close)
    async with listening_on(app, bound) as url:
        yield url


@asynccontextmanager
async def listening_on(app: web.Application, bound: Bound) -> AsyncIterator[str]:
    """Serve on addresses that were taken; gives the URL. They are released at the end, however it comes."""
    try:
        async with _running(app) as runner:
            for one in bound.sockets:
                await web.SockSite(runner, one, backlog=_BACKLOG).start()
            yield bound.url
    finally:
        bound.close()


@asynccontextmanager
async def listening_on_socket(app: web.Application, data_dir: Path) -> AsyncIterator[None]:
    """Serve on the data directory's Unix socket, which only its owner may connect to.

    Raises:
        LocalDiskError: the socket can't be made.
    """
    own = own_folder(data_dir)
    path, made = own / "socket", None
    try:
        async with _running(app) as runner:
            with contextlib.ExitStack() as stack:
                with disk_errors("could not make the socket", path):
                    clear_sockets(data_dir)
                    try:
                        await _bind_path(runner, path)
                    except OSError as error:
                        path = Path(stack.enter_context(place_elsewhere(own, error))) / "socket"
                        await _bind_path(runner, path)
                        stack.enter_context(known_elsewhere(data_dir, path))
                    made = path.stat()
                yield
    finally:
        # Another node's socket has that name by now, if another directory is at the path. One that can't be
        # removed is replaced by the next node.
        with contextlib.suppress(OSError):
            if made is not None and path.parent == own and os.path.samestat(made, path.stat()):
                path.unlink()


async def _bind_path(runner: web.AppRunner, path: Path) -> None:
    with short_name(path) as name:
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, name).start()
        finally:
            os.umask(before)


def notice_death(request: web.Request) -> None:
    """Have an answer that stays open break off when its reader's machine is gone: of the little that is said
    there, all fits into buffers, and the system waits a quarter of an hour for it to be taken (tcp(7))."""
    plug = request.transport.get_extra_info("socket") if request.transport else None
    if plug is not None and sys.platform == "linux":
        plug.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(bounds_of(request).reader_seconds * 1000)
        )


@asynccontextmanager
async def _running(app: web.Application) -> AsyncIterator[web.AppRunner]:
    """Have an application answer whatever sites bring it."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_GRACE / 2,  # aiohttp waits twice: for handlers, then for connections
        keepalive_timeout=app[BOUNDS].idle_seconds,
        logger=_requests,
    )
    try:
        await runner.setup()
        assert runner.server
        app[CONNECTIONS].watch_server(runner.server)
        yield runner
    finally:
        await runner.cleanup()


class _NoNonsense(logging.Filter):
    """What is no HTTP at all is answered with 400 and is not worth a traceback: anybody can send it. Nor is
    who goes away in the middle of a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HttpProcessingError, ConnectionError, web.RequestPayloadError)):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            record.exc_info, record.exc_text = None, None
            return logging.getLogger().isEnabledFor(logging.DEBUG)
        return True


log = logging.getLogger(__name__)
_requests = logging.getLogger("shardcast.requests")
_requests.addFilter(_NoNonsense())
