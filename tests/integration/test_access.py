"""What a listener with tokens does besides letting requests in or not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardcast.access import wrong_tokens
from shardcast.access.scopes import Scope
from shardcast.access.tokens import NewToken, make_token
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.nodes.origin import Origin
from shardcast.server import guard
from tests.support.access import TokensOnDisk, bearer
from tests.support.archives import http, push_body
from tests.support.published import publish, random_bytes

HERE: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
BLOB = b"blob"
DIGEST = hashlib.sha256(BLOB).hexdigest()


@pytest.fixture
def tokens(tmp_path: Path) -> TokensOnDisk:
    return TokensOnDisk(tmp_path / "tokens")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with http() as opened:
        yield opened


@pytest.fixture
async def origin(tokens: TokensOnDisk, tmp_path: Path) -> AsyncIterator[Origin]:
    async with Origin.running(tmp_path / "origin", **HERE, access=tokens.access) as running:
        yield running


@pytest.fixture
async def hash_server(tokens: TokensOnDisk, tmp_path: Path) -> AsyncIterator[StoreServer]:
    (tmp_path / "hashes").mkdir()
    settings = StoreSettings(tmp_path / "hashes", writable=True)
    async with StoreServer.running(settings, ports=(0, 0), access=tokens.access) as running:
        yield running


@pytest.fixture
async def archive(tokens: TokensOnDisk, tmp_path: Path) -> AsyncIterator[ArchiveNode]:
    settings: dict[str, Any] = {**HERE, "authorized_port": 0, "token": "old-secret"}
    async with ArchiveNode.on_directory(tmp_path / "blobs", **settings, access=tokens.access) as running:
        yield running


async def status_of(
    session: aiohttp.ClientSession, method: str, url: str, token: NewToken | None = None, **more: Any
) -> int:
    """Return the status of an answer."""
    headers = bearer(token) if token else {}
    async with session.request(method, url, headers=headers, **more) as answer:
        return answer.status


async def say(url: str, *parts: bytes) -> bytes:
    """Send a request to a server part by part, and return all that it sends until it ends the connection."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


async def test_request_without_token_is_told_the_scope(
    origin: Origin, session: aiohttp.ClientSession
) -> None:
    async with session.get(f"{origin.url}/distribution.txt") as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="shardcast", scope="read"'
        text = await answer.text()
        assert text.startswith("401: this server asks for a token, and none came; ")
        assert text.endswith("this request needs a token with the scope read\n")


async def test_path_without_route_needs_no_token(origin: Origin, session: aiohttp.ClientSession) -> None:
    assert await status_of(session, "GET", f"{origin.url}/no/such/path") == 404
    assert await status_of(session, "DELETE", f"{origin.url}/feed") == 405


async def test_revoked_token_ends_its_feed_and_not_its_shard(
    tokens: TokensOnDisk, tmp_path: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_CHECK_SECONDS", 0.02)
    payload = random_bytes(20_000_000)
    publish(tmp_path / "origin", payload, len(payload))
    revoked, kept = tokens.add([Scope.READ]), tokens.add([Scope.READ])
    async with (
        Origin.running(tmp_path / "origin", **HERE, access=tokens.access) as node,
        session.get(f"{node.url}/feed", headers=bearer(revoked)) as feed,
        session.get(f"{node.url}/feed", headers=bearer(kept)) as other_feed,
        session.get(f"{node.url}/v1/shard_001.bin", headers=bearer(revoked)) as shard,
    ):
        assert (feed.status, other_feed.status, shard.status) == (200, 200, 200)
        tokens.revoke(revoked)
        with pytest.raises(aiohttp.ClientError):
            async with asyncio.timeout(30):
                await feed.read()
        assert await shard.read() == payload
        assert not other_feed.content.at_eof()
        assert await status_of(session, "GET", f"{node.url}/data1.bin", kept) == 200
        assert other_feed.content.exception() is None


async def test_revoked_token_ends_its_live_upload(
    tokens: TokensOnDisk, tmp_path: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_CHECK_SECONDS", 0.02)
    token, other = tokens.add([Scope.PUBLISH]), tokens.add([Scope.PUBLISH])
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        await never.wait()

    async def offset(url: str) -> int:
        async with session.get(url, headers=bearer(other)) as answer:
            return int((await answer.json())["offset"])

    settings: dict[str, Any] = {**HERE, "access": tokens.access, "takes_uploads": True}
    async with Origin.running(tmp_path / "origin", **settings) as node, asyncio.timeout(30):
        announced = {"name": "x.bin", "live": True}
        async with session.post(f"{node.url}/uploads", json=announced, headers=bearer(token)) as answer:
            url = f"{node.url}/uploads/{(await answer.json())['upload']}"
        headers = {**bearer(token), "Upload-Offset": "0"}
        sending = asyncio.ensure_future(session.patch(url, data=body(), headers=headers))
        while await offset(url) < 100_000:
            await asyncio.sleep(0.01)
        tokens.revoke(token)
        with pytest.raises(aiohttp.ClientError):
            await sending
        assert await status_of(session, "POST", f"{url}/confirm", token) == 401
        assert await offset(url) == 100_000


@pytest.mark.parametrize(
    ("kind", "scope"), [("hash server", Scope.STORE_WRITE), ("archive", Scope.ARCHIVE_PUSH)]
)
async def test_revoked_token_ends_its_push(
    kind: str,
    scope: Scope,
    tokens: TokensOnDisk,
    hash_server: StoreServer,
    archive: ArchiveNode,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "_CHECK_SECONDS", 0.02)
    token, begun, revoked = tokens.add([scope]), asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        begun.set()
        await revoked.wait()
        while True:
            yield bytes(1000)
            await asyncio.sleep(0.01)

    method, url = {
        "hash server": ("PUT", f"{hash_server.url}/{DIGEST}"),
        "archive": ("POST", f"{archive.url}/v1/push"),
    }[kind]
    # The body is asked for only once the guard has let the request pass.
    sending = asyncio.ensure_future(
        session.request(method, url, data=body(), headers=bearer(token), expect100=True)
    )
    async with asyncio.timeout(30):
        await begun.wait()
        tokens.revoke(token)
        revoked.set()
        with pytest.raises(aiohttp.ClientError):
            await sending


async def test_token_that_expires_ends_its_lease(
    tokens: TokensOnDisk, tmp_path: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(guard, "_CHECK_SECONDS", 0.02)
    access = replace(tokens.access, wall_clock=lambda: now)
    publish(tmp_path / "origin", b"payload", 1000)
    token = tokens.add([Scope.READ], expires=100.0)
    async with (
        Origin.running(tmp_path / "origin", **HERE, access=access) as node,
        session.get(f"{node.url}/v1/lease", headers=bearer(token)) as lease,
    ):
        assert lease.status == 200
        now = 100.0
        with pytest.raises(aiohttp.ClientError):
            async with asyncio.timeout(30):
                await lease.read()


async def test_wrong_tokens_wait_and_a_right_one_of_the_same_address_does_not(
    tokens: TokensOnDisk, origin: Origin, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrong_tokens, "FIRST_DELAY", 3600.0)
    monkeypatch.setattr(wrong_tokens, "LONGEST_DELAY", 3600.0)
    monkeypatch.setattr(wrong_tokens, "MAX_WAITING_OF_ADDRESS", 2)
    url, right, wrong = f"{origin.url}/distribution.txt", tokens.add([Scope.READ]), make_token([Scope.READ])
    waiting = [asyncio.ensure_future(status_of(session, "GET", url, wrong)) for _ in range(3)]
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [429]
    assert await status_of(session, "GET", url, right) == 200
    assert await status_of(session, "GET", url) == 401
    assert not any(task.done() for task in pending)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)

    async def refused_at_once() -> bool:
        return await status_of(session, "GET", url, wrong) == 429

    async with asyncio.timeout(30):  # who hung up waits no more
        while True:
            try:
                async with asyncio.timeout(0.5):
                    assert await refused_at_once()
            except TimeoutError:
                break


@pytest.mark.parametrize("path", ["/report", f"/{DIGEST}", "/v1/push"])
async def test_refused_request_is_never_asked_for_its_body(
    path: str, origin: Origin, hash_server: StoreServer, archive: ArchiveNode
) -> None:
    url = {"/report": origin.url, "/v1/push": archive.url}.get(path, hash_server.url)
    method = "PUT" if path == f"/{DIGEST}" else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    answer = await say(url, head.encode())
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("path", ["/report", f"/{DIGEST}"])
async def test_allowed_request_is_asked_for_its_body(
    path: str, origin: Origin, hash_server: StoreServer, tokens: TokensOnDisk
) -> None:
    token = tokens.add(Scope)
    url, method = (origin.url, "POST") if path == "/report" else (hash_server.url, "PUT")
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
    head += f"Connection: close\r\nAuthorization: Bearer {token.text}\r\n\r\n"
    answer = await say(url, head.encode(), BLOB)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 ")


async def test_hash_server_refuses_in_its_own_form_and_answers_preflights(
    hash_server: StoreServer, session: aiohttp.ClientSession, tokens: TokensOnDisk
) -> None:
    async with session.get(f"{hash_server.url}/{DIGEST}", headers={"Origin": "http://x"}) as answer:
        assert answer.status == 401
        assert "none came" in (await answer.json())["detail"]
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    preflight = {"Origin": "http://x", "Access-Control-Request-Method": "PUT"}
    async with session.options(f"{hash_server.url}/{DIGEST}", headers=preflight) as answer:
        assert answer.status == 200
    writer, reader = tokens.add([Scope.STORE_WRITE]), tokens.add([Scope.STORE_READ])
    assert await status_of(session, "PUT", f"{hash_server.url}/{DIGEST}", reader, data=BLOB) == 403
    assert await status_of(session, "PUT", f"{hash_server.url}/{DIGEST}", writer, data=BLOB) == 200
    assert await status_of(session, "GET", f"{hash_server.url}/{DIGEST}", writer) == 403
    assert await status_of(session, "GET", f"{hash_server.url}/{DIGEST}", reader) == 200


async def test_push_token_of_an_archive_still_pushes_and_allows_nothing_else(
    archive: ArchiveNode,
    session: aiohttp.ClientSession,
    tokens: TokensOnDisk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, body = {"Authorization": "Bearer old-secret"}, push_body([BLOB])
    push, read = f"{archive.url}/v1/push", f"{archive.url}/{DIGEST}"
    async with session.post(push, data=body) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].endswith('scope="archive-push"')
    async with session.post(push, data=body, headers={"Authorization": "Bearer guess"}) as answer:
        assert answer.status == 401
    assert "sent a token that this server does not know" in caplog.text
    async with session.post(push, data=body, headers=old) as answer:
        assert answer.status == 200
    async with session.get(read, headers=old | {"Accept": "application/json"}) as answer:
        assert answer.status == 401
        assert (await answer.json())["message"].startswith("Permission Denied. ")
    assert await status_of(session, "POST", push, tokens.add([Scope.ARCHIVE_PUSH]), data=body) == 200
    assert await status_of(session, "POST", push, tokens.add([Scope.STORE_READ]), data=body) == 403


async def test_authorized_port_takes_pushes_without_a_token_and_nothing_else(
    archive: ArchiveNode, session: aiohttp.ClientSession, tokens: TokensOnDisk
) -> None:
    assert await status_of(session, "POST", f"{archive.push_url}/v1/push", data=push_body([BLOB])) == 200
    assert await status_of(session, "GET", f"{archive.push_url}/{DIGEST}") == 401
    reader = tokens.add([Scope.STORE_READ])
    async with session.get(f"{archive.push_url}/{DIGEST}", headers=bearer(reader)) as answer:
        assert await answer.read() == BLOB
        assert answer.headers["Cache-Control"].startswith("private, ")


@pytest.mark.parametrize("path", ["v1/shard_001.bin", "v1/manifest.jsonl", "status", "distribution.txt"])
async def test_shared_caches_keep_nothing_that_needs_a_token(
    path: str, tokens: TokensOnDisk, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    publish(tmp_path / "origin", b"payload", 1000)
    token = tokens.add([Scope.READ, Scope.STATUS])
    async with (
        Origin.running(tmp_path / "origin", **HERE, access=tokens.access) as node,
        session.get(f"{node.url}/{path}", headers=bearer(token)) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Cache-Control"].split(", ")[0] in ("private", "no-cache", "no-store")


@asynccontextmanager
async def open_archive(folder: Path) -> AsyncIterator[ArchiveNode]:
    """Run an archive with a push token, and without tokens."""
    async with ArchiveNode.on_directory(folder, **HERE, token="old-secret") as running:
        yield running


async def test_push_token_alone_works_as_before_and_two_headers_are_refused(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with open_archive(tmp_path / "blobs") as archive:
        push, right = f"{archive.url}/v1/push", ("Authorization", "Bearer old-secret")
        for headers, status in ([right], 200), ([], 401), ([right, right], 401):
            async with session.post(push, data=push_body([BLOB]), headers=headers) as answer:
                assert answer.status == status
        async with session.get(f"{archive.url}/{DIGEST}") as answer:
            assert await answer.read() == BLOB
            assert answer.headers["Cache-Control"].startswith("public, ")


async def test_status_shows_nodes_below_under_the_names_of_their_tokens(
    origin: Origin, session: aiohttp.ClientSession, tokens: TokensOnDisk
) -> None:
    fleet, operator = tokens.add([Scope.REPORT], name="gpu-fleet"), tokens.add([Scope.STATUS])
    report = {"node": "1f", "role": "client", "name": "gpu3"}
    assert await status_of(session, "POST", f"{origin.url}/report", fleet, json=report) == 204
    async with session.get(f"{origin.url}/status", headers=bearer(operator)) as answer:
        assert [node["name"] for node in (await answer.json())["below"]] == ["gpu-fleet (gpu3)"]
