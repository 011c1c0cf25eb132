"""``/backup``, ``/backup/register`` and ``/backup/client``: the server and the client's own facts."""

from __future__ import annotations

import base64
import logging
import sqlite3
from typing import Any

from aiohttp import web

from shardcast.backup.server.accounts import AdmittedClient, BackupClient, register
from shardcast.backup.server.activity_log import add_entry
from shardcast.backup.server.pack_table import used_bytes
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.routes.answers import answering, for_client, path_field, read_fields, text_field
from shardcast.backup.server.routes.authentication import slow_down
from shardcast.backup.server.runs import LEASE_SECONDS
from shardcast.backup.server.snapshot_table import arrivals
from shardcast.backup.server.state import BackupRules, BackupServerState
from shardcast.backup.server.unusual import DAY, WATCHED_DAYS, unusual_count
from shardcast.backup.wire import (
    ABOUT_PATH,
    CLIENT_PATH,
    FORMAT,
    MAX_IDS,
    MAX_PACK,
    MAX_RECORD,
    NAME,
    REGISTER_PATH,
)
from shardcast.server.scoped_routes import add_route

log = logging.getLogger(__name__)

_LIMITS = {"pack": MAX_PACK, "ids": MAX_IDS, "record": MAX_RECORD, "lease_seconds": LEASE_SECONDS}


def add_account_routes(app: web.Application, state: BackupServerState) -> None:
    """Add the routes that describe the server, register clients, and tell clients their own facts."""

    async def about(request: web.Request) -> web.StreamResponse:
        return web.json_response({"format": FORMAT, "name": NAME, "append_only": state.rules.append_only})

    async def register_client(request: web.Request) -> web.StreamResponse:
        fields = await read_fields(request)
        invitation, host = text_field(fields, "invitation"), text_field(fields, "host")
        path = path_field(fields)
        try:
            registration = await state.store.database.write(
                _register,
                invitation,
                host,
                path,
                request.remote or "",
                state.store.clock(),
                shares=state.rules.dedupe_clients,
            )
        except BackupRefused:
            await slow_down(state, request, "a wrong invitation")
            raise
        log.info("%s registered as %s", request.remote, registration.client)
        return web.json_response(
            {
                "client": registration.client,
                "key": registration.key,
                "id_key": base64.b64encode(registration.id_key).decode(),
                "read_only": registration.read_only,
                "shares": registration.shares,
            },
            status=201,
        )

    async def describe(request: web.Request, client: BackupClient) -> web.StreamResponse:
        facts = await state.store.database.read(_facts, client, state.rules, state.store.clock())
        return web.json_response({**facts, "limits": _LIMITS})

    add_route(app, "GET", ABOUT_PATH, about, scope=None)
    add_route(app, "POST", REGISTER_PATH, answering(register_client), scope=None)
    add_route(app, "GET", CLIENT_PATH, for_client(state, describe), scope=None)


def _register(
    database: sqlite3.Connection,
    invitation: str,
    host: str,
    path: str,
    address: str,
    now: float,
    *,
    shares: bool,
) -> AdmittedClient:
    """Register a client, and log the registration."""
    registration = register(database, invitation, host, path, now, shares=shares)
    add_entry(database, now, registration.client, address, "register", f"{host}:{path}")
    return registration


def _facts(
    database: sqlite3.Connection, client: BackupClient, rules: BackupRules, now: float
) -> dict[str, Any]:
    """Return a client's own facts as JSON."""
    id_key, quota = database.execute(
        "SELECT id_key, quota FROM client WHERE number = ?", (client.number,)
    ).fetchone()
    watched = arrivals(database, client.number, now - WATCHED_DAYS * DAY)
    return {
        "client": client.name,
        "id_key": base64.b64encode(id_key).decode(),
        "read_only": client.read_only,
        "shares": client.shares,
        "quota": rules.quota if quota is None else quota,
        "used": used_bytes(database, client.number),
        "append_only": rules.append_only,
        "min_age": rules.min_age,
        "unusual": unusual_count(watched, now),
    }
