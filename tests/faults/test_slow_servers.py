"""Every request that shardcast makes ends in time, wherever its server stops, and holds no more memory."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import gc
import hashlib
import json
import os
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import shardcast
from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.client.remote import RemoteStore, ServerKind
from shardcast.control import client as control
from shardcast.control import running, waiting, writer
from shardcast.errors import BadAnswer, PeerError, ShardcastError
from shardcast.peer import server as peer
from shardcast.peer.announcing import SwarmClient
from shardcast.peer.next_range import RangeServer
from shardcast.peer.node_status import StatusClient
from shardcast.peer.pace import Upload
from shardcast.peer.requests import RangeRequest
from shardcast.peer.server import Peer
from shardcast.peer.session import Session, open_session
from shardcast.peer.uploads import UploadClient
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import Announcement
from shardcast.protocol.manifest import Shard, manifest_of_old_node
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.protocol.uploads import UploadRequest, WholePayload
from shardcast.protocol.wire import HAS_NOW_PATH, LENGTH_PATH
from shardcast.store.data_dir_layout import own_folder
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.store.special_files import short_socket_path, socket_path
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from tests.support.published import publish, random_bytes
from tests.support.slow_servers import WAYS, Reply, SlowServer, Way

SECONDS = 0.4
"""The time-out of every request here, and so the bound of each of its heads, lines and portions."""
OVER = 20.0
"""Seconds in which a request must have ended; each of these servers would hold it for ever."""
MEMORY = 64 << 20
"""Bytes that all requests of one test may hold at once, over what they began with."""

NDJSON = "application/x-ndjson"
BLOB = random_bytes(200_000)
DIGEST = hashlib.sha256(BLOB).hexdigest()
LARGE = bytes(16 << 20)
"""More than the buffers of two sockets hold."""
HELLO = {
    "feed": "5f0c", "node": "81ab", "origin": "e1d4", "distance": 0, "now": True, "chain": [],
    "silent": False, "highest": 0,
}  # fmt: skip


def lines(*said: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in said)


@dataclass(frozen=True)
class Asked:
    """What a request is made with."""

    url: str
    session: Session
    folder: Path

    @property
    def peer(self) -> Peer:
        return Peer(self.url, self.session, SECONDS)

    @property
    def node(self) -> StatusClient:
        return StatusClient(self.session, self.url, SECONDS)

    @property
    def uploads(self) -> UploadClient:
        return UploadClient(self.session, self.url, SECONDS)

    def store(self, kind: ServerKind | None = None) -> RemoteStore:
        store = RemoteStore(self.url, self.session, "blake3", timeout=SECONDS, patience=SECONDS)
        store._kind = kind
        return store


@dataclass(frozen=True)
class Request:
    """A request that shardcast makes.

    Attributes:
        sends: the functions that send it, ``file.py:Class.method``.
        path: what it asks for; only that is answered slowly.
        reply: the right answer.
        make: the request.
        local: whether it goes to the socket of a data directory.
    """

    sends: tuple[str, ...]
    path: str
    reply: Reply
    make: Callable[[Asked], Awaitable[object]]
    local: bool = False


async def announce(asked: Asked) -> object:
    announcement = Announcement("81ab", "0" * 32, b"k" * 32, b"p" * 64, "1" * 32)
    return await SwarmClient(asked.session, asked.url, SECONDS).announce("v1", announcement)


async def read_feed(asked: Asked) -> None:
    async for _ in asked.peer.feed(""):
        pass


async def hold(asked: Asked) -> None:
    async for _ in asked.peer.lease("v1", "me"):
        pass


async def follow_manifest(asked: Asked) -> None:
    async def take(lines: bytes) -> None:
        pass

    await asked.peer.follow_manifest("v1", b"", take)


async def fetch(asked: Asked, direct: bool = True) -> None:
    """A shard, as a transfer asks for it."""
    live = LiveManifest.of(manifest_of_old_node("v1", [len(BLOB)], {"sha256": DIGEST}))
    server = asked.peer
    server._bulk.direct = direct
    with contextlib.closing(OutputFile(asked.folder / "got", live)) as filling:
        limits = Limits(attempts=1, timeout=SECONDS)
        await Transfer(live, [server], filling, limits=limits).run()


async def ask_next(asked: Asked, direct: bool = True) -> None:
    """The next range, as a node that shares asks for it."""
    server = RangeServer(asked.url, asked.session, SECONDS)
    server.is_plain = direct
    numbers = PieceNumbers(len(BLOB), [Shard(1, 0, len(BLOB), DIGEST)])
    await server.ranges("v1", "81ab", numbers).ask(0, lambda head: memoryview(bytearray(len(BLOB))))


async def pull(asked: Asked) -> None:
    async for _ in ArchiveClient(asked.url, asked.session, timeout=SECONDS).pull({DIGEST: len(BLOB)}):
        pass


async def push(asked: Asked) -> None:
    await ArchiveClient(asked.url, asked.session, timeout=SECONDS).push([LARGE])


async def read_blob(asked: Asked) -> None:
    async with asked.store(ServerKind.SHARDS).open(DIGEST) as reader:
        while await reader.read(1 << 20):
            pass


async def put_blob(asked: Asked) -> None:
    async with asked.store(ServerKind.HASH_SERVER).put() as writing:
        await writing.write(LARGE)
        await writing.commit()


async def publish_it(asked: Asked) -> None:
    await asyncio.to_thread(lambda: list(control.publish(asked.folder, asked.folder / "payload")))


async def pin(asked: Asked) -> None:
    await asyncio.to_thread(control.change_pin, asked.folder, "v1", True)


async def withdraw(asked: Asked) -> None:
    await asyncio.to_thread(control.withdraw, asked.folder, "v1")


async def finish(asked: Asked) -> None:
    await asyncio.to_thread(waiting.finish, asked.folder)


async def wait_for_copies(asked: Asked) -> None:
    await asyncio.to_thread(lambda: list(waiting.wait_for_copies(asked.folder, "v1", 2)))


async def write(asked: Asked) -> None:
    await asyncio.to_thread(writer.BroadcastWriter, asked.folder, "file")


async def find_origin(asked: Asked) -> None:
    await asyncio.to_thread(running.find_origin, asked.folder)


async def upload(asked: Asked) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield LARGE

    await asked.uploads.append(UPLOAD, 0, Upload(chunks()))


async def finish_upload(asked: Asked) -> None:
    async for _ in asked.uploads.finish(UPLOAD, WholePayload(1, DIGEST)):
        pass


UPLOADS, UPLOAD = "peer/uploads.py:UploadClient.", "a" * 32
STATUS = {"upload": UPLOAD, "offset": 0, "state": "receiving"}
UPLOADED = Reply(json.dumps(STATUS).encode(), "application/json")
FEED = Reply(lines(HELLO, {"seq": 1}, {"seq": 2}), NDJSON, ends=False)
LEASE = Reply(lines({"held": True}, {"held": True}), NDJSON, ends=False)
PROGRESS = {"progress": {"done": 1, "size": 2}}
NEXT_RANGE = Reply(
    BLOB,
    "application/octet-stream\r\nShardcast-Shard: 1\r\n"
    f'Content-Range: bytes 0-{len(BLOB) - 1}/{len(BLOB)}\r\nETag: "{DIGEST}"',
    "206 Partial Content",
)
ASKING = ("control/client.py:ChangeRequest.lines",)

REQUESTS: dict[str, Request] = {
    "list": Request(
        ("peer/server.py:Peer._distribution",),
        "/distribution.txt",
        Reply(f"v1: {DIGEST}|1\nv2: {DIGEST}|1\n".encode(), "text/plain"),
        lambda asked: asked.peer.listings(),
    ),
    "feed": Request(("peer/server.py:Peer.feed",), "/feed", FEED, read_feed),
    "lease": Request(("peer/server.py:Peer.lease",), "/v1/lease", LEASE, hold),
    "report": Request(
        ("peer/server.py:Peer.report",),
        "/report",
        Reply(status="204 No Content"),
        lambda asked: asked.peer.report(b"{}"),
    ),
    "readiness": Request(
        ("peer/node_status.py:StatusClient._fetch",),
        "/ready",
        Reply(b"OK"),
        lambda asked: asked.node.missing(),
    ),
    "status": Request(
        ("peer/node_status.py:StatusClient._fetch",),
        "/status",
        Reply(b'{"role": "origin", "node": "81ab"}', "application/json"),
        lambda asked: asked.node.status(),
    ),
    "manifest": Request(
        ("peer/server.py:Peer._read_manifest",),
        "/v1/manifest",
        Reply(),
        lambda asked: asked.peer.manifest("v1"),
    ),
    "header": Request(
        ("peer/server.py:Peer._read_manifest",),
        "/v1/manifest",
        Reply(),
        lambda asked: asked.peer.manifest_header("v1"),
    ),
    "growing manifest": Request(
        ("peer/server.py:Peer.follow_manifest",), "/v1/manifest", Reply(), follow_manifest
    ),
    "size of a shard": Request(
        ("peer/server.py:Peer.shard_size",),
        "/v1/shard",
        Reply(BLOB),
        lambda asked: asked.peer.shard_size("v1", 1, 3),
    ),
    "shard": Request(("peer/bulk.py:_Exchange._ask",), "/v1/shard", Reply(BLOB), fetch),
    "shard by aiohttp": Request(
        ("peer/server.py:Peer.receive",), "/v1/shard", Reply(BLOB), lambda asked: fetch(asked, direct=False)
    ),
    "next range": Request(
        ("peer/quick_exchange.py:QuickConnections._exchange",), "/v1/next", NEXT_RANGE, ask_next
    ),
    "next range by aiohttp": Request(
        ("peer/next_range.py:NextRanges._exchange_by_aiohttp",),
        "/v1/next",
        NEXT_RANGE,
        lambda asked: ask_next(asked, direct=False),
    ),
    "announcement": Request(
        ("peer/announcing.py:SwarmClient._sent",),
        "/v1/swarm",
        Reply(AnnouncementAnswer("ticket", 3.0).encode(), "application/json"),
        announce,
    ),
    "pull": Request(
        ("blobs/client/archive.py:ArchiveClient.pull_parts",),
        "/v1/pull",
        Reply(bytes.fromhex(DIGEST) + BLOB),
        pull,
    ),
    "push": Request(("blobs/client/archive.py:ArchiveClient.push",), "/v1/push", Reply(), push),
    "what a store speaks": Request(
        ("blobs/client/hash_server.py:HashServerClient._ask",),
        HAS_NOW_PATH,
        Reply(b"[false]\n", "application/json"),
        lambda asked: asked.store().server_kind(),
    ),
    "length of a blob": Request(
        ("blobs/client/hash_server.py:HashServerClient._ask",),
        LENGTH_PATH,
        Reply(b"[200000]\n", "application/json"),
        lambda asked: asked.store()._hash_server._ask(LENGTH_PATH, [DIGEST], SECONDS),
    ),
    "size of a blob": Request(
        ("blobs/client/blob_requests.py:BlobRequests.size",),
        f"/{DIGEST}",
        Reply(BLOB),
        lambda asked: asked.store(ServerKind.SHARDS).size(DIGEST),
    ),
    "blob": Request(
        ("blobs/client/blob_requests.py:BlobRequests.get",), f"/{DIGEST}", Reply(BLOB), read_blob
    ),
    "putting a blob": Request(("blobs/client/hash_server.py:HashServerClient._put",), "/", Reply(), put_blob),
    "beginning an upload": Request(
        (UPLOADS + "_status",),
        "/uploads",
        Reply(json.dumps(STATUS).encode(), "application/json", "201 Created"),
        lambda asked: asked.uploads.begin(UploadRequest("x.bin")),
    ),
    "uploading": Request((UPLOADS + "_status",), "/uploads", UPLOADED, upload),
    "finishing an upload": Request(
        (UPLOADS + "finish",), "/uploads", Reply(lines(PROGRESS, {"ready": True}), NDJSON), finish_upload
    ),
    "confirming an upload": Request(
        (UPLOADS + "confirm",),
        "/uploads",
        Reply(b'{"complete": "v1"}', "application/json"),
        lambda asked: asked.uploads.confirm(UPLOAD),
    ),
    "forgetting an upload": Request(
        (UPLOADS + "discard",),
        "/uploads",
        Reply(status="204 No Content"),
        lambda asked: asked.uploads.discard(UPLOAD),
    ),
    "publish": Request(
        ASKING, "/", Reply(lines({"version": "v1"}, PROGRESS, PROGRESS), NDJSON), publish_it, local=True
    ),
    "pin": Request(ASKING, "/", Reply(lines({"waiting": 1}, {"done": "v1"}), NDJSON), pin, local=True),
    "withdraw": Request(ASKING, "/", Reply(lines({"waiting": 1}, {"done": 1}), NDJSON), withdraw, local=True),
    "finish": Request(
        ("control/waiting.py:_lines",),
        "/",
        Reply(lines({"left": 2}, {"left": 1}), NDJSON),
        finish,
        local=True,
    ),
    "copies": Request(
        ("control/waiting.py:_lines",),
        "/",
        Reply(lines({"copies": 0}, {"copies": 1}, {"copies": 1}), NDJSON),
        wait_for_copies,
        local=True,
    ),
    "finding an origin": Request(
        ("control/running.py:find_origin",),
        "/",
        Reply(json.dumps({"url": "http://127.0.0.1:1", "keep": 5}).encode(), "application/json"),
        find_origin,
        local=True,
    ),
    "writing a version": Request(
        ("control/writer.py:BroadcastWriter.__init__",),
        "/",
        Reply(lines({"version": "v1", "pipe": "/nowhere"}), NDJSON),
        write,
        local=True,
    ),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return publish(tmp_path_factory.mktemp("published") / "data", BLOB, 50_000).manifest.raw


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-outs that no parameter sets."""
    monkeypatch.setattr(peer, "FEED_DEAD", SECONDS)
    monkeypatch.setattr(control, "_SILENCE_SECONDS", SECONDS)
    monkeypatch.setattr(running, "_ANSWER_SECONDS", SECONDS)
    monkeypatch.setattr(waiting, "_SILENCE_SECONDS", SECONDS)
    monkeypatch.setattr(waiting, "_FIRST_LINE_SECONDS", SECONDS)


async def make(request: Request, way: Way, manifest: bytes, folder: Path, session: Session) -> str:
    """What became of a request to a server that is slow in this way."""
    own_folder(folder).mkdir(parents=True)
    reply = request.reply
    if request.path == "/v1/manifest":
        reply = replace(reply, body=manifest)
    with short_socket_path(socket_path(folder)) as name:
        unix = Path(name) if request.local else None
        async with SlowServer(way, request.path, reply, unix) as server:
            asked = Asked(server.url, session, folder)
            while not server.slow_requests:  # where this machine is so busy that the time was over before
                try:
                    await asyncio.wait_for(request.make(asked), OVER)
                except ShardcastError:
                    pass
                except TimeoutError:
                    return "it hangs"
            return ""


@pytest.mark.parametrize("way", WAYS)
async def test_each_request_ends_with_each_misbehaving_server(
    way: str, manifest: bytes, tmp_path: Path
) -> None:
    floods = "floods" in way
    if floods:
        tracemalloc.start()
    try:
        async with open_session(SECONDS) as session:
            became = await asyncio.gather(
                *(
                    make(request, WAYS[way], manifest, tmp_path / str(number), session)
                    for number, request in enumerate(REQUESTS.values())
                )
            )
        if floods:
            assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert {name: said for name, said in zip(REQUESTS, became, strict=True) if said} == {}


@pytest.mark.parametrize(
    ("direct", "words"), [(True, "the head is too long"), (False, "more than 100 informational answers")]
)
async def test_flood_of_interim_answers_is_cut_off(direct: bool, words: str, tmp_path: Path) -> None:
    """To read it until the deadline would take all of the event loop, or of a thread, for so long."""
    shard = Shard(1, 0, 1000, pieces=bytes(32))
    server = SlowServer(WAYS["floods informational answers"], "/", Reply(b"some bytes"))
    async with server, open_session(1000) as session:
        peer = Peer(server.url, session, 1000)
        peer._bulk.direct = direct
        descriptor = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
        landing = Landing(shard, 1000, path=tmp_path / "part", descriptor=descriptor)
        with contextlib.closing(landing), pytest.raises(BadAnswer, match=words):
            await asyncio.wait_for(peer.receive("v1", landing, RangeRequest(0, 1000)), OVER)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells what is resident")
@pytest.mark.parametrize("direct", [True, False])
async def test_large_pieces_take_memory_only_as_they_arrive(direct: bool, tmp_path: Path) -> None:
    """What a manifest says of its pieces is a claim, and ten answers at once are usual."""
    piece_size = 64 << 20
    shard = Shard(1, 0, piece_size, pieces=bytes(32))

    async def ask(number: int, server: SlowServer, session: Session) -> None:
        peer = Peer(server.url, session, SECONDS)
        peer._bulk.direct = direct
        path = tmp_path / str(number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        landing = Landing(shard, piece_size, path=path, descriptor=descriptor)
        with contextlib.closing(landing), pytest.raises(PeerError):
            await peer.receive("v1", landing, RangeRequest(0, piece_size))

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    before, held = resident(), list[int]()
    server = SlowServer(WAYS["stops in the body"], "/", Reply(b"some bytes", ends=False))
    async with server, open_session(SECONDS) as session:
        asking = asyncio.gather(*(ask(number, server, session) for number in range(6)))
        while not asking.done():
            await asyncio.sleep(0.02)
            held.append(resident() - before)
        await asking
    assert max(held) < piece_size


# A request that is added has its place in the table, and goes through the one door

PACKAGE = Path(shardcast.__file__).parent
DOORS = {
    "peer/session.py:answer",
    "peer/redirects.py:requested",
    "peer/redirects.py:_send",
    "blobs/client/endpoint.py:Endpoint.request",
    "peer/bulk.py:_WholeHead.begin",
    "peer/bounded_answers.py:BoundedResponse.begin",
    "peer/bounded_answers.py:Connection.answer",
    "control/client.py:ControlConnection.start_request",
}
"""What those which send have in common."""
ASKS = ("peer", "control", "blobs/client")
"""The rooms that send requests."""
SENDING = {"request", "putrequest", "begin", "start_request", "endheaders"}
ROUND = {
    "http.client": {
        "peer/bounded_answers.py",
        "peer/bulk.py",
        "control/client.py",
        "backup/client/connections.py",  # bounds each request itself, in time and in bytes
    },
    "sock_connect": {"peer/connecting.py"},
}
"""What a request could be sent with, and the files that may: all else would go round the bounds. Sessions of
aiohttp and connections of ``http.client`` are looked for in `test_redirects`."""


@functools.cache
def used(module: Path) -> tuple[set[str], dict[str, set[str]]]:
    """What a module imports, and the names of what each of its functions calls."""
    imported, called = set[str](), dict[str, set[str]]()

    def visit(node: ast.AST, names: tuple[str, ...], inside: bool) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not inside:
            names, inside = (*names, node.name), not isinstance(node, ast.ClassDef)
        elif isinstance(node, ast.Import):
            imported.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.update(f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            called.setdefault(f"{module.relative_to(PACKAGE)}:{'.'.join(names)}", set()).add(name)
        for child in ast.iter_child_nodes(node):
            visit(child, names, inside)

    visit(ast.parse(module.read_text()), (), False)
    return imported, called


def test_every_request_is_in_the_table() -> None:
    gc.collect()  # tasks that end while CPython 3.11 parses make it fail
    sent = set()
    for module in [file for room in ASKS for file in (PACKAGE / room).rglob("*.py")]:
        imported, called = used(module)
        sending = SENDING | ({"answer"} if "shardcast.peer.session.answer" in imported else set())
        sent |= {function for function, names in called.items() if names & sending}
    assert sent - DOORS == {function for request in REQUESTS.values() for function in request.sends}


def test_no_request_bypasses_the_bounds() -> None:
    gc.collect()
    for module in PACKAGE.rglob("*.py"):
        name = module.relative_to(PACKAGE).as_posix()
        if not name.startswith(("server/", "blobs/server/")):
            imported, called = used(module)
            round_it = imported.union(*called.values()) & ROUND.keys()
            assert {one for one in round_it if name not in ROUND[one]} == set(), name
