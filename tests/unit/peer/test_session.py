"""Answers that end in the middle, and the words of their errors."""

from __future__ import annotations

import asyncio

import pytest

from shardcast.errors import BadAnswer
from shardcast.peer.session import answer, open_session

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", CHUNKED, CHUNKED + b"5\r\nhe"],
    ids=["length", "between chunks", "in a chunk"],
)
async def test_unfinished_answer_was_cut_off(sent: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server, open_session() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(BadAnswer, match=f"^{url}: GET /feed: the answer was cut off"):
            async with answer(session, url, "/feed") as response:
                await response.read()
