"""``/backup/runs/…/snapshots``, ``/backup/snapshots`` and ``/backup/forget``: commit, list, read, forget."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

from aiohttp import web

from shardcast.backup.server.accounts import BackupClient
from shardcast.backup.server.activity_log import add_entry
from shardcast.backup.server.commit_reader import read_commit
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.routes.answers import expecting, for_client, json_lines, read_fields
from shardcast.backup.server.routes.authentication import check_admin_key
from shardcast.backup.server.routes.runs import RUN_ROUTE, run_of
from shardcast.backup.server.runs import ActiveRun
from shardcast.backup.server.snapshot_table import (
    NewSnapshot,
    arrivals,
    commit_snapshot,
    damaged_chunks,
    forget_snapshots,
    list_snapshots,
    read_record,
)
from shardcast.backup.server.state import BackupServerState
from shardcast.backup.server.unusual import DAY, WATCHED_DAYS, unusual_count
from shardcast.backup.wire import FORGET_PATH, SNAPSHOTS_PATH
from shardcast.protocol.wire import BYTES
from shardcast.server.bodies import chunks
from shardcast.server.scoped_routes import add_route

log = logging.getLogger(__name__)

_MAX_FORGOTTEN = 10_000
"""Snapshots in one request to forget."""
_SNAPSHOT_ROUTE = SNAPSHOTS_PATH + "/{snapshot:[0-9a-f]{1,64}}"


def add_snapshot_routes(app: web.Application, state: BackupServerState) -> None:
    """Add the routes that commit, list, send and forget snapshots of clients."""
    store = state.store

    async def commit(request: web.Request, client: BackupClient) -> web.StreamResponse:
        async with run_of(state, request, client) as run:
            snapshot = await read_commit(store, run, chunks(request))
            name, arrived, unusual = await store.database.write(
                _commit, client, run, snapshot, request.remote or "", store.clock(), state.rules.quota
            )
        if unusual:
            log.warning("%s made more snapshots than usual: %s", client.name, unusual)
        log.info("%s made the snapshot %s", client.name, name)
        return web.json_response({"snapshot": name, "arrived": arrived}, status=201)

    async def show_all(request: web.Request, client: BackupClient) -> web.StreamResponse:
        return json_lines(
            await store.database.read(lambda database: list(list_snapshots(database, client.number)))
        )

    async def show(request: web.Request, client: BackupClient) -> web.StreamResponse:
        record = await store.database.read(read_record, client.number, request.match_info["snapshot"])
        return web.Response(body=record, content_type=BYTES)

    async def damaged(request: web.Request, client: BackupClient) -> web.StreamResponse:
        ids = await store.database.read(damaged_chunks, client.number, request.match_info["snapshot"])
        return web.Response(body=b"".join(ids), content_type=BYTES)

    async def forget(request: web.Request, client: BackupClient) -> web.StreamResponse:
        names = _names(await read_fields(request))
        if state.rules.append_only:
            await check_admin_key(state, request)
        now = store.clock()
        await store.database.write(
            _forget, client, names, request.remote or "", now, now - state.rules.min_age
        )
        log.info("%s forgot %d snapshots", client.name, len(names))
        return web.json_response({"forgotten": names})

    add_route(
        app,
        "POST",
        RUN_ROUTE + "/snapshots",
        for_client(state, commit, writes=True),
        scope=None,
        expect_handler=expecting(state),
    )
    add_route(app, "GET", SNAPSHOTS_PATH, for_client(state, show_all), scope=None)
    add_route(app, "GET", _SNAPSHOT_ROUTE, for_client(state, show), scope=None)
    add_route(app, "GET", _SNAPSHOT_ROUTE + "/damaged", for_client(state, damaged), scope=None)
    add_route(app, "POST", FORGET_PATH, for_client(state, forget, writes=True), scope=None)


def _commit(
    database: sqlite3.Connection,
    client: BackupClient,
    run: ActiveRun,
    snapshot: NewSnapshot,
    address: str,
    now: float,
    quota: int | None,
) -> tuple[str, float, str | None]:
    """Commit a snapshot and log the commit; return its id, the time of arrival, and a warning or None."""
    name, arrived = commit_snapshot(database, run, snapshot, now, quota)
    if arrived != now:
        return name, arrived, None  # committed before
    add_entry(database, now, client.name, address, "snapshot", name)
    unusual = unusual_count(arrivals(database, client.number, now - WATCHED_DAYS * DAY), now)
    if unusual:
        add_entry(database, now, client.name, address, "unusual", unusual)
    return name, arrived, unusual


def _forget(
    database: sqlite3.Connection,
    client: BackupClient,
    names: list[str],
    address: str,
    now: float,
    youngest: float,
) -> None:
    """Forget snapshots of a client, and log the deletion."""
    forget_snapshots(database, client.number, names, youngest)
    for name in names:
        add_entry(database, now, client.name, address, "forget", name)


def _names(fields: dict[str, Any]) -> list[str]:
    """Return the ids of snapshots in a body.

    Raises:
        BackupRefused: the list is empty, too long, or has an entry that is no id.
    """
    names = fields.get("snapshots")
    if not isinstance(names, list) or not 1 <= len(names) <= _MAX_FORGOTTEN:
        raise BackupRefused(f"'snapshots' must be a list of 1 to {_MAX_FORGOTTEN} ids", status=400)
    if not all(isinstance(name, str) for name in names):
        raise BackupRefused("an id of a snapshot is a text", status=400)
    return list(dict.fromkeys(names))
