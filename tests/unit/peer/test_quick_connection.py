"""Answers to small requests: however their bytes come, and whatever they are."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.errors import PeerError
from shardcast.peer.bulk import NotPlain
from shardcast.peer.quick_connection import QuickConnection, QuickHead, StaleConnection
from tests.support.payloads import patient

quick = settings(patient, max_examples=30)
"""Each example has an event loop of its own."""
BODY = bytes(range(256)) * 4
ANSWER = b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nX-A: b\r\n\r\n" % len(BODY) + BODY
INFORMED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + ANSWER


class Wire(asyncio.Transport):
    """A connection that only notes whether it was broken."""

    broken = False

    def abort(self) -> None:
        self.broken = True

    def is_closing(self) -> bool:
        return self.broken


async def receive(chunks: list[bytes], buffer: memoryview | None) -> tuple[QuickHead, QuickConnection]:
    """Feed a connection, and return the head of the answer."""
    connection = QuickConnection("http://server", 20.0)
    connection.connection_made(Wire())
    whole = connection.start_request("POST /v1/next", lambda head: buffer)
    try:
        for chunk in chunks:
            while chunk and not whole.done():
                room = connection.get_buffer(-1)
                count = min(len(room), len(chunk))
                room[:count] = chunk[:count]
                connection.buffer_updated(count)
                chunk = chunk[count:]
        connection.connection_lost(None)
        return await whole, connection
    finally:
        connection.abort()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut data at some places."""
    edges = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@quick
@given(st.sampled_from([ANSWER, INFORMED]), st.lists(st.integers(0, 5000), max_size=20))
def test_answer_is_read_however_it_is_cut(data: bytes, places: list[int]) -> None:
    buffer = memoryview(bytearray(len(BODY)))
    head, _ = asyncio.run(receive(cut(data, places), buffer))
    assert (head.status, head.reason, head.keeps) == (206, "Partial Content", True)
    assert head.get("X-a") == "b" and buffer == BODY


@quick
@given(st.integers(0, len(ANSWER) - 1))
def test_answer_that_ends_too_early_fails(length: int) -> None:
    expected = PeerError if length else StaleConnection
    with pytest.raises(expected):
        asyncio.run(receive([ANSWER[:length]], memoryview(bytearray(len(BODY)))))


@quick
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda rest: ANSWER[:40] + rest))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    with pytest.raises((PeerError, NotPlain, StaleConnection)):
        asyncio.run(receive([data + b"\r\n\r\n"], memoryview(bytearray(len(BODY)))))


@pytest.mark.parametrize(
    ("raw", "keeps", "length"),
    [
        (b"HTTP/1.1 204 No Content", True, 0),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 5", False, 5),
        (b"HTTP/1.0 200 OK\r\nCONTENT-LENGTH: 5", False, 5),
        (b"HTTP/1.1 404", True, None),
    ],
)
def test_head_tells_length_and_whether_the_connection_stays(
    raw: bytes, keeps: bool, length: int | None
) -> None:
    head = QuickHead(raw)
    assert (head.keeps, head.length) == (keeps, length)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        b"HTTP/1.1 200 OK\r\n folded: yes",
        b"HTTP/1.1 200 OK\r\nName : value",
        b"HTTP/1.1 200 OK\r\n: value",
    ],
)
def test_ambiguous_head_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        QuickHead(raw)


@pytest.mark.parametrize("length", ["-5", "+5", "5 5", "0x5", "9" * 40])
def test_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(ValueError):
        _: Any = QuickHead(f"HTTP/1.1 200 OK\r\nContent-Length: {length}".encode()).length


def test_long_answer_that_is_not_wanted_ends_the_connection() -> None:
    data = b"HTTP/1.1 500 Oops\r\nContent-Length: 99999999\r\n\r\nbody"
    head, connection = asyncio.run(receive([data], None))
    assert head.status == 500 and not connection.is_usable


def test_short_answer_that_is_not_wanted_is_dropped() -> None:
    async def exchange() -> bool:
        connection = QuickConnection("http://server", 20.0)
        connection.connection_made(Wire())
        whole = connection.start_request("POST /v1/next", lambda head: None)
        data = b"HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\nbody"
        connection.get_buffer(-1)[: len(data)] = data
        connection.buffer_updated(len(data))
        assert (await whole).status == 409
        usable = connection.is_usable
        connection.get_buffer(-1)[:1] = b"x"
        connection.buffer_updated(1)
        return usable and not connection.is_usable

    assert asyncio.run(exchange()), "and bytes that nobody asked for break it"


def test_answer_comes_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async def ask() -> bytes:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            make = partial(QuickConnection, "http://server", 20.0)
            _, connection = await asyncio.get_running_loop().create_connection(make, host, port)
            buffer = bytearray(len(BODY))
            whole = connection.start_request("POST /v1/next", lambda head: memoryview(buffer))
            connection.write(b"POST /v1/next HTTP/1.1\r\n\r\n")
            try:
                await asyncio.wait_for(whole, 10)
            finally:
                connection.abort()
            await closed.wait()
            return bytes(buffer)

    closed = asyncio.Event()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == BODY
