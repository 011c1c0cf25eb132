"""Nodes that ask servers for the next range: real servers, good, bad, locked, secure and behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast.access.client_access import ClientAccess
from shardcast.access.scopes import Scope
from shardcast.concurrency import cancel
from shardcast.errors import (
    AccessDenied,
    BadAnswer,
    PeerError,
    ServerStalled,
    ServerUnreachable,
    TlsFailure,
    UsageError,
)
from shardcast.nodes.origin import Origin
from shardcast.peer.next_range import DeclinedRange, NextRanges, NoRange, RangeServer, ReceivedRange
from shardcast.peer.quick_connection import QuickConnection
from shardcast.peer.session import open_session
from shardcast.protocol.next_range import NotNow, RangeHead
from shardcast.protocol.piece_numbers import PieceNumbers
from tests.support import nginx
from tests.support.access import TokensOnDisk
from tests.support.bad_servers import BadServer
from tests.support.certificates import Certificates
from tests.support.gates import showing
from tests.support.published import Published, publish, random_bytes

HERE = "127.0.0.1", 0
PIECE = 256 << 10
SIZE = 3 * PIECE + 1000
SHARD = 2 * PIECE
"""So there are four pieces, in two shards; the last one is short."""
DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(SIZE), SHARD)


class Node:
    """A node that asks, and keeps what came."""

    def __init__(self, ranges: NextRanges, published: Published, numbers: PieceNumbers) -> None:
        self.ranges = ranges
        self.has = 0
        self.published = published
        self.numbers = numbers
        self.wanted = True

    async def ask(self, **more: bool) -> int | NoRange | DeclinedRange:
        """Ask once, and return the piece that came, checked, or else the answer."""
        buffers: list[memoryview] = []

        def find_buffer(head: RangeHead) -> memoryview | None:
            buffers.append(memoryview(bytearray(head.end - head.start)))
            return buffers[0] if self.wanted else None

        answer = await self.ranges.ask(self.has, find_buffer, offered=True, **more)
        if not isinstance(answer, ReceivedRange):
            return answer
        head = answer.head
        shard = self.published.manifest.shards[head.shard - 1]
        assert (head.digest, head.size) == (shard.sha256, shard.size)
        assert buffers[0] == self.published.payload[shard.offset + head.start : shard.offset + head.end]
        number = self.numbers.number_at(head.shard, head.start)
        self.has |= 1 << number
        return number


@asynccontextmanager
async def asking(
    url: str, published: Published, access: ClientAccess | None = None, timeout: float = 20.0
) -> AsyncIterator[Callable[[str], Node]]:
    """Yield a function that returns a node, all of which share the connections to one server."""
    numbers = PieceNumbers.of(published.manifest)
    async with open_session(access=access) as session:
        server = RangeServer(url, session, timeout)
        yield lambda name: Node(server.ranges("v1", name, numbers), published, numbers)


@pytest.fixture
async def origin(published: Published) -> AsyncIterator[Origin]:
    async with Origin.running(published.data_dir, *HERE) as running:
        yield running


async def test_two_nodes_get_each_piece_once(origin: Origin, published: Published) -> None:
    async with asking(origin.url, published) as node:
        one, other = node("1"), node("2")
        assert [await one.ask(), await other.ask(), await one.ask(), await other.ask()] == [0, 1, 2, 3]
        assert await one.ask() == NoRange(NotNow.ALL_GIVEN, 1.0)


async def test_requests_at_the_same_time_report_everything(origin: Origin, published: Published) -> None:
    async with asking(origin.url, published) as node:
        one = node("1")
        got = await asyncio.gather(one.ask(), one.ask())
        got += await asyncio.gather(one.ask(), one.ask())
        assert sorted(number for number in got if isinstance(number, int)) == [0, 1, 2, 3]


async def test_declined_range_is_handed_out_again(origin: Origin, published: Published) -> None:
    async with asking(origin.url, published) as node:
        one, other = node("1"), node("2")
        one.wanted = False
        answer = await one.ask()
        assert isinstance(answer, DeclinedRange) and answer.head.start == 0
        one.wanted = True
        assert await one.ask() == 0, "its next request said that it was lost"
        assert await other.ask() == 1


async def test_wrong_bytes_are_handed_out_again(origin: Origin, published: Published) -> None:
    async with asking(origin.url, published) as node:
        one, other = node("1"), node("2")
        assert await one.ask() == 0
        one.has = 0
        one.ranges.report_lost(1)
        assert [await one.ask(), await other.ask()] == [0, 1]


async def test_server_that_began_anew_is_told_all_over_a_new_connection(published: Published) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(Origin.running(published.data_dir, *HERE))
        port = int(first.url.rpartition(":")[2])
        async with asking(first.url, published) as node:
            one = node("1")
            assert [await one.ask() for _ in range(3)] == [0, 1, 2]
            await stack.aclose()
            with pytest.raises(ServerUnreachable):
                await one.ask()
            async with Origin.running(published.data_dir, "127.0.0.1", port):
                assert await one.ask() == 3


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "501 Not Implemented"])
async def test_server_that_hands_nothing_out_is_told_apart(status: str, published: Published) -> None:
    data = f"HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nno\n".encode()
    async with answering(data) as url, asking(url, published) as node:
        answer = await node("1").ask()
        assert isinstance(answer, NoRange) and answer.reason is None and answer.seconds >= 10


async def test_static_server_hands_nothing_out(published: Published) -> None:
    with BadServer(published.data_dir) as static:
        async with asking(static.url, published) as node:
            answer = await node("1").ask()
            assert isinstance(answer, NoRange) and answer.reason is None


async def test_absent_version_is_no_failure(tmp_path: Path, published: Published) -> None:
    async with Origin.running(tmp_path / "empty", *HERE) as empty, asking(empty.url, published) as node:
        assert await node("1").ask() == NoRange(NotNow.ABSENT, 1.0)


async def test_token_is_needed_and_shown(published: Published, tmp_path: Path) -> None:
    tokens = TokensOnDisk(tmp_path / "tokens")
    reader = tokens.add([Scope.READ])
    async with Origin.running(published.data_dir, *HERE, access=tokens.access) as origin:
        async with asking(origin.url, published) as node:
            with pytest.raises(AccessDenied, match="read"):
                await node("1").ask()
        async with asking(origin.url, published, showing(reader.text)) as node:
            assert await node("1").ask() == 0


async def test_ranges_come_over_tls(published: Published, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    async with Origin.running(published.data_dir, *HERE, access=certificates.server()) as origin:
        async with asking(origin.url, published, certificates.client()) as node:
            one = node("1")
            assert [await one.ask() for _ in range(4)] == [0, 1, 2, 3]
        async with asking(origin.url, published) as node:
            with pytest.raises(TlsFailure, match="CA"):
                await node("1").ask()


async def test_plain_server_is_refused_where_tls_is_required(origin: Origin, published: Published) -> None:
    with pytest.raises(UsageError):
        async with asking(origin.url, published, ClientAccess(require_tls=True)) as node:
            await node("1").ask()


@pytest.mark.legacy
async def test_ranges_come_through_nginx(origin: Origin, published: Published, tmp_path: Path) -> None:
    with nginx.proxy(origin.url, tmp_path / "nginx") as url:
        async with asking(url, published) as node:
            one, other = node("1"), node("2")
            assert [await one.ask(), await other.ask(), await one.ask(), await other.ask()] == [0, 1, 2, 3]
            assert await one.ask() == NoRange(NotNow.ALL_GIVEN, 1.0)


async def test_answer_without_length_is_read_by_aiohttp(published: Published) -> None:
    """A proxy may send what it gets in chunks."""
    piece = published.payload[:PIECE]
    head = RANGE_HEAD.replace(f"Content-Length: {PIECE}", "Transfer-Encoding: chunked")
    head = head.replace(DIGEST, published.manifest.shards[0].sha256 or "")
    chunked = b"%x\r\n" % PIECE + piece + b"\r\n0\r\n\r\n"
    async with answering(head.encode() + chunked) as url, asking(url, published) as node:
        one = node("1")
        with pytest.raises(BadAnswer, match="no length"):
            await one.ask()
        assert await one.ask() == 0


RANGE_HEAD = (
    f"HTTP/1.1 206 Partial Content\r\nContent-Length: {PIECE}\r\nShardcast-Shard: 1\r\n"
    f'Content-Range: bytes 0-{PIECE - 1}/{SHARD}\r\nETag: "{DIGEST}"\r\n\r\n'
)


@asynccontextmanager
async def answering(
    data: bytes, ends: bool = False, requests: list[bytes] | None = None
) -> AsyncIterator[str]:
    """Answer each request with the same bytes, and end the connection then or not."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                if requests is not None:
                    requests.append(body)
                writer.write(data)
                await writer.drain()
                if ends:
                    return

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(begin, *HERE)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        await cancel(serving)


BODY = bytes(PIECE)


@pytest.mark.parametrize(
    ("data", "ends", "words"),
    [
        (b"", True, "broke before an answer"),
        (b"HTTP/1.1 206 Par", True, "broke"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", False, "no status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, "the answer is 200"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://else/\r\nContent-Length: 0\r\n\r\n", False, "redirect"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, "the answer is 204"),
        (b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", False, "again and again"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: 1\r\n\r\nx", False, "Shardcast-Shard"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: x\r\n\r\nx", False, "length"),
        (b"HTTP/1.1 206 OK\r\nno header\r\n\r\n", False, "no header"),
        (b"HTTP/1.1 206 OK\r\nX: " + bytes(20_000), False, "too long"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 11, False, "informational"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False, "no other protocol was asked for"),
        (RANGE_HEAD.replace("ETag", "X").encode() + BODY, False, "ETag"),
        (RANGE_HEAD.replace(f"0-{PIECE - 1}", "0-99").encode() + BODY, False, "instead of 100"),
        (RANGE_HEAD.replace("ETag", "Content-Encoding: gzip\r\nETag").encode(), False, "compressed"),
        (RANGE_HEAD.encode() + BODY[:-1], True, "in the middle of the answer"),
        (RANGE_HEAD.encode() + BODY + b"more", False, None),
    ],
)  # fmt: skip
async def test_bad_answer_is_an_error_in_words(
    data: bytes, ends: bool, words: str | None, published: Published
) -> None:
    async with answering(data, ends) as url, asking(url, published) as node:
        ranges = node("1").ranges
        asked = ranges.ask(0, lambda head: memoryview(bytearray(head.end - head.start)))
        if words is None:
            with contextlib.suppress(PeerError):  # what comes too much may come later
                await asyncio.wait_for(asked, 20)
            return
        with pytest.raises(PeerError, match=words):
            await asyncio.wait_for(asked, 20)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 206 OK\r\n", RANGE_HEAD.encode() + BODY[:1000]])
async def test_server_that_falls_silent_is_abandoned(data: bytes, published: Published) -> None:
    async with answering(data) as url, asking(url, published, timeout=0.2) as node:
        ranges = node("1").ranges
        with pytest.raises(ServerStalled, match=r"within 0\.2 s"):
            await asyncio.wait_for(ranges.ask(0, lambda head: memoryview(bytearray(PIECE))), 20)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop is woken for all bytes")
async def test_slow_and_steady_server_is_waited_for(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is not woken before its piece is there, and looks at what has come once its patience ends."""
    began, looked, look = asyncio.Event(), asyncio.Event(), QuickConnection._has_more

    def looking(connection: QuickConnection) -> bool:
        looked.set()
        return look(connection)

    def find_buffer(head: RangeHead) -> memoryview:
        began.set()
        return memoryview(bytearray(PIECE))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        for data, event in ((RANGE_HEAD.encode(), began), (BODY[:100_000], looked), (BODY[100_000:], None)):
            writer.write(data)
            if event:
                await event.wait()
        writer.close()

    monkeypatch.setattr(QuickConnection, "_has_more", looking)
    async with await asyncio.start_server(serve, *HERE) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asking(url, published, timeout=0.2) as node:
            asked = node("1").ranges.ask(0, find_buffer)
            assert isinstance(await asyncio.wait_for(asked, 20), ReceivedRange)
    assert looked.is_set()


async def test_loss_is_told_by_the_next_request(published: Published) -> None:
    requests: list[bytes] = []
    data = RANGE_HEAD.encode() + BODY[:-1]
    async with answering(data, True, requests) as url, asking(url, published) as node:
        ranges = node("1").ranges
        for _ in range(2):
            with pytest.raises(BadAnswer):
                await ranges.ask(0, lambda head: memoryview(bytearray(PIECE)))
    assert b"lost" not in requests[0] and b'"lost":[[0,1]]' in requests[1]


async def test_cancelled_request_breaks_its_connection(published: Published) -> None:
    requests: list[bytes] = []
    async with answering(RANGE_HEAD.encode(), False, requests) as url, asking(url, published) as node:
        ranges = node("1").ranges
        came = asyncio.Event()

        def find_buffer(head: RangeHead) -> memoryview:
            came.set()
            return memoryview(bytearray(PIECE))

        for _ in range(2):
            came.clear()
            asked = asyncio.ensure_future(ranges.ask(0, find_buffer))
            await asyncio.wait_for(came.wait(), 20)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
    assert b'"lost":[[0,1]]' in requests[1]


async def test_report_that_was_not_answered_is_told_again(published: Published) -> None:
    requests: list[bytes] = []
    data = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    async with answering(data, False, requests) as url, asking(url, published) as node:
        ranges = node("1").ranges
        for held in (0b1, 0b11):
            with pytest.raises(BadAnswer):
                await ranges.ask(held, lambda head: None)
    assert b'"has":[[0,1]]' in requests[0] and b'"has":[[0,2]]' in requests[1]


async def test_session_closes_kept_connections(origin: Origin, published: Published) -> None:
    async with asking(origin.url, published) as node:
        one = node("1")
        await one.ask()
        (kept,) = one.ranges._server.quick._idle
    assert not kept.is_usable
