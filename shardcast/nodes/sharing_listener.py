"""The listener of a sharing client, for streams of neighbours and address checks by servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from shardcast.access.own_certificate import OwnCertificate
from shardcast.access.server_access import ServerAccess
from shardcast.concurrency import in_thread
from shardcast.nodes.sharing import Sharing
from shardcast.nodes.sharing_settings import SharingSettings, advertised_place
from shardcast.nodes.sharing_status import SharingStatus
from shardcast.peer.session import Session
from shardcast.server.application import application, serve
from shardcast.server.routes.health import add_health_routes
from shardcast.server.routes.swarm import add_check_route
from shardcast.server.routes.swarm_stream import add_swarm_stream_routes
from shardcast.upstream.announcer import MemberIdentity

log = logging.getLogger(__name__)


@asynccontextmanager
async def sharing_client(
    session: Session, settings: SharingSettings, servers: Iterable[str], timeout: float
) -> AsyncIterator[Sharing]:
    """Listen for neighbours inside the block, and yield the shared versions.

    If one of the servers is https, the listener speaks TLS, with a certificate made for this run; the
    announcements carry the certificate's digest.

    Args:
        session: for announcements and ranges.
        settings: of the client.
        servers: the URLs of the client's servers.
        timeout: seconds for the head of a server's answer.

    Raises:
        AddressTaken: the address can't be bound.
        UsageError: the library for keys is missing.
        LocalDiskError: OpenSSL gets no key, since no temporary file can be written.
    """
    sharing: Sharing
    status: SharingStatus

    async def accept(transport: asyncio.Transport) -> None:
        await sharing.streams.accept(transport)

    # Before the listener is there: a library may be missing.
    identity = MemberIdentity.new(site=settings.site)
    tls = await in_thread(OwnCertificate) if any(url.startswith("https:") for url in servers) else None
    if tls:
        identity = replace(identity, certificate=tls.digest)
    app = application(
        identity.node,
        partial(add_check_route, nonces=identity.nonces),
        partial(add_swarm_stream_routes, accept=accept),
        partial(
            add_health_routes,
            status=lambda: status.as_dict(),
            get_missing=lambda: status.missing(),
            local_only=True,
        ),
        access=ServerAccess(tls=tls),
    )
    async with serve(app, settings.host, settings.port, guarded=True) as url:
        port = urlsplit(url).port or 0
        advertise = advertised_place(settings.advertise, port) if settings.advertise else None
        sharing = Sharing(
            session,
            replace(identity, port=port, advertise=advertise),
            uploads=settings.uploads,
            timeout=timeout,
            seed_for=settings.seed_for,
        )
        status = SharingStatus(sharing)
        log.info("sharing on port %d%s", port, " by TLS" if tls else "")
        try:
            yield sharing
        finally:
            await sharing.end()
