"""The door on the data directory's Unix socket: hands the origin a payload to broadcast.

``POST /publish`` with ``{"path": …, "shard_size": …, "metadata": …, "copy": …}`` is answered line by line:
``{"version": "v7"}`` at once, ``{"progress": …}`` as it goes, at last ``{"complete": …}`` or
``{"error": …}``.

``POST /stream`` with ``{"name": …, "shard_size": …, "metadata": …}`` in the first line of its body, and
then the payload's bytes as they are made, is answered the same way, but without progress. A body that ends
before its end gives the version up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from aiohttp import ClientError, web

from shardcast.errors import ShardcastError, to_wire
from shardcast.store.tasks import cancel
from shardcast.wire import NDJSON, PUBLISH_PATH, STREAM_PATH

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
"""Bytes of a stream that are passed on at a time."""
_REPORT_INTERVAL = 0.2
"""Seconds between two lines of progress."""


class Publishing(Protocol):
    """A broadcast under way; ``cancel`` gives it up."""

    @property
    def version(self) -> str: ...
    def progress(self) -> Mapping[str, Any]: ...
    def cancel(self) -> None: ...
    async def result(self) -> None: ...


class Publisher(Protocol):
    """What takes payloads to publish; several queue."""

    async def publish(
        self,
        path: Path,
        shard_size: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        copy: bool = True,
    ) -> Publishing: ...

    async def publish_stream(
        self,
        source: BinaryIO,
        name: str,
        shard_size: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Publishing: ...


def add_publish(app: web.Application, publisher: Publisher) -> None:
    """Take payloads for ``publisher``."""

    async def publish(request: web.Request) -> web.StreamResponse:
        try:
            asked = await request.json()
            path, shard_size, metadata = Path(asked["path"]), asked.get("shard_size"), asked.get("metadata")
            under_way = await publisher.publish(path, shard_size, metadata, asked.get("copy") is not False)
        except ShardcastError as error:
            return web.json_response(_failure(error), content_type=NDJSON)
        except (ValueError, KeyError, TypeError) as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        # A caller who goes away does not stop what has a number already.
        return await _report(request, under_way)

    async def stream(request: web.Request) -> web.StreamResponse:
        source, sink = _pipe()
        try:
            asked = json.loads(await request.content.readline())
            name, shard_size, metadata = str(asked["name"]), asked.get("shard_size"), asked.get("metadata")
            under_way = await publisher.publish_stream(source, name, shard_size, metadata)
        except BaseException as error:
            source.close()
            sink.close()
            if isinstance(error, ShardcastError):
                return web.json_response(_failure(error), content_type=NDJSON)
            if isinstance(error, (ValueError, KeyError, TypeError)):
                raise web.HTTPBadRequest(text=f"400: {error}\n") from None
            raise
        pouring = asyncio.ensure_future(_pour(request, sink, under_way))
        try:
            return await _report(request, under_way, often=False)  # who writes reads nothing meanwhile
        finally:
            under_way.cancel()  # what is complete stays
            await cancel([pouring])

    app.router.add_post(PUBLISH_PATH, publish)
    app.router.add_post(STREAM_PATH, stream)


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    """Where the publisher reads, and where what comes is written."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    return os.fdopen(readable, "rb", buffering=0), os.fdopen(writable, "wb", buffering=0)


async def _pour(request: web.Request, sink: BinaryIO, under_way: Publishing) -> None:
    """The rest of the body ─▶ the publisher."""
    try:
        async for chunk in request.content.iter_chunked(_CHUNK):
            await _write_all(sink, chunk)
    except (OSError, ClientError, web.RequestPayloadError) as error:
        log.debug("%s ends before its end: %r", under_way.version, error)
        under_way.cancel()  # before the publisher sees an end
    except BaseException:
        under_way.cancel()
        raise
    finally:
        sink.close()


async def _write_all(sink: BinaryIO, chunk: bytes) -> None:
    """Without a thread: writers that wait their turn would take all there are."""
    view, loop = memoryview(chunk), asyncio.get_running_loop()
    while view:
        try:
            view = view[os.write(sink.fileno(), view) :]
        except BlockingIOError:
            room = asyncio.Event()
            loop.add_writer(sink.fileno(), room.set)
            try:
                await room.wait()
            finally:
                loop.remove_writer(sink.fileno())


async def _report(request: web.Request, under_way: Publishing, often: bool = True) -> web.StreamResponse:
    """Say how it ends, and meanwhile how far it is (``often``)."""
    response = web.StreamResponse(headers={"Content-Type": NDJSON})
    await response.prepare(request)
    result = asyncio.ensure_future(under_way.result())
    result.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await _say(response, {"version": under_way.version})
        while not result.done():
            if often:
                await _say(response, {"progress": under_way.progress()})
            await asyncio.wait([result], timeout=_REPORT_INTERVAL if often else None)
        await _say(response, {"progress": under_way.progress()})
        failure = result.exception()
        if isinstance(failure, ShardcastError):
            await _say(response, _failure(failure))
        elif failure is not None:
            await _say(response, _failure(ShardcastError(f"{under_way.version} failed: {failure!r}")))
        else:
            await _say(response, {"complete": under_way.version})
        await response.write_eof()
    except ConnectionError as error:
        log.debug("who published %s went away: %s", under_way.version, error)
    return response


def _failure(error: ShardcastError) -> dict[str, Any]:
    return {"error": to_wire(error)}


async def _say(response: web.StreamResponse, line: Mapping[str, Any]) -> None:
    await response.write(json.dumps(line).encode() + b"\n")
