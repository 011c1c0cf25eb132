"""Members of a swarm that listen for servers' checks, and announce themselves as nodes do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from shardcast.access.nonces import Nonces
from shardcast.access.tickets import TicketVersion
from shardcast.peer.announcing import SwarmClient
from shardcast.peer.session import open_session
from shardcast.server.application import application, serve
from shardcast.server.routes.swarm import add_check_route
from shardcast.upstream.announcer import MemberIdentity, Membership
from tests.support.published import Published


def version_of(published: Published) -> TicketVersion:
    """Return the version of a payload as tickets name it."""
    number = int(published.version[1:])
    return TicketVersion(number, published.manifest.header.origin, published.sha256)


@asynccontextmanager
async def member(
    version: TicketVersion, servers: Sequence[str], *, listens: bool = True, host: str = "127.0.0.1"
) -> AsyncIterator[Membership]:
    """Yield the membership of a node that listens, or does not, for as long as the block runs."""
    nonces = Nonces()
    app = application("member", lambda app: add_check_route(app, nonces))
    async with serve(app, host, 0) as url, open_session() as session:
        port = int(url.rpartition(":")[2]) if listens else None
        me = MemberIdentity.new(port=port, nonces=nonces)
        async with Membership(version, me, [SwarmClient(session, server) for server in servers]) as joined:
            yield joined
