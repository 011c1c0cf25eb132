"""``POST /publish`` and ``POST /stream`` on the data directory's Unix socket: hand the origin a payload.

``POST /publish`` with ``{"path": …, "shard_size": …, "metadata": …, "copy": …}``, for a folder also
``"exclude": […]``, ``"mtimes": …`` and ``"checksum": …``, is answered line by line: ``{"version": "v7"}`` at
once, ``{"progress": …}`` meanwhile, at last ``{"complete": …}`` or ``{"error": …}``. A caller leaving before
the end aborts the version.

``POST /stream`` with ``{"name": …, "shard_size": …, "metadata": …}`` in the first line of its body is
answered with ``{"version": "v7", "pipe": …}``. The caller writes the payload's bytes to the named pipe while
making them, straight into the publisher's hands; ``{"end": …}``, their number, is the last line of the body,
open until then. Then comes ``{"complete": …}`` or ``{"error": …}``. A body without this last line aborts the
version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from aiohttp import ClientError, web

from shardcast.access.scopes import Scope
from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError, to_wire
from shardcast.log_fields import about
from shardcast.protocol.wire import NDJSON, PUBLISH_PATH, STREAM_PATH
from shardcast.server.bodies import malformed, read_json_line
from shardcast.server.callers import Caller, add_change_route, read_request
from shardcast.server.named_pipe import NamedPipe
from shardcast.server.scoped_routes import add_route

log = logging.getLogger(__name__)

_REPORT_INTERVAL = 0.2
"""Seconds between two lines of progress."""


class Publishing(Protocol):
    """A running broadcast."""

    @property
    def version(self) -> str:
        """Name of the version."""

    def progress(self) -> Mapping[str, Any]:
        """Return how many bytes are published, and of how many."""

    def cancel(self) -> None:
        """Abort an incomplete version."""

    def end(self, size: int) -> None:
        """Set the number of bytes of a stream, and so its end."""

    async def result(self) -> None:
        """Wait until the version is complete.

        Raises:
            ShardcastError: publishing failed.
        """


class PublishTarget(Protocol):
    """The publisher of a data directory; several broadcasts queue.

    The publisher awaits ``confirm`` before a version is complete; ``confirm`` raises ``NodeFailed`` where its
    caller has gone.
    """

    async def publish(
        self,
        path: Path,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        copy: bool = True,
        confirm: Callable[[], Awaitable[None]] | None = None,
        exclude: Sequence[str] = (),
        mtimes: bool = True,
        checksum: bool = False,
    ) -> Publishing:
        """Start to broadcast a file or a folder."""

    async def publish_stream(
        self,
        source: BinaryIO,
        name: str,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
        as_folder: bool = False,
    ) -> Publishing:
        """Start to broadcast the bytes of ``source`` until its end."""


def add_publish_routes(app: web.Application, publisher: PublishTarget, pipes: Callable[[], Path]) -> None:
    """Publish payloads by ``publisher``; named pipes are made in the folder ``pipes()``."""

    async def publish(request: web.Request) -> web.StreamResponse:
        try:
            caller, values = await read_request(request)
            path = Path(values["path"])
            shard_size, metadata = values.get("shard_size"), values.get("metadata")
            caller.check_connected()
            publishing = await publisher.publish(
                path,
                shard_size,
                metadata=metadata,
                copy=values.get("copy") is not False,
                confirm=caller.confirm,
                exclude=[str(pattern) for pattern in values.get("exclude") or ()],
                mtimes=values.get("mtimes") is not False,
                checksum=values.get("checksum") is True,
            )
        except ShardcastError as error:
            return web.json_response(_failure(error), content_type=NDJSON)
        except (ValueError, KeyError, TypeError) as error:
            raise malformed(error) from None
        return await _report(caller, publishing)

    async def stream(request: web.Request) -> web.StreamResponse:
        try:
            caller, values = await read_request(request, by_line=True)
            name, shard_size, metadata = str(values["name"]), values.get("shard_size"), values.get("metadata")
            as_folder = values.get("folder") is True
        except (ValueError, KeyError) as error:
            raise malformed(error) from None
        with contextlib.ExitStack() as stack:
            try:
                caller.check_connected()
                pipe = stack.enter_context(NamedPipe(pipes()))
                source = pipe.take_source()
                try:
                    publishing = await publisher.publish_stream(
                        source,
                        name,
                        shard_size,
                        metadata=metadata,
                        confirm=caller.confirm,
                        as_folder=as_folder,
                    )
                except BaseException:
                    source.close()
                    raise
            except ShardcastError as error:
                return web.json_response(_failure(error), content_type=NDJSON)
            ending = asyncio.ensure_future(_await_end(request, pipe, publishing))
            try:
                return await _report(caller, publishing, str(pipe.path), as_folder=as_folder)
            finally:
                await cancel([ending])

    add_change_route(app, PUBLISH_PATH, publish)
    add_route(app, "POST", STREAM_PATH, stream, scope=Scope.PUBLISH)


async def _await_end(request: web.Request, pipe: NamedPipe, publishing: Publishing) -> None:
    """Wait for the line with the number of bytes, and close the pipe; abort the version without that line."""
    try:
        last_line = await read_json_line(request, None)
        publishing.end(int(last_line["end"]))
    except (OSError, ClientError, web.RequestPayloadError, ValueError, KeyError, TypeError) as error:
        log.debug(
            "%s ends before its end: %r", publishing.version, error, extra=about(version=publishing.version)
        )
        publishing.cancel()  # first, else the end of the pipe would pass for the end of the payload
    except BaseException:
        publishing.cancel()
        raise
    finally:
        pipe.close()


async def _report(
    caller: Caller, publishing: Publishing, pipe: str = "", *, as_folder: bool = False
) -> web.StreamResponse:
    """Stream progress and the final result, and return the answer.

    Pipe writers do not read the answer, so they get no progress. An incomplete version is aborted when its
    caller goes away.
    """
    result = asyncio.ensure_future(publishing.result())
    result.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        shard_size = publishing.progress().get("shard_size")  # by which a pipe writer counts its shards
        of_pipe = {"pipe": pipe, "shard_size": shard_size, "folder": as_folder} if pipe else {}
        await caller.send_line({"version": publishing.version} | of_pipe)
        while not result.done():
            if not pipe:
                await caller.send_line({"progress": publishing.progress()})
            await asyncio.wait([result], timeout=None if pipe else _REPORT_INTERVAL)
        await caller.send_line({"progress": publishing.progress()})
        failure = result.exception()
        if isinstance(failure, ShardcastError):
            await caller.send_line(_failure(failure))
        elif failure is not None:
            await caller.send_line(_failure(ShardcastError(f"{publishing.version} failed: {failure!r}")))
        else:
            await caller.send_line({"complete": publishing.version})
        await caller.end()
    except ConnectionError as error:
        log.debug(
            "the caller that published %s went away: %s",
            publishing.version,
            error,
            extra=about(version=publishing.version),
        )
    finally:
        publishing.cancel()
    return caller.response


def _failure(error: ShardcastError) -> dict[str, Any]:
    """Return the line of an error."""
    return {"error": to_wire(error)}
