"""Callers at a data directory's socket: a change is made only for a caller still present."""

from __future__ import annotations

import json
import logging
import select
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import ClientError, web

from shardcast.access.scopes import Scope
from shardcast.errors import NodeFailed, ShardcastError, to_wire
from shardcast.json_text import parse_json
from shardcast.protocol.wire import CONFIRMED_PREFIX, NDJSON
from shardcast.server.bodies import read_body, read_json_line
from shardcast.server.bounds import bounds_of
from shardcast.server.scoped_routes import add_route
from shardcast.server.writing import write

log = logging.getLogger(__name__)

CONFIRM_SECONDS = 60.0
"""Maximum seconds for a caller to confirm: other callers wait for their turn meanwhile."""
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)
"""Event of poll(2) for a peer with a closed end; ``POLLRDHUP`` (Linux) comes although bytes before the end
are unread."""

_MAX_REQUEST = 1 << 20
"""Bytes of a request."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Caller:
    """The sender of a request for a change.

    A caller may have left long before the node reads its request: the node was stopped, or had no descriptor
    for the connection. Just before the change the node asks a caller under ``/confirmed`` for a confirmation,
    so the caller knows the outcome whenever it leaves. Callers of earlier versions cannot confirm; for them
    the node looks at the connection.

    Attributes:
        request: the request.
        response: the answer, as far as sent.
    """

    def __init__(self, request: web.Request, confirms: bool) -> None:
        """Answer a request; ``confirms`` is whether its caller sends a confirmation when asked."""
        self.request = request
        self._confirms = confirms
        self.response = web.StreamResponse(headers={"Content-Type": NDJSON})

    @property
    def gone(self) -> bool:
        """Whether the caller has closed its connection."""
        transport = self.request.transport
        if transport is None or transport.is_closing():
            return True
        # asyncio may not have read the end of the connection yet: it lies in the kernel, behind the request.
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)
        return bool(poll.poll(0))

    def check_connected(self) -> None:
        """Check for the caller's presence, before work starts.

        Raises:
            NodeFailed: the caller has gone.
        """
        if self.gone:
            raise NodeFailed("nothing was done: the caller did not wait for it")

    async def send_line(self, line: Mapping[str, Any]) -> None:
        """Send a line of the answer.

        Raises:
            ConnectionError: the caller has gone.
        """
        if not self.response.prepared:
            await self.response.prepare(self.request)
        await write(self.request, self.response, json.dumps(line).encode() + b"\n")

    async def end(self) -> web.StreamResponse:
        """End the answer and return it."""
        await self.response.write_eof()
        return self.response

    async def confirm(self) -> None:
        """Wait for the caller's confirmation of the change.

        Raises:
            NodeFailed: the caller has gone, or does not confirm in time; the change must not be made.
        """
        self.check_connected()
        if not self._confirms:
            return
        try:
            await self.send_line({"ready": True})
            confirmed = (await read_json_line(self.request, CONFIRM_SECONDS))["confirm"] is True
        except TimeoutError:
            raise NodeFailed(
                f"nothing was done: the caller did not confirm it within {CONFIRM_SECONDS:g} s"
            ) from None
        except (OSError, ClientError, web.RequestPayloadError, ValueError, LookupError, TypeError):
            confirmed = False
        if not confirmed or self.gone:
            raise NodeFailed("nothing was done: the caller went away before it confirmed it")

    async def make_change(self, work: Callable[[], Awaitable[Mapping[str, Any]]]) -> web.StreamResponse:
        """Make a change after the caller's confirmation, and send the outcome: of ``work``, or the error."""
        try:
            await self.confirm()
            outcome = await work()
        except ShardcastError as error:
            outcome = {"error": to_wire(error)}
        except Exception as error:
            log.exception("a request at the socket failed")
            outcome = {"error": to_wire(NodeFailed(f"the node refused: {error!r}"))}
        try:
            await self.send_line(outcome)
            return await self.end()
        except ConnectionError as error:
            log.debug("a caller went away before it was answered: %s", error)
            return self.response


async def read_request(request: web.Request, by_line: bool = False) -> tuple[Caller, dict[str, Any]]:
    """Return the caller and the JSON object in the body of its request.

    Args:
        request: the request.
        by_line: take the first line of an open body, as sent by a confirming caller.

    Raises:
        ValueError: the request is no JSON object, or broke off.
    """
    confirms = request.path.startswith(CONFIRMED_PREFIX)
    try:
        if by_line or confirms:
            values = await read_json_line(request, bounds_of(request).body_seconds)
        else:
            values = parse_json(await read_body(request, _MAX_REQUEST))
    except (TimeoutError, OSError, ClientError, web.RequestPayloadError) as error:
        raise ValueError(f"the request broke off: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("a request is a JSON object")
    return Caller(request, confirms or values.get("confirm") is True), values


def add_change_route(app: web.Application, path: str, handler: Handler) -> None:
    """Route a path of a change, with and without ``/confirmed`` before it."""
    add_route(app, "POST", path, handler, scope=Scope.PUBLISH)
    add_route(app, "POST", CONFIRMED_PREFIX + path, handler, scope=Scope.PUBLISH)
