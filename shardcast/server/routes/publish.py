"""The door on the data directory's Unix socket: hands the origin a payload to broadcast.

``POST /publish`` with ``{"path": …, "shard_size": …, "metadata": …, "copy": …}`` is answered line by line:
``{"version": "v7"}`` at once, ``{"progress": …}`` as it goes, at last ``{"complete": …}`` or
``{"error": …}``. A caller that goes away before gives the version up.

``POST /stream`` with ``{"name": …, "shard_size": …, "metadata": …}`` in the first line of its body is
answered with ``{"version": "v7", "pipe": …}``. The payload's bytes are written to that named pipe as they are
made, straight into the publisher's hands; ``{"end": …}``, their number, is the last line of the body, which
stays open meanwhile. Then comes ``{"complete": …}`` or ``{"error": …}``. A body that ends without that line
gives the version up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Protocol

from aiohttp import ClientError, web

from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError, to_wire
from shardcast.filesystem import PART, close, disk_errors
from shardcast.protocol.wire import NDJSON, PUBLISH_PATH, STREAM_PATH
from shardcast.server.bodies import read_json_line
from shardcast.server.callers import Caller, add_change, read_request
from shardcast.store.special_files import place_elsewhere

log = logging.getLogger(__name__)

_REPORT_INTERVAL = 0.2
"""Seconds between two lines of progress."""


class Publishing(Protocol):
    """A broadcast under way; ``cancel`` gives it up, ``end`` says how many bytes a stream has."""

    @property
    def version(self) -> str: ...
    def progress(self) -> Mapping[str, Any]: ...
    def cancel(self) -> None: ...
    def end(self, size: int) -> None: ...
    async def result(self) -> None: ...


class PublishTarget(Protocol):
    """What takes payloads to publish; several queue. ``confirm`` is awaited before a version is complete, and
    raises where its caller has gone."""

    async def publish(
        self,
        path: Path,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        copy: bool = True,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Publishing: ...

    async def publish_stream(
        self,
        source: BinaryIO,
        name: str,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Publishing: ...


def add_publish(app: web.Application, publisher: PublishTarget, pipes: Callable[[], Path]) -> None:
    """Take payloads for ``publisher``; named pipes are made in the folder ``pipes()``."""

    async def publish(request: web.Request) -> web.StreamResponse:
        try:
            caller, asked = await read_request(request)
            path, shard_size, metadata = Path(asked["path"]), asked.get("shard_size"), asked.get("metadata")
            caller.check()
            under_way = await publisher.publish(
                path,
                shard_size,
                metadata=metadata,
                copy=asked.get("copy") is not False,
                confirm=caller.confirm,
            )
        except ShardcastError as error:
            return web.json_response(_failure(error), content_type=NDJSON)
        except (ValueError, KeyError, TypeError) as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        return await _report(caller, under_way)

    async def stream(request: web.Request) -> web.StreamResponse:
        try:
            caller, asked = await read_request(request, by_line=True)
            name, shard_size, metadata = str(asked["name"]), asked.get("shard_size"), asked.get("metadata")
        except (ValueError, KeyError) as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        with contextlib.ExitStack() as stack:
            try:
                caller.check()
                pipe = stack.enter_context(_Pipe(pipes()))
                source = pipe.take_source()
                try:
                    under_way = await publisher.publish_stream(
                        source, name, shard_size, metadata=metadata, confirm=caller.confirm
                    )
                except BaseException:
                    source.close()
                    raise
            except ShardcastError as error:
                return web.json_response(_failure(error), content_type=NDJSON)
            ending = asyncio.ensure_future(_end(request, pipe, under_way))
            try:
                return await _report(caller, under_way, str(pipe.path))
            finally:
                await cancel([ending])

    add_change(app, PUBLISH_PATH, publish)
    app.router.add_post(STREAM_PATH, stream)


class _Pipe:
    """A named pipe in ``folder``, and a hold on its writing end: there is no end to read before the pipe is
    closed here, whatever becomes of who writes."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            LocalDiskError: none can be made there.
        """
        self.path = folder / f"stream-{secrets.token_hex(8)}{PART}"
        self._elsewhere: TemporaryDirectory[str] | None = None
        self._source = self._sink = -1
        with disk_errors("could not make a pipe in", folder):
            try:
                os.mkfifo(self.path, 0o600)
            except OSError as error:
                self._elsewhere = place_elsewhere(folder, error)
                self.path = Path(self._elsewhere.name) / self.path.name
                os.mkfifo(self.path, 0o600)
            try:
                self._source = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._sink = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            except BaseException:
                self.close()
                raise

    def take_source(self) -> BinaryIO:
        """Its reading end, which the publisher closes."""
        os.set_blocking(self._source, True)
        source, self._source = os.fdopen(self._source, "rb", buffering=0), -1
        return source

    def close(self) -> None:
        """Who reads comes to the end, once nobody else has it open for writing."""
        with contextlib.suppress(OSError):  # the next start removes it
            self.path.unlink()
        for descriptor in (self._source, self._sink):
            if descriptor >= 0:
                close(descriptor)
        self._source = self._sink = -1
        if self._elsewhere is not None:
            with contextlib.suppress(OSError):
                self._elsewhere.cleanup()

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _end(request: web.Request, pipe: _Pipe, under_way: Publishing) -> None:
    """Wait for the line that says how much there is, and close the pipe. Without it, it is given up."""
    try:
        last_line = await read_json_line(request, None)
        under_way.end(int(last_line["end"]))
    except (OSError, ClientError, web.RequestPayloadError, ValueError, KeyError, TypeError) as error:
        log.debug("%s ends before its end: %r", under_way.version, error)
        under_way.cancel()  # before the publisher sees an end
    except BaseException:
        under_way.cancel()
        raise
    finally:
        pipe.close()


async def _report(caller: Caller, under_way: Publishing, pipe: str = "") -> web.StreamResponse:
    """Send how it ends, and meanwhile how far it is; not to a caller that writes to a ``pipe``, and reads
    nothing. What is not complete when this ends, whose caller went away, is given up."""
    result = asyncio.ensure_future(under_way.result())
    result.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await caller.say({"version": under_way.version} | ({"pipe": pipe} if pipe else {}))
        while not result.done():
            if not pipe:
                await caller.say({"progress": under_way.progress()})
            await asyncio.wait([result], timeout=None if pipe else _REPORT_INTERVAL)
        await caller.say({"progress": under_way.progress()})
        failure = result.exception()
        if isinstance(failure, ShardcastError):
            await caller.say(_failure(failure))
        elif failure is not None:
            await caller.say(_failure(ShardcastError(f"{under_way.version} failed: {failure!r}")))
        else:
            await caller.say({"complete": under_way.version})
        await caller.end()
    except ConnectionError as error:
        log.debug("the caller that published %s went away: %s", under_way.version, error)
    finally:
        under_way.cancel()
    return caller.response


def _failure(error: ShardcastError) -> dict[str, Any]:
    return {"error": to_wire(error)}
