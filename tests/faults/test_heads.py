"""HEAD is answered wherever GET is, as GET without its body (``wget --spider``, load balancers)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from tests.support.blob_stores import digest_of

HERE: dict[str, Any] = {"host": "127.0.0.1", "port": 0}


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[web.Application]:
    """The applications that listen."""
    found: list[web.Application] = []
    make = web.AppRunner.__init__

    def note(runner: web.AppRunner, app: web.Application, **words: Any) -> None:
        found.append(app)
        make(runner, app, **words)

    monkeypatch.setattr(web.AppRunner, "__init__", note)
    return found


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as opened:
        yield opened


def without_head(apps: list[web.Application]) -> dict[str, set[str]]:
    """The paths of which there is a GET and no HEAD."""
    methods: dict[str, set[str]] = {}
    for app in apps:
        for route in app.router.routes():
            assert route.resource
            methods.setdefault(route.resource.canonical, set()).add(route.method)
    return {path: every for path, every in methods.items() if "GET" in every and "HEAD" not in every}


async def both(session: aiohttp.ClientSession, url: str, body: bytes | None = None) -> tuple[int, int]:
    async with session.head(url, data=body) as head:
        assert await head.read() == b""
    async with session.get(url, data=body) as answer:
        return head.status, answer.status


async def test_nodes_answer_head_requests(
    tmp_path: Path, session: aiohttp.ClientSession, apps: list[web.Application]
) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(b"payload")
    async with (
        Origin.running(tmp_path / "origin", "127.0.0.1", 0) as origin,
        Middle.running([origin.url], tmp_path / "middle", "127.0.0.1", 0) as middle,
    ):
        await (await origin.publish(payload)).result()
        assert without_head(apps) == {}
        for path in ("/feed", "/v1/lease"):
            async with session.head(origin.url + path) as answer:
                assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
        async with session.head(f"{origin.url}/v2/lease") as answer:
            assert answer.status == 404
        for node in (origin, middle):
            for path in ("/distribution.txt", "/healthcheck", "/status", "/data1.bin", "/nothing"):
                head, answered = await both(session, node.url + path)
                assert head == answered, path


async def test_hash_server_answers_head_requests(
    tmp_path: Path, session: aiohttp.ClientSession, apps: list[web.Application]
) -> None:
    digest = digest_of(b"blob")
    listed = b'["%s"]' % digest.encode()
    async with StoreServer.running(StoreSettings(tmp_path, writable=True)) as server:
        assert without_head(apps) == {}
        assert await both(session, f"{server.url}/healthcheck") == (200, 200)
        for path in ("/has", "/has-now", "/buffer-length"):
            assert await both(session, server.url + path, listed) == (200, 200)
            assert await both(session, server.url + path) == (400, 400)
        assert await both(session, f"{server.url}/{digest}") == (404, 404)
        assert await both(session, f"{server.url}/promise/{digest}") == (405, 405)
        async with session.post(f"{server.url}/has") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_archive_answers_head_requests(
    tmp_path: Path, session: aiohttp.ClientSession, apps: list[web.Application]
) -> None:
    async with ArchiveNode.on_directory(tmp_path, **HERE) as archive:
        assert without_head(apps) == {}
        for path in ("/", "/stats", "/liveness", "/healthcheck", "/ready", "/status"):
            assert await both(session, archive.url + path) == (200, 200)
