"""Every route of a backup server: it stands in the protocol's page, and answers only the right key."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shardcast.access import wrong_tokens
from shardcast.access.scopes import Scope
from shardcast.backup import wire
from shardcast.backup.server import app as backup_app
from shardcast.backup.server.app import BackupServerNode
from shardcast.backup.server.management import StoreManager
from shardcast.backup.server.store_folder import StoreFolder
from shardcast.server.application import application
from shardcast.server.scoped_routes import RULES
from tests.support.access import TokensOnDisk
from tests.support.backup_stores import pack_of, random_contents

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
OPEN = {"GET /backup", "POST /backup/register"}
WRITING = {
    "POST /backup/runs",
    "DELETE /backup/runs/{run}",
    "POST /backup/runs/{run}/missing",
    "POST /backup/runs/{run}/share",
    "PUT /backup/runs/{run}/packs/{digest}",
    "POST /backup/runs/{run}/snapshots",
    "POST /backup/forget",
}
NAMED = {"run": "0" * 32, "snapshot": "0" * 16, "digest": "0" * 64}
"""Names of a run, a snapshot and a pack that are not there."""
HEAD: dict[str, Any] = {"host": "desk", "path": "/home/me", "tags": [], "base": None}


@dataclass
class Server:
    """A backup server with tokens for ``/status``.

    Attributes:
        node: the server.
        routes: its routes below ``/backup``, as method and path.
        folder: its store.
        token: a token with every scope.
    """

    node: BackupServerNode
    routes: set[str]
    folder: Path
    token: str

    async def ask(
        self, route: str, key: str | None, names: dict[str, str] = NAMED, body: bytes = b"{}"
    ) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of the answer."""
        method, path = route.format_map(names).split()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        data = body if method in ("POST", "PUT") else None
        url = self.node.url.rstrip("/") + path
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=data, headers=headers) as answer,
        ):
            return answer.status, await answer.read()

    async def key(self, **words: Any) -> str:
        """Register as a client, and return its key."""
        with StoreManager.opened(StoreFolder(self.folder)) as manager:
            invitation = manager.invite(100.0, **words)
        fields = {"invitation": invitation, "host": "raw", "path": "/"}
        status, answer = await self.ask("POST /backup/register", None, body=json.dumps(fields).encode())
        assert status == 201
        return str(json.loads(answer)["key"])

    def client_names(self) -> list[str]:
        """Return the names of the clients."""
        with StoreManager.opened(StoreFolder(self.folder)) as manager:
            return [client.name for client in manager.clients()]


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(wrong_tokens, "FIRST_DELAY", 0.0)
    made: list[web.Application] = []

    def recorded(*words: Any, **settings: Any) -> web.Application:
        made.append(application(*words, **settings))
        return made[-1]

    monkeypatch.setattr(backup_app, "application", recorded)
    tokens = TokensOnDisk(tmp_path / "tokens")
    token = tokens.add(Scope).text
    folder = tmp_path / "store"
    running = BackupServerNode.running(folder, host="127.0.0.1", access=tokens.access)
    async with running as node:
        [app] = made
        assert set(app[RULES]) == set(app.router.routes())
        routes = {f"{route.method} {route.resource.canonical}" for route in app[RULES] if route.resource}
        yield Server(node, {route for route in routes if " /backup" in route}, folder, token)


def methods_of_page() -> set[str]:
    """Return the requests in the page's table of backups."""
    section = PAGE.read_text().split("\n## Backups\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([A-Z]+ /backup\S*)` \|", section, re.MULTILINE))


async def test_every_route_is_in_the_page(server: Server) -> None:
    assert {route for route in server.routes if not route.startswith("HEAD")} == methods_of_page()


async def test_bounds_of_the_page_are_those_of_the_code(server: Server) -> None:
    section = " ".join(PAGE.read_text().split("\n## Backups\n")[1].split("\n## ")[0].split())
    assert (wire.MAX_IDS, wire.MAX_PACK, wire.MAX_HEAD) == (65_536, 32 << 20, 64 << 10)
    assert (wire.MAX_RECORD, wire.MAX_SNAPSHOT_IDS) == (1 << 20, 1 << 26)
    assert (wire.MAX_PROOFS, wire.MIN_SHARED) == (4096, 4096)
    assert (wire.MAX_TAGS, wire.MAX_TEXT, wire.MAX_JSON) == (64, 8192, 1 << 20)
    for words in (
        "at most 4096 ids, each with its proof", "chunks of fewer than 4096 stored bytes",
        "at most 65 536 ids", "a pack of at most 32 MiB", "JSON, at most 64 KiB", "record (at most 1 MiB)",
        "at most 2<sup>26</sup>", "`tags` (at most 64)", "at most 8192 characters, JSON bodies 1 MiB",
    ):  # fmt: skip
        assert words in section


async def test_no_route_answers_without_a_right_key(server: Server) -> None:
    revoked = await server.key()
    with StoreManager.opened(StoreFolder(server.folder)) as manager:
        [name] = server.client_names()
        assert manager.revoke(name) == 1
    wrong = []
    for route in sorted(server.routes - OPEN - {"HEAD /backup"}):
        for key in (None, "password", revoked, server.token):
            status, body = await server.ask(route, key)
            if status != 401 or not (route.startswith("HEAD") or set(json.loads(body)) == {"error"}):
                wrong.append((route, key, status))
    assert wrong == []


async def test_status_needs_a_token_and_no_clients_key_opens_it(server: Server) -> None:
    key = await server.key()
    assert [(await server.ask("GET /status", given))[0] for given in (None, key, server.token)] == [
        401,
        401,
        200,
    ]


async def test_read_only_key_is_refused_by_each_route_that_writes(server: Server) -> None:
    await server.key()
    [name] = server.client_names()
    reading = await server.key(client=name, read_only=True)
    refused = set()
    for route in server.routes - OPEN:
        status, _ = await server.ask(route, reading)
        assert status not in (401, 500)
        if status == 403:
            refused.add(route)
    assert refused == WRITING


async def make_snapshot(server: Server, key: str) -> tuple[dict[str, str], list[bytes]]:
    """Make a snapshot whose run goes on; return the names of run, snapshot and pack, and the chunks."""
    _, answer = await server.ask("POST /backup/runs", key, body=b'{"host": "h", "path": "/"}')
    pack, ids = pack_of(random_contents("secret", 3))
    names = {**NAMED, "run": json.loads(answer)["run"], "digest": pack.sha256}
    status, _ = await server.ask("PUT /backup/runs/{run}/packs/{digest}", key, names, bytes(pack.data))
    assert status == 201
    commit = b"".join(wire.encode_commit(HEAD, b"record", ids))
    _, answer = await server.ask("POST /backup/runs/{run}/snapshots", key, names, commit)
    return names | {"snapshot": json.loads(answer)["snapshot"]}, ids


async def test_names_of_another_client_are_answered_as_if_not_there(server: Server) -> None:
    owner, stranger = await server.key(), await server.key()
    theirs, ids = await make_snapshot(server, owner)
    for route in sorted(server.routes - OPEN):
        answers = []
        for names, chunks in ((NAMED, [bytes([n]) * 32 for n in range(3)]), (theirs, ids)):
            body = b"".join(chunks) if route.endswith(("/locate", "/missing")) else b"{}"
            if route.endswith("/forget"):
                body = json.dumps({"snapshots": [names["snapshot"]]}).encode()
            status, answer = await server.ask(route, stranger, names, body)
            answers.append((status, _without_names(answer, names)))
        assert answers[0] == answers[1], route
    _, answer = await server.ask("POST /backup/runs", stranger, body=b'{"host": "h", "path": "/"}')
    own = {"run": json.loads(answer)["run"]}
    assert await server.ask("POST /backup/runs/{run}/missing", stranger, own, b"".join(ids)) == (200, b"\x07")
    assert await server.ask("GET /backup/snapshots/{snapshot}", owner, theirs) == (200, b"record")
    assert await server.ask("POST /backup/runs/{run}/missing", owner, theirs, b"".join(ids)) == (200, b"\0")


def _without_names(body: bytes, names: dict[str, str]) -> bytes:
    """Return a body without the names of the request."""
    for name in names.values():
        body = body.replace(name.encode(), b"?")
    return body
