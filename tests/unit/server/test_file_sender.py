"""A file that is sent over TLS to a reader that goes away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from shardcast.server.application import application
from shardcast.server.file_sender import FileSender


class LostTls:
    """A transport of TLS whose socket breaks at the first write, which it learns in the loop's next round."""

    def __init__(self) -> None:
        self.writes = 0
        self.closed = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return name == "sslcontext" or default

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: object) -> None:
        self.writes += 1
        if self.writes == 1:
            asyncio.get_running_loop().call_soon(setattr, self, "closed", True)


async def test_sending_over_tls_ends_once_the_reader_is_gone(tmp_path: Path) -> None:
    async def drain() -> None:
        return None

    path, transport = tmp_path / "file", LostTls()
    path.write_bytes(bytes(4 << 20))
    request: Any = make_mocked_request(
        "GET", "/", app=application("node"), transport=transport, writer=SimpleNamespace(drain=drain)
    )
    reader: Any = SimpleNamespace(sent=0)
    with path.open("rb") as file:
        file.read()
        file.seek(0)
        with pytest.raises(ConnectionResetError):
            await FileSender(request, SimpleNamespace(), file, reader).send(0, 4 << 20)
    assert transport.writes == 1
