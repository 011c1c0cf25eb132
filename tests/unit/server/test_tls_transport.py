"""A connection over TLS on real sockets: bytes in order, and ends that both sides understand."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardcast.server import orderly_close
from shardcast.server.bounds import BodyMemory, Bounds
from shardcast.server.cached_reads import CachedReader
from shardcast.server.connections import Connections
from shardcast.server.tls_listener import Handshake
from shardcast.server.tls_transport import TlsTransport
from tests.support.certificates import Certificates
from tests.support.published import random_bytes

HOST = "127.0.0.1"
SIZE = 3_000_000
SMALL = 16 << 10
"""Bytes of the buffers of both sockets: small ones fill at once."""
RESET = struct.pack("ii", 1, 0)


class Recorder(asyncio.Protocol):
    """A protocol that keeps what it is told."""

    def __init__(self) -> None:
        self.made: asyncio.Future[TlsTransport] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.received = bytearray()
        self.paused: list[bool] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def pause_writing(self) -> None:
        self.paused.append(True)

    def resume_writing(self) -> None:
        self.paused.append(False)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)


class Ends:
    """Both ends of a connection; the client's calls block, and run in threads."""

    def __init__(self, protocol: Recorder, transport: TlsTransport, client: ssl.SSLSocket) -> None:
        self.protocol = protocol
        self.transport = transport
        self.client = client

    async def read(self, count: int) -> bytes:
        """Return ``count`` bytes that the client receives, fewer at the connection's end."""

        def read() -> bytes:
            data = bytearray()
            while len(data) < count and (more := self.client.recv(count - len(data))):
                data += more
            return bytes(data)

        return await asyncio.to_thread(read)


def accepted(context: ssl.SSLContext, protocol: asyncio.BaseProtocol) -> socket.socket:
    """Begin a handshake with a new client, and return the client's socket."""
    with socket.create_server((HOST, 0)) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        client.settimeout(20)
        client.connect(listener.getsockname())
        sock, peer = listener.accept()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    bounds = Bounds()
    connections = Connections(bounds, BodyMemory(bounds.all_bytes))
    Handshake(tls, lambda: protocol, connections, names={"peername": peer}, seconds=20)
    return client


Connect = Callable[..., Any]


@pytest.fixture
async def connect(tmp_path: Path) -> Any:
    """A function that returns the ends of a new connection."""
    certificates = Certificates(tmp_path / "tls")
    server_context, client_context = certificates.server().tls, certificates.client().tls.load()
    assert server_context is not None
    context, opened = server_context.load(), []

    async def connect(protocol: Recorder | None = None) -> Ends:
        protocol = protocol or Recorder()
        raw = accepted(context, protocol)
        client = await asyncio.to_thread(
            client_context.wrap_socket, raw, server_hostname=HOST, suppress_ragged_eofs=False
        )
        opened.append(ends := Ends(protocol, await protocol.made, client))
        return ends

    async with asyncio.timeout(20):
        yield connect
        for ends in opened:
            ends.client.close()
            ends.transport.abort()
            await ends.protocol.lost


async def test_bytes_that_the_socket_does_not_take_arrive_in_order(connect: Connect) -> None:
    ends, data = await connect(), random_bytes(SIZE)
    for before in ([], [True, False]):
        for start in range(0, SIZE, 700_001):
            ends.transport.write(data[start : start + 700_001])
        assert ends.protocol.paused == [*before, True]
        assert ends.transport.get_write_buffer_size() > SIZE // 2
        assert await ends.read(SIZE) == data
        assert ends.protocol.paused == [*before, True, False]
        assert ends.transport.get_write_buffer_size() == 0


async def test_file_arrives_behind_what_waits_and_before_what_follows(
    connect: Connect, tmp_path: Path
) -> None:
    ends, data, path = await connect(), random_bytes(SIZE), tmp_path / "file"
    path.write_bytes(data)
    ends.transport.write(data[:500_000])
    with path.open("rb", buffering=0) as file:
        sending = asyncio.create_task(ends.transport.send_file(CachedReader(file, 100_000), 0, SIZE))
        reading = asyncio.create_task(ends.read(500_000 + SIZE + 4))
        await sending
    ends.transport.write(b"tail")
    assert await reading == data[:500_000] + data + b"tail"


async def test_file_is_read_no_further_once_its_reader_has_gone(connect: Connect, tmp_path: Path) -> None:
    class Counting(CachedReader):
        count = 0

        async def read(self, offset: int, count: int) -> memoryview:
            self.count += 1
            return await super().read(offset, count)

    path = tmp_path / "file"
    path.write_bytes(bytes(64 << 20))
    for how in ("reset", "end"):
        ends = await connect()
        with path.open("rb", buffering=0) as file:
            reader = Counting(file, 1 << 20)
            sending = asyncio.create_task(ends.transport.send_file(reader, 0, 64 << 20))
            await ends.read(1 << 20)
            if how == "reset":
                ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            ends.client.close()
            with pytest.raises(ConnectionError):
                await sending
        assert reader.count < 20
        assert ends.transport.is_closing()


async def test_answer_arrives_although_the_rest_of_the_request_is_not_read(connect: Connect) -> None:
    class Busy(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, TlsTransport)
            transport.pause_reading()
            super().connection_made(transport)

    ends = await connect(Busy())
    await asyncio.to_thread(ends.client.sendall, bytes(50_000))
    ends.transport.write(b"answer")
    ends.transport.close()
    await ends.protocol.lost
    await asyncio.to_thread(ends.client.sendall, bytes(50_000))
    assert await ends.read(6) == b"answer"
    assert await ends.read(1) == b"", "the end was not told as TLS does"


async def test_refused_client_that_sends_on_reads_why(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    server_tls = certificates.server(mutual=True).tls
    assert server_tls is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client().tls.load().wrap_bio(incoming, outgoing, server_hostname=HOST)
    async with asyncio.timeout(20):
        with accepted(server_tls.load(), Recorder()) as sock:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(await asyncio.to_thread(sock.recv, 1 << 16))
            client.write(b"GET / HTTP/1.1\r\n\r\n")
            sock.sendall(outgoing.read())  # the request lies behind the end of the handshake
            incoming.write(await asyncio.to_thread(sock.recv, 1 << 16))
            for _ in range(3):
                sock.sendall(b"more")
            with pytest.raises(ssl.SSLError, match="certificate required"):
                client.read(1)


async def test_client_that_does_not_close_is_waited_for_within_a_bound(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orderly_close, "_SECONDS", 0.05)
    ends = await connect()
    sock = ends.transport.get_extra_info("socket")
    ends.transport.close()
    while sock.fileno() >= 0:
        await asyncio.sleep(0.01)


async def test_aborted_connection_is_no_orderly_end(connect: Connect) -> None:
    ends = await connect()
    ends.transport.abort()
    # Python 3.11.2 has no class of its own for this error.
    with pytest.raises((ssl.SSLError, ConnectionResetError), match=r"(?i)unexpected.eof|eof occurred|reset"):
        await ends.read(1)


async def test_end_of_the_client_ends_the_connection(connect: Connect) -> None:
    ends = await connect()
    ends.client.close()
    assert await ends.protocol.lost is None


async def test_pause_in_the_middle_of_a_message_loses_nothing(connect: Connect) -> None:
    class Halting(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.made.result().pause_reading()

    ends, data = await connect(Halting()), random_bytes(200_000)
    await asyncio.to_thread(ends.client.sendall, data[:60_000])
    reads = 0
    while len(ends.protocol.received) < 60_000:
        ends.transport.resume_reading()
        before = len(ends.protocol.received)
        while len(ends.protocol.received) == before:
            await asyncio.sleep(0)
        reads += 1
    assert reads >= 3
    assert ends.protocol.received == data[:60_000]


async def test_record_larger_than_the_protocols_buffer_is_taken_whole(connect: Connect) -> None:
    class Small(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.received = bytearray()
            self._buffer = bytearray(100)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self._buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self._buffer[:nbytes]

    ends, data, small = await connect(), random_bytes(16_000), Small()
    ends.transport.set_protocol(small)
    await asyncio.to_thread(ends.client.sendall, data)
    while len(small.received) < len(data):
        await asyncio.sleep(0)
    assert small.received == data
    ends.transport.set_protocol(ends.protocol)
