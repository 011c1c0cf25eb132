"""The door that shardcast is for: the distribution list, manifests and shards of a Shelf."""

from __future__ import annotations

from aiohttp import web

from shardcast.server.sending import send_span
from shardcast.store.shelf import Shelf
from shardcast.wire import DISTRIBUTION_PATH, NDJSON, PROBE_PATH, PROBE_SIZE, TEXT, shard_number

_ANYWHERE = {"Access-Control-Allow-Origin": "*"}


def add_versions(app: web.Application, shelf: Shelf) -> None:
    """Serve what a Shelf holds."""

    async def distribution(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": TEXT, "Cache-Control": "no-cache", **_ANYWHERE}
        return web.Response(body=shelf.distribution(), headers=headers)

    async def manifest(request: web.Request) -> web.StreamResponse:
        raw = shelf.manifest(request.match_info["version"])
        if raw is None:
            raise web.HTTPNotFound(text="404: no such manifest\n")
        return web.Response(body=raw, headers={"Content-Type": NDJSON, **_ANYWHERE})

    async def shard(request: web.Request) -> web.StreamResponse:
        version, number = request.match_info["version"], shard_number(request.match_info["shard"])
        span = shelf.shard(version, number) if number else None
        if span is None:
            raise web.HTTPNotFound(text="404: no such shard\n")
        with shelf.reading(version):
            return await send_span(request, span)

    async def probe(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(PROBE_SIZE))

    app.router.add_get(DISTRIBUTION_PATH, distribution)
    app.router.add_get("/{version:v[1-9][0-9]{0,17}}/manifest.jsonl", manifest)
    app.router.add_get(r"/{version:v[1-9][0-9]{0,17}}/{shard:shard_[0-9]{3,7}\.bin}", shard)
    app.router.add_get(PROBE_PATH, probe)
