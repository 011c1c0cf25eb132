"""What a failed request says of its server: here alone statuses and broken connections become errors.

A server that is down shows it in many ways: no connection, a gateway before it that answers 502 or 504, a
balancer that accepts and closes. They are one failure, `ServerUnreachable`, which a transfer survives for as
long as a server takes to restart. A shardcast node that says 503 is there, and has it not now: `ServerBusy`.
"""

from __future__ import annotations

from typing import Protocol

from shardcast.errors import BadAnswer, PeerError, ServerBusy, ServerLacks, ServerUnreachable
from shardcast.plain_text import one_line
from shardcast.protocol.wire import GATEWAY, LACKING, NODE_ID, REDIRECTS

_LONGEST_REASON = 80
"""Characters of a reason phrase; more would cut off what follows it in the text of an error."""


class Headers(Protocol):
    """The headers of an answer, whatever the case of their names."""

    def get(self, name: str, default: str, /) -> str: ...


def status_error(
    server: str, request: str, status: int, headers: Headers, reason: str | None = None
) -> PeerError:
    """Return the error of an answer whose status is not one that was wanted. ``request``: such as
    ``GET /v1/shard_001.bin``."""
    told = f"{request}: the answer is {status} {one_line(reason or '', _LONGEST_REASON)}".rstrip()
    if status in GATEWAY and not headers.get(NODE_ID, ""):
        return ServerUnreachable(server, f"{told}, of what stands before the server")
    if status in (502, 504):
        return ServerUnreachable(server, told)
    if status == 503:
        return ServerBusy(server, told)
    if status in LACKING:
        return ServerLacks(server, told)
    if status in REDIRECTS and (location := headers.get("Location", "")):
        return BadAnswer(server, f"{told}, a redirect that is not followed: {location}")
    return BadAnswer(server, told)


def refused_error(
    server: str, request: str, status: int, headers: Headers, reason: str | None = None
) -> PeerError:
    """Return the same where no status says that something is not there: "not now" is a failure of its own."""
    error = status_error(server, request, status, headers, reason)
    return BadAnswer(server, error.what) if isinstance(error, ServerLacks) else error


def broken_error(server: str, request: str, answered: bool, why: object = None) -> PeerError:
    """Return the error of a connection that broke; ``answered``: after the head of an answer had come."""
    detail = f" ({why})" if why is not None and str(why) else ""
    if answered:
        return BadAnswer(server, f"{request}: the connection broke in the middle of the answer{detail}")
    return ServerUnreachable(server, f"{request}: the connection broke before an answer{detail}")
