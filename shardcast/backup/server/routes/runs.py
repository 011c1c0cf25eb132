"""``/backup/runs``: begin a run, ask for missing chunks, send packs, end the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from shardcast.backup.proofs import PROOF_SIZE, proof_key
from shardcast.backup.server.accounts import BackupClient
from shardcast.backup.server.chunk_table import find_there
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.routes.answers import expecting, for_client, path_field, read_fields, text_field
from shardcast.backup.server.routes.chunks import read_ids
from shardcast.backup.server.run_leases import held_run
from shardcast.backup.server.runs import LEASE_SECONDS, ActiveRun, begin_run, end_run
from shardcast.backup.server.sharing import share_chunks
from shardcast.backup.server.state import BackupServerState
from shardcast.backup.wire import ID_BYTES, MAX_PACK, MAX_PROOFS, RUNS_PATH, encode_bitmap, split_ids
from shardcast.protocol.wire import BYTES
from shardcast.server.bodies import chunks, read_body
from shardcast.server.scoped_routes import add_route

RUN_ROUTE = RUNS_PATH + "/{run:[0-9a-f]{32}}"
"""The path of a run, in the router's syntax."""


def add_run_routes(app: web.Application, state: BackupServerState) -> None:
    """Add the routes of runs: begin, missing chunks, shared chunks, packs, end."""
    store = state.store

    def shares(client: BackupClient) -> bool:
        """Return whether a client can share others' chunks now."""
        return state.rules.dedupe_clients and client.shares

    async def begin(request: web.Request, client: BackupClient) -> web.StreamResponse:
        fields = await read_fields(request)
        host, path = text_field(fields, "host"), path_field(fields)
        run = await store.database.write(begin_run, client.number, host, path, store.clock())
        answer = {"run": run, "lease_seconds": LEASE_SECONDS, "shares": shares(client)}
        return web.json_response(answer, status=201)

    async def missing(request: web.Request, client: BackupClient) -> web.StreamResponse:
        async with run_of(state, request, client):
            ids = await read_ids(request)
            there = await store.database.read(find_there, client.number, ids)
        flags = [chunk not in there for chunk in ids]
        return web.Response(body=encode_bitmap(flags), content_type=BYTES)

    async def share(request: web.Request, client: BackupClient) -> web.StreamResponse:
        async with run_of(state, request, client) as run:
            if not shares(client):
                raise BackupRefused("this client shares no chunks with others; send them", status=403)
            proofs = _proofs(await read_body(request, MAX_PROOFS * (ID_BYTES + PROOF_SIZE)))
            async with state.proving:
                shared = await share_chunks(store, client.number, proof_key(run.id), dict(proofs))
        flags = [chunk in shared for chunk, _ in proofs]
        return web.Response(body=encode_bitmap(flags), content_type=BYTES)

    async def put_pack(request: web.Request, client: BackupClient) -> web.StreamResponse:
        size = request.content_length
        if size is None:
            raise BackupRefused("a pack needs a Content-Length", status=411)
        if size > MAX_PACK:
            raise BackupRefused(f"a pack has at most {MAX_PACK} bytes, not {size}", status=413)
        digest = request.match_info["digest"]
        async with run_of(state, request, client) as run, state.uploads:
            count, new = await store.receive_pack(
                client.number, run, digest, size, chunks(request), state.rules.quota
            )
        return web.json_response({"chunks": count, "new": new}, status=201 if new else 200)

    async def end(request: web.Request, client: BackupClient) -> web.StreamResponse:
        await store.database.write(end_run, client.number, request.match_info["run"])
        await store.database.empty_log()
        return web.json_response({})

    expect = expecting(state)
    add_route(app, "POST", RUNS_PATH, for_client(state, begin, writes=True), scope=None)
    add_route(app, "DELETE", RUN_ROUTE, for_client(state, end, writes=True), scope=None)
    add_route(
        app,
        "POST",
        RUN_ROUTE + "/missing",
        for_client(state, missing, writes=True),
        scope=None,
        expect_handler=expect,
    )
    add_route(
        app,
        "POST",
        RUN_ROUTE + "/share",
        for_client(state, share, writes=True),
        scope=None,
        expect_handler=expect,
    )
    add_route(
        app,
        "PUT",
        RUN_ROUTE + "/packs/{digest:[0-9a-f]{64}}",
        for_client(state, put_pack, writes=True),
        scope=None,
        expect_handler=expect,
    )


@asynccontextmanager
async def run_of(
    state: BackupServerState, request: web.Request, client: BackupClient
) -> AsyncIterator[ActiveRun]:
    """Yield the run of a request; the run's lease is renewed inside the block.

    Raises:
        BackupRefused: the run has ended, or belongs to another client.
    """
    async with held_run(state.store, client.number, request.match_info["run"]) as run:
        yield run


def _proofs(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the ids of chunks in a body, each with its proof.

    Raises:
        BackupRefused: the body is no whole number of ids with proofs.
    """
    try:
        words = split_ids(body)
    except ValueError as error:
        raise BackupRefused(str(error), status=400) from None
    if len(words) % 2:
        raise BackupRefused("the last id has no proof", status=400)
    return list(zip(words[::2], words[1::2], strict=True))
