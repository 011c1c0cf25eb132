"""``/backup/locate`` and ``/backup/packs/…``: where chunks lie, and the bytes of packs a client may read."""

from __future__ import annotations

from aiohttp import web

from shardcast.backup.server.accounts import BackupClient
from shardcast.backup.server.chunk_table import locate
from shardcast.backup.server.readable_packs import MaskedPack, find_readable
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.routes.answers import expecting, for_client
from shardcast.backup.server.state import BackupServerState
from shardcast.backup.wire import ID_BYTES, LOCATE_PATH, MAX_IDS, PACKS_PATH, encode_locations, split_ids
from shardcast.protocol.wire import BYTES
from shardcast.server.bodies import read_body
from shardcast.server.scoped_routes import add_route
from shardcast.server.sending import send_blob, send_span
from shardcast.store.holds import READ, Reader
from shardcast.store.interfaces import Span

_NO_STORE = {"Cache-Control": "private, no-store"}


def add_chunk_routes(app: web.Application, state: BackupServerState) -> None:
    """Add the routes that locate chunks and send packs, or ranges of them."""
    store = state.store

    async def find(request: web.Request, client: BackupClient) -> web.StreamResponse:
        ids = await read_ids(request)
        locations = await store.database.read(locate, client.number, ids)
        return web.Response(body=encode_locations(locations), content_type=BYTES)

    async def send(request: web.Request, client: BackupClient) -> web.StreamResponse:
        digest = request.match_info["digest"]
        readable = await store.database.read(find_readable, client.number, bytes.fromhex(digest))
        file, reader = store.pack_path(digest), Reader(READ, client.name)
        if readable.chunks is None:
            return await send_span(request, Span(file, 0, readable.size, digest), reader, _NO_STORE)
        if not file.is_file():
            raise BackupRefused("the pack is gone; locate its chunks again", status=404)
        return await send_blob(request, MaskedPack(file, readable), "", reader, headers=_NO_STORE)

    add_route(app, "POST", LOCATE_PATH, for_client(state, find), scope=None, expect_handler=expecting(state))
    add_route(app, "GET", PACKS_PATH + "/{digest:[0-9a-f]{64}}", for_client(state, send), scope=None)


async def read_ids(request: web.Request) -> list[bytes]:
    """Return the ids in a body.

    Raises:
        BackupRefused: the body is no whole number of ids.
        BodyTooLarge: there are too many.
    """
    try:
        return split_ids(await read_body(request, MAX_IDS * ID_BYTES))
    except ValueError as error:
        raise BackupRefused(str(error), status=400) from None
