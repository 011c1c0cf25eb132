"""The route to a node's shards by their digest, in whatever version they are."""

from __future__ import annotations

import logging

from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.blobs.interface import BlobStore
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError
from shardcast.protocol.wire import IMMUTABLE, RETRY_AFTER
from shardcast.server.hang_ups import open_while_connected
from shardcast.server.scoped_routes import add_route
from shardcast.server.sending import send_blob
from shardcast.store.holds import READ, Reader

log = logging.getLogger(__name__)


def add_digest_routes(app: web.Application, shards: BlobStore) -> None:
    """Serve ``GET /<SHA-256>`` from a store of shards."""

    async def shard(request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"].lower()
        try:
            async with open_while_connected(request, shards.open(key)) as blob:
                reader = Reader(READ, request.remote or "")
                return await send_blob(request, blob, key, reader, headers={"Cache-Control": IMMUTABLE})
        except BlobCorrupt as error:
            log.error("can't serve %s: %s", key, error)
        except LocalDiskError as error:
            log.error("can't serve %s: %s", key, error)
            raise web.HTTPServiceUnavailable(
                text="503: the shard can't be read now\n", headers={"Retry-After": RETRY_AFTER}
            ) from None
        except BlobMissing:
            pass
        raise web.HTTPNotFound(text="404: no such shard\n")

    add_route(app, "GET", "/{key:[0-9a-fA-F]{64}}", shard, scope=Scope.READ)
