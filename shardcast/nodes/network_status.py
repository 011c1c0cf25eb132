"""The state of many servers at one moment, for a person looking at a network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from shardcast.access.client_access import ClientAccess
from shardcast.errors import AccessDenied, PeerError, ServerLacks
from shardcast.peer.node_status import StatusClient
from shardcast.peer.server import Peer
from shardcast.peer.session import Session, open_session
from shardcast.protocol.distribution import Listing
from shardcast.protocol.node_status import NodeStatus

_TIMEOUT = 10.0
"""Seconds for each answer of a server."""
_AT_ONCE = 64
"""Servers asked at once: each holds a connection and up to 16 MiB of an answer."""


@dataclass(frozen=True)
class ServerState:
    """One server at one moment.

    Attributes:
        url: the base URL.
        status: the answer of ``/status``; None for a server without (0.1.0, static), and after a failure.
        listings: the distribution list of a server without ``/status``.
        missing: in words, why the server is not ready; None for a ready or silent one.
        failure: why the request failed; None after an answer.
    """

    url: str
    status: NodeStatus | None = None
    listings: tuple[Listing, ...] = ()
    missing: str | None = None
    failure: PeerError | None = None


async def ask_servers(urls: Sequence[str], access: ClientAccess) -> list[ServerState]:
    """Return the state of each server, in the order of ``urls``; a failed request sets ``failure``.

    Raises:
        UsageError: a server is not https where TLS is required.
        LocalDiskError: a file of certificates can't be read.
    """
    access.check_servers(urls)
    turns = asyncio.Semaphore(_AT_ONCE)
    async with open_session(_TIMEOUT, access) as session:

        async def ask(url: str) -> ServerState:
            async with turns:
                return await _ask(session, url)

        return list(await asyncio.gather(*map(ask, urls)))


async def _ask(session: Session, url: str) -> ServerState:
    """Return the state of one server."""
    client = StatusClient(session, url, _TIMEOUT)
    try:
        try:
            status = await client.status()
        except ServerLacks:
            return ServerState(url, listings=await Peer(url, session, _TIMEOUT).listings())
        return ServerState(url, status, missing=await _missing(client))
    except AccessDenied as error:
        return ServerState(url, missing=await _missing(client), failure=error)
    except PeerError as error:
        return ServerState(url, failure=error)


async def _missing(client: StatusClient) -> str | None:
    """Return why a server is not ready; None also without an answer. The route needs no token."""
    try:
        return await client.missing()
    except PeerError:
        return None
