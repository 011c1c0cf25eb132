"""Failed requests: the one place to turn statuses and broken connections into errors.

A server that is down shows in many ways: no connection, a gateway with 502 or 504, a balancer that accepts
and closes. They are one failure, `ServerUnreachable`, which a transfer survives for as long as a server takes
to restart. A shardcast node with the answer 503 runs, and can't serve this now: `ServerBusy`. A refusal (401,
403) by a server or a gateway is `AccessDenied`.
"""

from __future__ import annotations

from typing import Protocol

from shardcast.access.challenge import (
    CHALLENGE_HEADER,
    INSUFFICIENT_SCOPE,
    INVALID_TOKEN,
    Challenge,
    parse_challenge,
)
from shardcast.access.scopes import Scope
from shardcast.errors import (
    AccessDenied,
    BadAnswer,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerUnreachable,
    TlsFailure,
)
from shardcast.peer.proxies import through_proxy
from shardcast.plain_text import one_line
from shardcast.protocol.wire import (
    ABSENT_STATUSES,
    DENIED_STATUSES,
    GATEWAY_STATUSES,
    NODE_ID_HEADER,
    REDIRECT_STATUSES,
    TLS_ONLY_REASON,
)

_MAX_REASON = 80
"""Characters of a reason phrase; a longer one would push the rest of an error out of its bounded text."""


class Headers(Protocol):
    """The headers of an answer, whatever the case of their names."""

    def get(self, name: str, default: str, /) -> str:
        """Return the value of a header."""
        ...


def status_error(
    server: str, request: str, status: int, headers: Headers, *, reason: str | None = None
) -> PeerError:
    """Return the error of an answer with an unexpected status.

    Args:
        server: the URL of the server.
        request: such as ``GET /v1/shard_001.bin``.
        status: of the answer.
        headers: of the answer; a node id in them tells a shardcast node from a gateway.
        reason: the phrase beside the status.
    """
    if status in DENIED_STATUSES:
        return denied_error(server, request, status, headers)
    message = f"{request}: the answer is {status} {one_line(reason or '', _MAX_REASON)}".rstrip()
    if status in GATEWAY_STATUSES and not headers.get(NODE_ID_HEADER, ""):
        return ServerUnreachable(
            server, f"{message}, of what stands before the server{through_proxy(server)}"
        )
    if status == 400 and reason == TLS_ONLY_REASON:
        return TlsFailure(server, "it speaks TLS only; write https:// before its address")
    if status in (502, 504):
        return ServerUnreachable(server, message)
    if status == 503:
        return ServerBusy(server, message)
    if status in ABSENT_STATUSES:
        return ServerLacks(server, message)
    if status in REDIRECT_STATUSES and (location := headers.get("Location", "")):
        return BadAnswer(server, f"{message}, a redirect that is not followed: {location}")
    return BadAnswer(server, message)


def denied_error(server: str, request: str, status: int, headers: Headers) -> AccessDenied:
    """Return the error of an answer 401 or 403: the wanted token, and how to give it."""
    challenge = parse_challenge(headers.get(CHALLENGE_HEADER, ""))
    if challenge is None:
        return AccessDenied(
            server,
            f"{request}: {status}: the server, or a gateway before it, refuses; check who may read there",
        )
    return AccessDenied(
        server, f"{request}: {status}: {_advice(challenge)}", challenge.scopes, wants_token=True
    )


def _advice(challenge: Challenge) -> str:
    """Return advice for the user by a server's challenge."""
    names = " ".join(challenge.scopes)
    scope = f'the scope "{names}"' if names else "a scope"
    token = f"a token with {scope}" if names else "a token"
    if challenge.error == INSUFFICIENT_SCOPE:
        return f"the token lacks {scope}; give {token}"
    if challenge.error == INVALID_TOKEN:
        return f"the token is unknown there, expired or revoked; give {token}"
    mirror = " (a mirror: --mirror-token-file)" if Scope.STORE_READ in challenge.scopes else ""
    return f"{token} is needed; give --token-file{mirror} or SHARDCAST_TOKEN"


def wants_token(status: int, headers: Headers) -> bool:
    """Return whether an answer is a server's refusal for want of a token.

    Other refusals say little: some static servers answer 403 for missing files.
    """
    return status in DENIED_STATUSES and parse_challenge(headers.get(CHALLENGE_HEADER, "")) is not None


def refused_error(
    server: str, request: str, status: int, headers: Headers, *, reason: str | None = None
) -> PeerError:
    """Return the error of ``status_error`` where no object is asked for: ``BadAnswer`` for 404 and 503."""
    error = status_error(server, request, status, headers, reason=reason)
    return BadAnswer(server, error.what) if isinstance(error, ServerLacks) else error


def broken_error(server: str, request: str, answered: bool, why: object = None) -> PeerError:
    """Return the error of a broken connection; ``answered``: the head of an answer had come before."""
    detail = f" ({why})" if why is not None and str(why) else ""
    if answered:
        return BadAnswer(server, f"{request}: the connection broke in the middle of the answer{detail}")
    proxy = through_proxy(server)
    return ServerUnreachable(server, f"{request}: the connection broke before an answer{proxy}{detail}")
