"""Who connects and asks nothing is sent away; who is slow with the rest of a request is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shardcast import constants
from shardcast.nodes.origin import Origin

HEAD = b"POST /report HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


async def test_connections_without_a_request_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HEAD_TIMEOUT", 0.3)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        port = int(origin.url.rpartition(":")[2])

        async def connect(first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            return reader, writer

        slow, slow_writer = await connect(HEAD + b"{")
        again, again_writer = await connect(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await again.readline()).startswith(b"HTTP/1.1 200")
        for first in (b"", b"G", HEAD[:-2]):
            silent, writer = await connect(first)
            try:
                assert await asyncio.wait_for(silent.read(), 10) == b""
            except ConnectionResetError:
                pass  # which says the same
            writer.close()
        slow_writer.write(b"}")
        assert (await asyncio.wait_for(slow.readline(), 10)).startswith(b"HTTP/1.1 ")
        again_writer.write(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"HTTP/1.1 200" not in await asyncio.wait_for(again.readline(), 10):
            pass
        slow_writer.close()
        again_writer.close()


async def test_idle_connection_is_closed_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "KEEP_ALIVE", 0.3)
    monkeypatch.setattr(constants, "HEAD_TIMEOUT", 1000.0)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        assert await after_an_answer(origin, b"") == b""


async def test_second_request_head_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "KEEP_ALIVE", 1000.0)
    monkeypatch.setattr(constants, "HEAD_TIMEOUT", 0.3)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        assert await after_an_answer(origin, b"G") == b""


async def after_an_answer(origin: Origin, sent: bytes) -> bytes:
    """What comes after the answer to a first request, when this is sent of a second one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(origin.url.rpartition(":")[2]))
    try:
        writer.write(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(2) == b"OK"
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
