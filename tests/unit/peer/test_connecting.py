"""The addresses of one name are raced."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardcast.nodes.client import Client
from shardcast.peer import connecting
from shardcast.peer.connecting import connect
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.workers import Transfer
from tests.support import bad_answers as bad
from tests.support.bad_servers import BadServer
from tests.support.published import publish

TCP = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """An address that answers no attempt to connect: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextlib.contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()


@contextlib.contextmanager
def answering() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


async def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Have every name have these addresses."""

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(*TCP, address) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_connect_falls_back_quickly_from_dead_first_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to cost the whole time for a connection, 5 s."""
    with silent() as dead, answering() as alive:
        await resolving(monkeypatch, dead, alive)
        begun = time.monotonic()
        plug, place = await connect("name", 80)
        with plug:
            assert time.monotonic() - begun < 4
            assert plug.getpeername() == place[3] == alive


async def test_connect_skips_refusing_address_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_HEAD_START", 1000)
    with refusing() as dead, answering() as alive:
        await resolving(monkeypatch, dead, alive)
        plug, _ = await connect("name", 80)
        with plug:
            assert plug.getpeername() == alive


async def test_next_connection_tries_last_working_address_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_HEAD_START", 1000)
    with silent() as dead, answering() as alive:
        await resolving(monkeypatch, dead, alive)
        plug, _ = await connect("name", 80, (*TCP[:3], alive))
        with plug:
            assert plug.getpeername() == alive


async def test_connect_times_out_when_no_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 0.3)
    with silent() as one, silent() as other:
        await resolving(monkeypatch, one, other)
        with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
            await connect("name", 80)


async def test_connect_times_out_when_name_is_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 0.1)

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    with pytest.raises(TimeoutError):
        await connect("name", 80)


async def test_connect_fails_at_once_when_all_addresses_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as one, refusing() as other:
        await resolving(monkeypatch, one, other)
        with pytest.raises(ConnectionRefusedError):
            await connect("name", 80)


async def test_address_families_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where IPv6 leads nowhere, the second attempt is of IPv4, however many addresses of IPv6 there are."""
    places = [(*TCP, (f"10.6.6.{number}", 80)) for number in range(1, 4)] + [(*TCP, ("10.4.4.4", 80))]
    tried: list[str] = []

    class Plug(socket.socket):
        def __init__(self, *_: Any) -> None:
            super().__init__(*TCP[:3])  # also where there is no IPv6

    async def refuse(_: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[0])
        raise ConnectionRefusedError

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET6, *place[1:]) for place in places[:-1]] + places[-1:]

    monkeypatch.setattr(connecting.socket, "socket", Plug)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", refuse)
    with pytest.raises(ConnectionRefusedError):
        await connect("name", 80)
    assert tried == ["10.6.6.1", "10.4.4.4", "10.6.6.2", "10.6.6.3"]


async def test_download_reuses_working_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_HEAD_START", 0.1)
    published = publish(tmp_path / "data", b"payload" * 1000, 7000)
    manifest = published.manifest
    with BadServer(published.data_dir) as server, silent() as dead:
        await resolving(monkeypatch, dead, ("127.0.0.1", server.port))
        server.set("/v1/shard_*", bad.chunked())  # the connection is not used again
        async with open_session() as session:
            peer = Peer(f"http://name.test:{server.port}", session)
            for output in ("one", "other"):
                live = LiveManifest.of(manifest)
                with contextlib.closing(OutputFile(tmp_path / output, live)) as filling:
                    await asyncio.wait_for(Transfer(live, [peer], filling).run(), 15)
                monkeypatch.setattr(connecting, "_HEAD_START", 1000)
                monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 1000)
    assert (tmp_path / "other").read_bytes() == published.payload


async def test_download_succeeds_when_first_address_is_dead(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(tmp_path / "data", b"payload" * 1000, 1000)
    with BadServer(published.data_dir) as server, silent() as dead:
        port = int(server.address.rpartition(":")[2])
        await resolving(monkeypatch, dead, ("127.0.0.1", port))
        begun = time.monotonic()
        async with Client([f"http://name.test:{port}"], tmp_path) as client:
            release = await client.download("v1")
        assert time.monotonic() - begun < 4
    assert release.path.read_bytes() == published.payload
