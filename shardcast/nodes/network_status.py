"""The state of many servers at one moment, for a person who looks at a network."""

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
"""Servers that are asked at once: each holds a connection and up to 16 MiB of an answer."""


@dataclass(frozen=True)
class ServerState:
    """One server at one moment.

    Attributes:
        url: its base URL.
        status: what it tells; None for a server without ``/status`` (0.1.0, static), and where it fails.
        listings: what a server without ``/status`` lists.
        missing: in words, what it lacks; None where it has caught up, or doesn't tell.
        failure: why it could not be asked; None where it answered.
    """

    url: str
    status: NodeStatus | None = None
    listings: tuple[Listing, ...] = ()
    missing: str | None = None
    failure: PeerError | None = None


async def ask_servers(urls: Sequence[str], access: ClientAccess) -> list[ServerState]:
    """Return the state of each server, in the order of ``urls``; a server that fails has its failure there.

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
    """Return what a server lacks; None also where it doesn't tell. The route is open without a token."""
    try:
        return await client.missing()
    except PeerError:
        return None
