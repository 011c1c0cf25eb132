"""Slow clients at every route of every listener: each is over within its bound, and costs little memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shardcast.blobs.server import archive_server as archive
from shardcast.blobs.server import hash_server as store_server
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.concurrency import cancel
from shardcast.nodes import middle, origin
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.protocol.uploads import UploadRequest
from shardcast.server.bounds import BOUNDS
from shardcast.server.connections import CONNECTIONS, Connections
from shardcast.server.watch import Watch
from shardcast.store.special_files import short_socket_path, socket_path
from shardcast.store.upload_folder import UploadFolder
from tests.support import slow_clients as slow
from tests.support.archives import pull_body, push_body, wait_until
from tests.support.published import publish, random_bytes
from tests.support.slow_clients import Example, Listener, Route

LARGE = random_bytes(1 << 20)
DIGEST = hashlib.sha256(LARGE).hexdigest()
LISTED = f'["{DIGEST}"]'.encode()

VERSIONS: Mapping[Route, Example] = {
    ("GET", "/distribution.txt"): Example("/distribution.txt"),
    ("GET", "/{version}/manifest.jsonl"): Example("/v1/manifest.jsonl"),
    ("GET", "/{version}/{shard}"): Example("/v2/shard_001.bin"),
    ("GET", "/data1.bin"): Example("/data1.bin"),
    ("GET", "/{key}"): Example(f"/{DIGEST}"),
    ("GET", "/feed"): Example("/feed", stays_open=True),
    ("GET", "/{version}/lease"): Example("/v1/lease", stays_open=True),
    ("POST", "/{version}/swarm"): Example("/v1/swarm", b"{}"),
    ("POST", "/{version}/next"): Example("/v2/next", b'{"node": "1", "count": 0}'),
    ("POST", "/report"): Example("/report", b'{"node": "1", "role": "client"}'),
    ("GET", "/healthcheck"): Example("/healthcheck"),
    ("GET", "/ready"): Example("/ready"),
    ("GET", "/status"): Example("/status"),
}
UPLOAD = f"/uploads/{'a' * 32}"
ORIGIN: Mapping[Route, Example] = VERSIONS | {
    ("POST", "/uploads"): Example("/uploads", b'{"name": "x.bin"}'),
    ("GET", "/uploads/{upload}"): Example(UPLOAD),
    ("PATCH", "/uploads/{upload}"): Example(UPLOAD, b"bytes"),
    ("POST", "/uploads/{upload}/complete"): Example(
        f"{UPLOAD}/complete", f'{{"size": 0, "sha256": "{DIGEST}"}}'.encode()
    ),
    ("POST", "/uploads/{upload}/confirm"): Example(f"{UPLOAD}/confirm"),
    ("DELETE", "/uploads/{upload}"): Example(f"/uploads/{'b' * 32}"),
}
SOCKET_OF_MIDDLE: Mapping[Route, Example] = {
    ("POST", path): Example(path, b"{}")
    for name in ("/pin", "/unpin")
    for path in (name, f"/confirmed{name}")
}
SOCKET_OF_ORIGIN: Mapping[Route, Example] = SOCKET_OF_MIDDLE | {
    ("POST", path): Example(path, b"{}\n")
    for path in (
        "/publish", "/confirmed/publish", "/stream", "/withdraw", "/confirmed/withdraw", "/finish", "/copies",
    )
} | {("GET", "/running"): Example("/running")}  # fmt: skip
HASHES: Mapping[Route, Example] = {
    ("GET", "/healthcheck"): Example("/healthcheck"),
    ("GET", "/has"): Example("/has", LISTED),
    ("GET", "/has-now"): Example("/has-now", LISTED),
    ("GET", "/buffer-length"): Example("/buffer-length", LISTED),
    ("PUT", "/promise/{checksum}"): Example(f"/promise/{'1' * 64}"),
    ("PUT", "/{checksum}"): Example(f"/{hashlib.sha256(b'other').hexdigest()}", b"other"),
    ("GET", "/{checksum}"): Example(f"/{DIGEST}"),
    ("HEAD", "/{checksum}"): Example(f"/{DIGEST}"),
    ("*", "/{tail}"): Example("/no/such/path"),
}
ARCHIVE: Mapping[Route, Example] = {
    ("POST", "/v1/pull"): Example("/v1/pull", pull_body([LARGE])),
    ("POST", "/v1/push"): Example("/v1/push", push_body([b"other"])),
    ("GET", "/v1/metadata/{key}"): Example(f"/v1/metadata/{DIGEST}"),
    ("GET", "/meta/{key}"): Example(f"/meta/{DIGEST}"),
    ("GET", "/stats"): Example("/stats"),
    ("GET", "/liveness"): Example("/liveness"),
    ("GET", "/"): Example("/"),
    ("GET", "/{key}"): Example(f"/{DIGEST}"),
    ("GET", "/healthcheck"): Example("/healthcheck"),
    ("GET", "/ready"): Example("/ready"),
    ("GET", "/status"): Example("/status"),
}
TABLE: Mapping[str, Mapping[Route, Example]] = {
    "origin": ORIGIN,
    "middle": VERSIONS
    | {("GET", "/swarm"): Example("/swarm"), ("GET", "/swarm/check"): Example("/swarm/check")},
    "socket of an origin": SOCKET_OF_ORIGIN,
    "socket of a middle": SOCKET_OF_MIDDLE,
    "hash server": HASHES,
    "archive": ARCHIVE,
    "archive, authorized": ARCHIVE,
}
"""Every listener, and a request to each of its routes. A new route needs one here."""


def with_heads(table: Mapping[Route, Example]) -> Mapping[Route, Example]:
    """A table with a HEAD for each GET, whose answer never stays open."""
    heads = {("HEAD", path): replace(one, stays_open=False) for (_, path), one in table.items()}
    return {route: one for route, one in heads.items() if ("GET", route[1]) in table} | table


@pytest.fixture
async def listeners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Listener]]:
    """All listeners that there are, with quick bounds and small buffers in the system."""
    made: list[web.Application] = []
    for module in (origin, middle, archive, store_server):
        monkeypatch.setattr(module, "application", slow.recording_application(made))
    watch, seen = Connections._watch, set()

    def with_small_buffers(self: Connections, transport: Any) -> Watch:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        seen.add(transport.get_extra_info("peername"))
        return watch(self, transport)

    monkeypatch.setattr(Connections, "_watch", with_small_buffers)
    for name, shards in ("origin", 800), ("upstream", 1):
        publish(tmp_path / name, random_bytes(8000, 2), 8000 // shards)  # the origin's manifest is large
        publish(tmp_path / name, LARGE, len(LARGE))
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / DIGEST[:2]).mkdir()
    (tmp_path / "blobs" / DIGEST[:2] / DIGEST).write_bytes(LARGE)
    here: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, tuple[web.Application, str]] = {}
        UploadFolder.create(tmp_path / "origin" / ".shardcast" / UPLOAD[1:], UploadRequest("x.bin"))
        running = Origin.running(tmp_path / "origin", **here, takes_uploads=True)
        source = await stack.enter_async_context(running)
        found["origin"], found["socket of an origin"] = (made[0], source.url), (made[1], "origin")
        upstream = await stack.enter_async_context(Origin.running(tmp_path / "upstream", **here))
        relay = await stack.enter_async_context(Middle.running([upstream.url], tmp_path / "middle", **here))
        found["middle"], found["socket of a middle"] = (made[4], relay.url), (made[5], "middle")
        settings = StoreSettings(tmp_path / "blobs", writable=True)
        store = await stack.enter_async_context(StoreServer.running(settings, ports=(0, 0)))
        found["hash server"] = made[6], store.url
        archived = ArchiveNode.on_directory(tmp_path / "blobs", **here, authorized_port=0)
        casa = await stack.enter_async_context(archived)
        assert casa.push_url
        found["archive"], found["archive, authorized"] = (made[7], casa.url), (made[8], casa.push_url)
        await wait_until(lambda: len(relay.folders.listings) == 2)

        def address(url: str) -> tuple[str, int] | str:
            if url.startswith("http"):
                return "127.0.0.1", int(url.rpartition(":")[2])
            return stack.enter_context(short_socket_path(socket_path(tmp_path / url)))

        yield {name: Listener(app, address(url), seen) for name, (app, url) in found.items()}


async def test_every_route_of_every_listener_is_in_the_table(listeners: dict[str, Listener]) -> None:
    assert set(listeners) == set(TABLE)
    for name, listener in listeners.items():
        table = set(with_heads(TABLE[name]))
        assert listener.routes - table == set(), f"routes of the {name} without an example"
        assert table - listener.routes == set(), f"examples for no route of the {name}"


async def test_slow_clients_are_closed_within_their_bounds(
    listeners: dict[str, Listener], tmp_path: Path
) -> None:
    crowds = [Crowd(name, listener, with_heads(TABLE[name])) for name, listener in listeners.items()]
    async with contextlib.AsyncExitStack() as stack:
        for crowd in crowds:
            await crowd.come(stack, tmp_path)
        try:
            await wait_until(lambda: not any(crowd.left() for crowd in crowds))
        except AssertionError:
            pytest.fail(f"these are still connected: {[crowd.left() for crowd in crowds]}")
    await wait_until(lambda: not any(crowd.watches() for crowd in crowds))
    assert not any(crowd.memory.used for crowd in crowds)


class Crowd:
    """Slow clients of one listener: one of each kind at each route."""

    def __init__(self, name: str, listener: Listener, table: Mapping[Route, Example]) -> None:
        self.memory = listener.app[CONNECTIONS]._memory
        self._listener = listener
        self._name = name
        self._table = table
        self._others = {id(one) for one in listener.watches}
        self._kinds: dict[object, str] = {}
        self._open: set[object] = set()  # those that may stay, since their answers do

    async def come(self, stack: contextlib.AsyncExitStack, folder: Path) -> None:
        for route, example in self._table.items():
            for behave in slow.SLOW:
                client, peer = await self._listener.connect(folder)
                self._kinds[peer] = f"{behave.__name__} at {' '.join(route)} of the {self._name}"
                if example.stays_open and behave not in slow.BEFORE_THE_ANSWER:
                    self._open.add(peer)
                work = asyncio.ensure_future(slow.misbehave(client, behave, route, example))
                stack.enter_context(client)
                stack.push_async_callback(cancel, [work])

    def watches(self) -> list[Watch]:
        return [one for one in self._listener.watches if id(one) not in self._others]

    def left(self) -> list[str]:
        """Return those that ought to be gone, and see that none takes much memory."""
        watches = self.watches()
        for one in watches:
            assert one.unsent <= slow.MAX_UNSENT
        assert self.memory.used <= self._listener.app[BOUNDS].all_bytes
        peers = [one.transport.get_extra_info("peername") for one in watches]
        peers += set(self._kinds) - self._listener.connected_addresses  # those still to come
        return [self._kinds[peer] for peer in peers if peer in self._kinds and peer not in self._open]
