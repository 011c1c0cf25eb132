"""``/backup/locate`` and ``/backup/packs/…``: where chunks lie, and the bytes of a client's own packs."""

from __future__ import annotations

import sqlite3

from aiohttp import web

from shardcast.backup.server.accounts import BackupClient
from shardcast.backup.server.chunk_table import locate
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.routes.answers import expecting, for_client
from shardcast.backup.server.state import BackupServerState
from shardcast.backup.wire import ID_BYTES, LOCATE_PATH, MAX_IDS, PACKS_PATH, encode_locations, split_ids
from shardcast.protocol.wire import BYTES
from shardcast.server.bodies import read_body
from shardcast.server.scoped_routes import add_route
from shardcast.server.sending import send_span
from shardcast.store.holds import READ, Reader
from shardcast.store.interfaces import Span

_NO_STORE = {"Cache-Control": "private, no-store"}


def add_chunk_routes(app: web.Application, state: BackupServerState) -> None:
    """Locate chunks, and send parts of packs."""
    store = state.store

    async def find(request: web.Request, client: BackupClient) -> web.StreamResponse:
        ids = await read_ids(request)
        locations = await store.database.read(locate, client.number, ids)
        return web.Response(body=encode_locations(locations), content_type=BYTES)

    async def send(request: web.Request, client: BackupClient) -> web.StreamResponse:
        digest = request.match_info["digest"]
        size = await store.database.read(_pack_size, client.number, bytes.fromhex(digest))
        span = Span(store.pack_path(digest), 0, size, digest)
        return await send_span(request, span, Reader(READ, client.name), _NO_STORE)

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


def _pack_size(database: sqlite3.Connection, client: int, digest: bytes) -> int:
    """Return the bytes of a client's pack.

    Raises:
        BackupRefused: this client has no such pack; another client's pack is refused alike.
    """
    row = database.execute(
        "SELECT size FROM pack WHERE client = ? AND digest = ? AND state NOT IN ('arriving', 'lost')",
        (client, digest),
    ).fetchone()
    if row is None:
        raise BackupRefused("this client has no such pack; locate its chunks again", status=404)
    return int(row[0])
