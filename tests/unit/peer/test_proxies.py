"""Which servers are asked through the environment's proxy, and what errors say of it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.errors import NoServerReachable, ServerUnreachable
from shardcast.nodes.client import Client
from shardcast.peer.proxies import is_direct, through_proxy
from shardcast.peer.session import answer, open_session
from shardcast.transfer.limits import Limits
from tests.support import processes
from tests.support.payloads import patient


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://localhost:8000", "", True),
        ("http://127.9.9.9:8000", "", True),
        ("http://[::1]:8000", "", True),
        ("http://a.localhost", "", True),
        ("http://localhost.example", "", False),
        ("http://far:8000", "", False),
        ("http://far:8000", "*", True),
        ("http://far:8000", "near, far", True),
        ("http://so.far:8000", "far", True),
        ("http://so.far:8000", ".far", True),
        ("http://sofar:8000", "far", False),
        ("http://FAR:8000", "far:8000", True),
        ("http://far:8001", "far:8000", False),
        ("http://far", "far:80", True),
        ("https://far", "far:443", True),
        ("http://10.1.2.3:8000", "10.0.0.0/8", True),
        ("http://11.1.2.3:8000", "10.0.0.0/8", False),
        ("http://10.1.2.3:8000", "10.0.0.0/8:8000", True),
        ("http://10.1.2.3:8000", "10.1.2.3:8001", False),
        ("http://[fd00::1]:8000", "fd00::/8", True),
        ("http://[fd00::1]:8000", "[fd00::1]:8000", True),
        ("http://[fd00::1]:8001", "[fd00::1]:8000", False),
        ("http://10.1.2.3", "2.3", False),
        ("http://10.1.2.3", "fd00::/8,10.0.0.0/99", False),
    ],
)
def test_no_proxy_names_hosts_ports_and_networks(url: str, no_proxy: str, direct: bool) -> None:
    assert is_direct(urlsplit(url), no_proxy) == direct


@patient
@given(st.text())
def test_any_no_proxy_is_read(text: str) -> None:
    assert not is_direct(urlsplit("http://far.example:8000"), text.replace("*", "").replace("e", ""))


async def test_error_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with processes.reserved_port() as port:
        monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert through_proxy("http://localhost:1") == ""
        limits = Limits(unreachable_at_start=0.1)
        async with Client(["far.example:8000"], limits=limits) as client:
            with pytest.raises(NoServerReachable, match=f"proxy 127.0.0.1:{port} of the env") as raised:
                await client.offered()
    assert "secret" not in str(raised.value)


async def test_proxy_that_refuses_a_tunnel_is_named_with_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        address = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("https_proxy", f"http://user:secret@{address}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with open_session() as session:
            with pytest.raises(ServerUnreachable) as raised:
                async with answer(session, "https://far.example:8000", "/ready"):
                    pass
    told = str(raised.value)
    assert told.startswith(f"https://far.example:8000: no connection through the proxy {address} of the env")
    assert told.endswith(": the proxy answered 407 Proxy Authentication Required")
    assert "secret" not in told
