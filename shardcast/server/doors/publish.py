"""The door on the data directory's Unix socket: hands the origin a payload to broadcast.

``POST /publish`` with ``{"path": …, "shard_size": …, "metadata": …, "copy": …}`` is answered line by line:
``{"version": "v7"}`` at once, ``{"progress": …}`` as it goes, at last ``{"complete": …}`` or
``{"error": …}``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from shardcast.errors import ShardcastError, to_wire
from shardcast.wire import NDJSON, PUBLISH_PATH

_REPORT_INTERVAL = 0.2
"""Seconds between two lines of progress."""


class Publishing(Protocol):
    """A broadcast under way."""

    @property
    def version(self) -> str: ...
    def progress(self) -> Mapping[str, Any]: ...
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
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await response.prepare(request)
        await _say(response, {"version": under_way.version})
        # A caller who goes away does not stop what has a number already.
        result = asyncio.ensure_future(under_way.result())
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        while not result.done():
            await _say(response, {"progress": under_way.progress()})
            await asyncio.wait([result], timeout=_REPORT_INTERVAL)
        await _say(response, {"progress": under_way.progress()})
        failure = result.exception()
        if isinstance(failure, ShardcastError):
            await _say(response, _failure(failure))
        elif failure is not None:
            await _say(response, _failure(ShardcastError(f"{under_way.version} failed: {failure!r}")))
        else:
            await _say(response, {"complete": under_way.version})
        await response.write_eof()
        return response

    app.router.add_post(PUBLISH_PATH, publish)


def _failure(error: ShardcastError) -> dict[str, Any]:
    return {"error": to_wire(error)}


async def _say(response: web.StreamResponse, line: Mapping[str, Any]) -> None:
    await response.write(json.dumps(line).encode() + b"\n")
