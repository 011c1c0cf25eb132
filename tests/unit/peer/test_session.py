"""Answers that end in the middle or make no sense, and the words of their errors."""

from __future__ import annotations

import asyncio

import pytest

from shardcast.errors import BadAnswer
from shardcast.peer.session import answer, open_session

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "the answer was cut off"),
        (CHUNKED, "the answer was cut off"),
        (CHUNKED + b"5\r\nhe", "the answer was cut off"),
        (CHUNKED + b"wrong\r\n", "the body of the answer is malformed"),
    ],
    ids=["length", "between chunks", "in a chunk", "no chunk"],
)
async def test_unfinished_answer_is_told_from_a_malformed_one(sent: bytes, why: str) -> None:
    head, end, body = sent.partition(b"\r\n\r\n")
    has_head = asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + end)
        await has_head.wait()
        writer.write(body)
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server, open_session() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(BadAnswer, match=f"^{url}: GET /feed: {why}"):
            async with answer(session, url, "/feed") as response:
                has_head.set()
                await response.read()
