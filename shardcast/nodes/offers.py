"""Descriptions of the versions on offer: names, sizes and metadata, from the servers' manifests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from functools import partial

from shardcast.concurrency import start_staggered
from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import PeerError
from shardcast.nodes.release import Offered
from shardcast.peer.server import Peer
from shardcast.policy.standing import Standing
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest_reader import MAX_MEMORY
from shardcast.upstream.manifests import check_manifest

log = logging.getLogger(__name__)

_DESCRIBED_AT_ONCE = 16
"""Versions described at once; together they may take the memory of one transfer."""


async def describe_offers(standing: Standing, peers: Mapping[str, Peer]) -> list[Offered]:
    """Return the versions on offer, oldest first, each by the description of the first server to give one.

    Args:
        standing: the versions on offer.
        peers: the servers, by URL.
    """
    at_once = asyncio.Semaphore(_DESCRIBED_AT_ONCE)

    async def describe(listing: Listing) -> Offered:
        async with at_once:
            return await _describe(listing, standing, peers)

    return list(await asyncio.gather(*(describe(listing) for _, listing in sorted(standing.listed.items()))))


async def _describe(listing: Listing, standing: Standing, peers: Mapping[str, Peer]) -> Offered:
    """Return a version with the first description from a server, or with none where no server gives one.

    The deciding server is asked first, and the next one when an answer is late.
    """
    servers = standing.group.complete.get(listing.number, ())
    first = [url for url in servers if url == standing.speaker]
    works = [
        partial(_description, peers[url], listing, standing.origin, trusted=url in first)
        for url in (*first, *(url for url in servers if url not in first))
    ]
    async with aclosing(start_staggered(works, STALL_WHEN_OTHERS_CAN)) as requests:
        async for request in requests:
            try:
                described = request.result() if request else None
            except PeerError as error:
                log.debug("%s", error)
                continue
            if described:
                return described
    return Offered(listing, None)


async def _description(peer: Peer, listing: Listing, origin: str | None, trusted: bool) -> Offered | None:
    """Return the description of a version in a server's manifest; None for a server without a manifest.

    The first line is enough from a ``trusted`` server, unless the version was streamed: then the size stands
    in the last line. From another server the whole manifest is fetched, and compared with the digest listed
    by the trusted one.
    """
    if trusted or listing.manifest is None:
        header = await peer.manifest_header(listing.version)
        if header is None or header.size is not None:
            return Offered(listing, header, header.size) if header else None
        with suppress(PeerError):  # then at least the name is known
            return await _checked(peer, listing, origin)
        return Offered(listing, header)
    return await _checked(peer, listing, origin)


async def _checked(peer: Peer, listing: Listing, origin: str | None) -> Offered | None:
    """Return the description of a version in a server's whole manifest; None for a server without one.

    Raises:
        PeerError: the manifest can't be fetched, takes too much memory, or is another version's.
    """
    manifest = await peer.manifest(listing.version, MAX_MEMORY // _DESCRIBED_AT_ONCE)
    if manifest is None:
        return None
    check_manifest(listing, manifest, peer, origin)
    return Offered(listing, manifest.header, manifest.size)
