"""The turns of readers under the upload limit of a node.

The bodies of answers count, not their heads. Bytes of versions and blobs go in turn, as do other bodies of
more than 64 KiB. Feeds, leases, lists and other small answers count, but never wait: a node whose heartbeats
are late counts as dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress

from aiohttp import web

from shardcast.constants import PIECE_SIZE
from shardcast.fair_limit import FairLimit, Share
from shardcast.protocol.wire import RETRY_AFTER
from shardcast.server.bounds import bounds_of

PIECE_SECONDS = 20.0
"""Seconds within which each reader gets a piece; readers leave a server after 30 s (``HTTP_TIMEOUT``)."""
_TURN_SECONDS = 5.0
"""Seconds for a reader to wait for others to end, where there are too many, before its refusal."""
SHARES: web.AppKey[dict[int, Share]] = web.AppKey("upload_shares", dict)
"""Key of the shares of unfinished requests, by the id of the request."""


async def admit(request: web.Request) -> None:
    """Give a request its share before its answer begins.

    With too many readers at once for a piece each in time, all would fail; the later ones wait some seconds
    for others to end, and are refused then.

    Raises:
        HTTPServiceUnavailable: the limit has no room for another reader.
    """
    limit = bounds_of(request).uploads
    if limit is None or id(request) in request.app[SHARES]:
        return
    address, _ = _address_of(request)

    def is_free() -> bool:
        return not limit.is_full(address, PIECE_SIZE, PIECE_SECONDS)

    if not is_free():
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN_SECONDS):
                await limit.freed.wait_for(is_free)
        if not is_free():
            raise web.HTTPServiceUnavailable(
                text="503: the upload limit has no room for another reader now\n",
                headers={"Retry-After": RETRY_AFTER},
            )
    _share_of(request, limit)


async def take(request: web.Request, wanted: int, left: int | None = None) -> int:
    """Wait for the turn of a request's reader, and return how many of the ``wanted`` bytes may go.

    Args:
        request: the request.
        wanted: bytes, at least 1.
        left: bytes still to go; None where ``wanted`` are all.
    """
    limit = bounds_of(request).uploads
    if limit is None:
        return wanted
    return await _share_of(request, limit).take(wanted, left)


async def take_all(request: web.Request, count: int) -> None:
    """Wait until ``count`` bytes may go."""
    limit = bounds_of(request).uploads
    if limit is not None:
        await _share_of(request, limit).take_all(count)


def count(request: web.Request, count: int) -> None:
    """Count bytes sent at once."""
    limit = bounds_of(request).uploads
    if limit is not None:
        address, counted = _address_of(request)
        limit.count(address, count, counted=counted)


def release(request: web.Request) -> None:
    """End the share of an answered request."""
    share = request.app[SHARES].pop(id(request), None)
    if share is not None:
        share.close()


def _share_of(request: web.Request, limit: FairLimit) -> Share:
    """Return the share of a request, ended by ``release``."""
    shares = request.app[SHARES]
    share = shares.get(id(request))
    if share is None:
        address, counted = _address_of(request)
        share = shares[id(request)] = limit.open(address, counted=counted)
    return share


def _address_of(request: web.Request) -> tuple[Hashable, bool]:
    """Return the address of a reader, and whether the limit for each address applies there.

    Each connection of a trusted proxy is an address of its own: other readers stand behind the proxy.
    """
    address = bounds_of(request).limited_address(request.remote or "")
    return (request.transport, False) if address is None else (address, True)
