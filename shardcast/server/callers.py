"""Callers at a data directory's socket: a change is made only for one that still waits for it."""

from __future__ import annotations

import json
import logging
import select
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import ClientError, web

from shardcast.errors import NodeFailed, ShardcastError, to_wire
from shardcast.protocol.wire import CONFIRMED, NDJSON
from shardcast.server.bodies import read_body, read_json_line
from shardcast.server.bounds import bounds_of
from shardcast.server.writing import write

log = logging.getLogger(__name__)

CONFIRM_SECONDS = 60.0
"""Seconds that a caller has to confirm: others wait for their turn meanwhile."""
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)

_MOST_ASKED = 1 << 20
"""Bytes of a request."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Caller:
    """Who asked for a change.

    A caller may have left long before its request is read: the node was stopped, or had no descriptor for its
    connection. One that asks under ``/confirmed`` is asked at the last moment whether it still waits, so that
    it knows what became of its request whenever it leaves. Callers of earlier versions can't say; there the
    connection is looked at.

    Attributes:
        request: what it sent.
        response: the answer, as far as it was sent.
    """

    def __init__(self, request: web.Request, confirms: bool) -> None:
        """``confirms``: whether it answers when it is asked."""
        self.request = request
        self._confirms = confirms
        self.response = web.StreamResponse(headers={"Content-Type": NDJSON})

    @property
    def gone(self) -> bool:
        """Whether it has closed its connection."""
        transport = self.request.transport
        if transport is None or transport.is_closing():
            return True
        # Its end may still be in the kernel, behind the request.
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)
        return bool(poll.poll(0))

    def check(self) -> None:
        """
        Raises:
            NodeFailed: it is gone, and nothing is to be begun for it.
        """
        if self.gone:
            raise NodeFailed("nothing was done: the caller did not wait for it")

    async def say(self, line: Mapping[str, Any]) -> None:
        """Send a line of the answer.

        Raises:
            ConnectionError: the caller is gone.
        """
        if not self.response.prepared:
            await self.response.prepare(self.request)
        await write(self.request, self.response, json.dumps(line).encode() + b"\n")

    async def end(self) -> web.StreamResponse:
        """End the answer."""
        await self.response.write_eof()
        return self.response

    async def confirm(self) -> None:
        """Return when the caller has said that it still waits, and wants what is ready.

        Raises:
            NodeFailed: it is gone, or does not say so in time; nothing may be done for it any more.
        """
        self.check()
        if not self._confirms:
            return
        try:
            await self.say({"ready": True})
            confirmed = (await read_json_line(self.request, CONFIRM_SECONDS))["confirm"] is True
        except TimeoutError:
            raise NodeFailed(
                f"nothing was done: the caller did not confirm it within {CONFIRM_SECONDS:g} s"
            ) from None
        except (OSError, ClientError, web.RequestPayloadError, ValueError, LookupError, TypeError):
            confirmed = False
        if not confirmed or self.gone:
            raise NodeFailed("nothing was done: the caller went away before it confirmed it")

    async def carry_out(self, work: Callable[[], Awaitable[Mapping[str, Any]]]) -> web.StreamResponse:
        """Do something that the caller confirms, and tell it the outcome."""
        try:
            await self.confirm()
            outcome = await work()
        except ShardcastError as error:
            outcome = {"error": to_wire(error)}
        except Exception as error:
            log.exception("a request at the socket failed")
            outcome = {"error": to_wire(NodeFailed(f"the node refused: {error!r}"))}
        try:
            await self.say(outcome)
            return await self.end()
        except ConnectionError as error:
            log.debug("a caller went away before it was answered: %s", error)
            return self.response


async def read_request(request: web.Request, by_line: bool = False) -> tuple[Caller, dict[str, Any]]:
    """Return who asks, and what for: the body, or its first line where the body stays open (``by_line``).

    Raises:
        ValueError: that is no JSON object.
    """
    confirms = request.path.startswith(CONFIRMED)
    try:
        if by_line or confirms:
            asked = await read_json_line(request, bounds_of(request).body_seconds)
        else:
            asked = json.loads(await read_body(request, _MOST_ASKED))
    except (TimeoutError, OSError, ClientError, web.RequestPayloadError) as error:
        raise ValueError(f"the request broke off: {error}") from None
    if not isinstance(asked, dict):
        raise ValueError("a request is a JSON object")
    return Caller(request, confirms or asked.get("confirm") is True), asked


def add_change(app: web.Application, path: str, handler: Handler) -> None:
    """Answer a path under which callers ask for a change, with and without their confirmation."""
    app.router.add_post(path, handler)
    app.router.add_post(CONFIRMED + path, handler)
