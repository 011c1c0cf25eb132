"""The aiohttp application of a node, served on addresses or a Unix socket, started and stopped cleanly."""

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
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from shardcast.access.live_context import LiveContext
from shardcast.access.server_access import ServerAccess
from shardcast.concurrency import in_thread
from shardcast.constants import SHUTDOWN_GRACE
from shardcast.disk_errors import disk_errors, error_text
from shardcast.log_fields import about
from shardcast.protocol.wire import NODE_ID_HEADER, shard_number, version_number
from shardcast.server.binding import Bound, bind
from shardcast.server.bounds import BOUNDS, BodyMemory, Bounds, bounds_of
from shardcast.server.connections import CONNECTIONS, Connections
from shardcast.server.guard import Guard
from shardcast.server.tls_listener import TlsSite
from shardcast.server.unframed import end_in_order, end_in_reset
from shardcast.server.upload_limit import SHARES
from shardcast.store.data_dir_layout import own_folder
from shardcast.store.special_files import (
    clear_sockets,
    make_local_folder,
    record_socket_path,
    short_socket_path,
)

_BACKLOG = 1024
"""Maximum connections not yet accepted; a whole cluster may connect at once."""

_LINGER = 10.0
"""Seconds of reading and dropping the rest of a refused request's body after the answer."""
_READ_AHEAD = 64 << 10
"""Bytes of a request's body read ahead of its handler."""


def application(
    node_id: str,
    *routes: Callable[[web.Application], None],
    as_sent: bool = False,
    bounds: Bounds | None = None,
    access: ServerAccess | None = None,
) -> web.Application:
    """Return an application with these routes, whose answers name the node.

    Args:
        node_id: the value of the header with the node's name.
        routes: functions to add routes to the application.
        as_sent: read bodies of requests as they are sent; otherwise decode their ``Content-Encoding``.
        bounds: bounds of the listener; the defaults where None.
        access: rules of the listener; None where all may send requests.
    """
    bounds = bounds or Bounds()
    access = access or ServerAccess()
    connections = Connections(bounds, BodyMemory(bounds.all_bytes))
    guard = Guard(access.tokens, access.wall_clock) if access.tokens else None
    guards = [guard.middleware] if guard else []
    app = web.Application(
        client_max_size=min(1 << 20, bounds.body_bytes),
        handler_args={
            "read_bufsize": _READ_AHEAD,
            "auto_decompress": not as_sent,
            "lingering_time": min(_LINGER, bounds.body_seconds),
        },
        middlewares=[
            connections.middleware,
            *guards,
            end_in_order,
            answer_disk_errors,
        ],
    )
    app[BOUNDS], app[CONNECTIONS], app[ACCESS] = bounds, connections, access
    app[SHARES] = {}
    app.cleanup_ctx.append(connections.run)
    if guard:
        guard.add_to(app)

    async def name_node(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[NODE_ID_HEADER] = node_id
        if request.version < HttpVersion10 and request.transport:
            request.transport.abort()  # HTTP/0.9 has no head, and none of our clients speaks it

    app.on_response_prepare.append(name_node)
    app.on_response_prepare.append(end_in_reset)
    for add_routes in routes:
        add_routes(app)
    return app


@web.middleware
async def answer_disk_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer with 503 after an error of this system, such as a failed disk, or abort a started answer.

    A failed disk does not mean a missing version: other nodes may have the version.
    """
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except OSError as error:
        started = request.writer.output_size
        how = "is not answered to the end" if started else "is not answered"
        why = error_text(error) or repr(error)  # a time-out has no text
        log.error("%s %s %s: %s", request.method, request.path, how, why)
        if started:
            raise ConnectionAbortedError("the answer breaks off") from error
        reason = error.strerror or "see the log of this node"
        raise web.HTTPServiceUnavailable(
            text=f"503: the disk or system of this node failed: {reason}\n"
        ) from error


@asynccontextmanager
async def serve(app: web.Application, host: str, port: int, *, guarded: bool = False) -> AsyncIterator[str]:
    """Serve on an address inside the block, and yield the URL; running answers have 5 s at the end.

    Args:
        app: the application.
        host: the address.
        port: the port; 0 for a free one.
        guarded: whether the routes recognise callers by themselves, and so need no tokens.

    Raises:
        AddressTaken: the address can't be bound.
        UsageError, LocalDiskError: the certificate can't be used.
    """
    bound = await in_thread(bind, host, port, undo=Bound.close)
    async with serve_on(app, bound, guarded=guarded) as url:
        yield url


@asynccontextmanager
async def serve_on(app: web.Application, bound: Bound, *, guarded: bool = False) -> AsyncIterator[str]:
    """Serve on bound addresses inside the block, and yield the URL; the addresses are released at its end.

    See ``serve``.
    """
    try:
        async with _running(app) as runner, _followed_tls(app) as live:
            for sock in bound.sockets:
                await _site(runner, sock, live).start()
            url = bound.url("https" if live else "http")
            if app[ACCESS].is_open and not guarded and not bound.is_loopback:
                log.warning(
                    "%s is open to all who can reach it: give it --tokens (tokens= in Python; see shardcast "
                    "token new --help), or have it listen on 127.0.0.1 only (--host)",
                    url,
                )
            yield url
    finally:
        bound.close()


@asynccontextmanager
async def _followed_tls(app: web.Application) -> AsyncIterator[LiveContext | None]:
    """Yield the TLS of an application, which follows its files inside the block; None for plain HTTP."""
    tls = app[ACCESS].tls
    if tls is None:
        yield None
        return
    async with LiveContext(tls).following() as live:
        yield live


def _site(runner: web.AppRunner, sock: socket.socket, live: LiveContext | None) -> web.BaseSite:
    """Return a site on a bound socket, with TLS or without."""
    if live is None:
        return web.SockSite(runner, sock, backlog=_BACKLOG)
    app = runner.app
    return TlsSite(
        runner,
        sock,
        live,
        connections=app[CONNECTIONS],
        handshake_seconds=app[BOUNDS].head_seconds,
        backlog=_BACKLOG,
    )


@asynccontextmanager
async def serve_on_socket(app: web.Application, data_dir: Path) -> AsyncIterator[None]:
    """Serve inside the block on the data directory's Unix socket, for connections of its owner alone.

    Where the directory can't hold a socket, it is made elsewhere, and its path recorded in the directory.

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
                        path = Path(stack.enter_context(make_local_folder(own, error))) / "socket"
                        await _bind_path(runner, path)
                        stack.enter_context(record_socket_path(data_dir, path))
                    made = path.stat()
                yield
    finally:
        # After a move of another directory to this path, the name belongs to another node's socket. The next
        # node replaces a socket that can't be removed.
        with contextlib.suppress(OSError):
            if made is not None and path.parent == own and os.path.samestat(made, path.stat()):
                path.unlink()


async def _bind_path(runner: web.AppRunner, path: Path) -> None:
    """Start a site on a Unix socket for connections of its owner alone."""
    with short_socket_path(path) as name:
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, name).start()
        finally:
            os.umask(before)


def abort_on_silent_death(request: web.Request) -> None:
    """Have an open answer break off when its reader's machine is gone (on Linux only).

    The few bytes of such an answer fit into buffers, and the system waits a quarter of an hour for an
    acknowledgement (tcp(7)).
    """
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is not None and sys.platform == "linux":
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(bounds_of(request).reader_seconds * 1000)
        )


@asynccontextmanager
async def _running(app: web.Application) -> AsyncIterator[web.AppRunner]:
    """Run an application inside the block, on the sites added by the caller."""
    runner = web.AppRunner(
        app,
        access_log=_access if _access.isEnabledFor(logging.DEBUG) else None,
        access_log_class=_AccessLog,
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


class _AccessLog(AbstractAccessLogger):
    """The log of requests, at debug: each with its status, bytes and seconds once its answer has ended."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log a request."""
        self.logger.debug(
            "%s: %s %s: %d, %d bytes, %.3f s",
            request.remote, request.method, request.path, response.status, response.body_length, time,
            extra=_fields(request),
        )  # fmt: skip


def _fields(request: web.BaseRequest) -> dict[str, str | int]:
    """Return the version and the shard in the path of a request, as fields of a message."""
    named = request.match_info if isinstance(request, web.Request) else {}
    version = named.get("version", "")
    return about(
        version=version if version_number(version) else None,
        shard=shard_number(named.get("shard", "")) or None,
    )


class _NoNonsense(logging.Filter):
    """A filter to keep tracebacks of malformed requests and of departed clients out of the log.

    Any client can send bytes other than HTTP; the answer is 400.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; such errors count as debug messages, without a traceback."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HttpProcessingError, ConnectionError, web.RequestPayloadError)):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            record.exc_info, record.exc_text = None, None
            return logging.getLogger().isEnabledFor(logging.DEBUG)
        return True


ACCESS = web.AppKey("access", ServerAccess)

log = logging.getLogger(__name__)
_access = logging.getLogger("shardcast.access_log")
_requests = logging.getLogger("shardcast.requests")
_requests.addFilter(_NoNonsense())
