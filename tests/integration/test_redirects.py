"""Where requests go: to the server that was named, with nothing that this machine keeps for others."""

from __future__ import annotations

import ast
import gc
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

import shardcast
from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.live_context import LiveContext
from shardcast.access.secret import Secret
from shardcast.access.tls import ClientTls
from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.client.remote import RemoteStore, ServerKind
from shardcast.errors import BadAnswer, ServerLacks, TransferFailed
from shardcast.nodes.client import Client
from shardcast.peer.proxies import proxy_of
from shardcast.peer.redirects import MAX_REDIRECTS, requested
from shardcast.peer.server import Peer
from shardcast.peer.session import Session, open_session
from shardcast.transfer.limits import Limits
from tests.support import bad_answers as bad
from tests.support.bad_servers import BadServer, Exchange, RightAnswer
from tests.support.published import Published, publish, random_bytes, sha256

PACKAGE = Path(shardcast.__file__).parent
DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(300_000), 100_000)


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with open_session() as opened:
        yield opened


@contextmanager
def redirecting(published: Published, status: int = 302) -> Iterator[tuple[BadServer, BadServer]]:
    """A server that leads everything to another host, and the server there."""
    with BadServer(published.data_dir) as there, BadServer(published.data_dir) as here:
        target = f"http://localhost:{there.port}"

        async def away(exchange: Exchange) -> None:
            await exchange.answer(RightAnswer(status, b"", headers={"Location": target + exchange.path}))

        here.set("*", away)
        yield here, there


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_to_another_host_is_refused(
    status: int, published: Published, session: Session
) -> None:
    with redirecting(published, status) as (here, there):
        peer, store = Peer(here.url, session), RemoteStore(here.url, session)
        for asking in (peer.listings(), peer.manifest("v1"), peer.report(b"{}"), peer.shard_size("v1", 1, 3)):
            with pytest.raises(BadAnswer, match=rf"{status}.*not followed: http://localhost"):
                await asking
        with pytest.raises(BadAnswer, match="not followed"):
            async for _ in ArchiveClient(here.url, session).pull({DIGEST: 1}):
                pass
        with pytest.raises(BadAnswer, match="not followed"):
            await ArchiveClient(here.url, session).push([b"ours"])
        store._kind = ServerKind.HASH_SERVER
        with pytest.raises(BadAnswer, match="not followed"):
            async with store.put() as writer:
                await writer.write(b"ours")
                await writer.commit()
        with pytest.raises(ServerLacks):
            async for _ in peer.feed(""):
                pass
        assert not there.requests, "a request was led to another host"


async def test_shard_redirect_to_another_host_is_refused(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir) as there, BadServer(published.data_dir) as here:
        here.set("/v1/shard_*", bad.redirect(f"http://localhost:{there.port}"))
        async with Client([here.url], limits=Limits(attempts=1)) as client:
            with pytest.raises(TransferFailed, match="not followed: http://localhost"):
                await client.download("v1", tmp_path / "got")
        assert not there.requests


async def test_get_follows_redirect_on_same_host(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir) as there, BadServer(published.data_dir) as here:
        here.set("*", bad.redirect(there.url))
        async with Client([here.url]) as client:
            release = await client.download("v1", tmp_path / "got")
    assert sha256(release.path) == published.sha256


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_post_follows_no_redirect(status: int, published: Published, session: Session) -> None:
    with BadServer(published.data_dir) as server:

        async def elsewhere(exchange: Exchange) -> None:
            await exchange.answer(RightAnswer(status, b"", headers={"Location": "/elsewhere"}))

        server.set("*", elsewhere)
        with pytest.raises(BadAnswer, match="not followed"):
            await Peer(server.url, session).report(b"{}")
        assert not server.requested("/elsewhere")


async def test_redirect_loop_ends(published: Published, session: Session) -> None:
    with BadServer(published.data_dir) as server:
        server.set("*", bad.redirect_loop())
        with pytest.raises(BadAnswer, match="redirects"):
            await Peer(server.url, session).listings()
        assert server.requested("/distribution.txt") == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "//localhost/",
        "https://localhost/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://a:b@127.0.0.1/",
        "http://[x/",
    ],
)
async def test_odd_locations_are_not_followed(location: str, published: Published, session: Session) -> None:
    with BadServer(published.data_dir) as server:

        async def away(exchange: Exchange) -> None:
            await exchange.answer(RightAnswer(302, b"", headers={"Location": location}))

        server.set("*", away)
        with pytest.raises(BadAnswer, match="not followed"):
            await Peer(server.url, session).listings()


@pytest.mark.parametrize(
    ("server", "locations", "asked"),
    [
        ("https://one", ["http://one/2"], ["https://one/1"]),
        ("https://one", ["https://one/2", "http://one/3"], ["https://one/1", "https://one/2"]),
        ("http://one", ["https://one/2", "http://one/3"], ["http://one/1", "https://one/2"]),
        ("http://one", ["http://one/2", "/3"], ["http://one/1", "http://one/2", "http://one/3"]),
    ],
)
async def test_redirect_from_https_to_http_is_refused(
    server: str, locations: list[str], asked: list[str]
) -> None:
    """What came by https is not fetched where anybody on the way can read and change it."""
    seen: list[str] = []
    shown: list[bool] = []
    access = ClientAccess(credentials=Credentials.from_text(Secret("token"), "the token"))

    class Answers:
        async def request(self, method: str, url: str, *, headers: dict[str, str], **_: Any) -> Any:
            seen.append(url)
            shown.append("Authorization" in headers)
            left = locations[len(seen) - 1 :]
            head: dict[str, str] = {"Location": left[0]} if left else {}
            return SimpleNamespace(status=302 if left else 200, headers=head, release=lambda: None)

    tls = LiveContext(ClientTls())
    session = cast(aiohttp.ClientSession, Answers())
    await requested(session, server, "/1", "GET", tls=tls, access=access)
    assert seen == asked
    assert shown == [True, *[False] * (len(asked) - 1)]  # a token never goes where a server redirects


async def test_passwords_and_cookies_are_not_sent(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login ours password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    sent: list[dict[str, str]] = []

    async def noted(exchange: Exchange) -> None:
        sent.append(dict(exchange.headers))
        part = exchange.right_answer()
        await exchange.answer(RightAnswer(part.status, part.body, headers={"Set-Cookie": "a=b; Path=/"}))

    with BadServer(published.data_dir, ranges=False) as server:
        server.set("*", noted)
        async with Client([f"localhost:{server.port}"]) as client:
            await client.download("v1", tmp_path / "got")
        async with open_session() as session:
            with pytest.raises(ServerLacks):
                await Peer(server.url, session).report(b"{}")
            with pytest.raises(BadAnswer):
                await ArchiveClient(server.url, session).push([b"ours"])
    assert len(sent) > 5
    assert not [one for one in sent if one.keys() & {"authorization", "proxy-authorization", "cookie"}]


def test_proxy_of_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_of("http://far:8000/") is None
    monkeypatch.setenv("all_proxy", "socks5://proxy:1")
    assert proxy_of("http://far:8000/") is None
    monkeypatch.setenv("http_proxy", "proxy:3128")
    monkeypatch.setenv("no_proxy", "near,also:8000")
    assert proxy_of("http://far:8000/") == "http://proxy:3128"
    assert proxy_of("http://near:8000/") is proxy_of("http://also:8000/") is None
    assert proxy_of("https://far:8000/") is None


#: Where a connection to a server may be made, and a request sent over it.
MAKERS = {
    "ClientSession": {"peer/session.py"},
    "TCPConnector": {"peer/session.py"},
    # Of backups: connections that follow no redirect, and bound each request themselves.
    "HTTPConnection": {"backup/client/connections.py"},
    "HTTPSConnection": {"backup/client/connections.py"},
    "Connection": {"peer/bulk.py"},
    "SecureConnection": {"peer/bulk.py"},
    "UnixConnector": set(),
    "urlopen": set(),
    "urlretrieve": set(),
    # The check of a member's address asks it for a nonce, and shows nothing of this node.
    "open_connection": {"server/check_back.py"},
    # Small requests follow no redirect; streams go to members of a swarm, which tickets admit.
    "create_connection": {"peer/quick_exchange.py", "peer/tls_failures.py", "peer/upgrade.py"},
    "session.request": {"peer/redirects.py"},
}


def test_sessions_are_used_in_one_module_only() -> None:
    """Whoever makes a session elsewhere goes round redirects, passwords and cookies."""
    gc.collect()  # tasks that end while CPython 3.11 parses make it fail
    found = defaultdict[str, set[str]](set)
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if name in MAKERS:
                    found[name].add(str(file.relative_to(PACKAGE)))
                whose = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
                if re.fullmatch(r"session|(.*\.)?_?http", whose) and whose != "aiohttp":
                    found[f"session.{name}"].add(str(file.relative_to(PACKAGE)))
    assert dict(found) == {name: files for name, files in MAKERS.items() if files}


async def test_session_keeps_no_cookies_or_credentials(session: Session) -> None:
    assert not session.http.trust_env
    assert isinstance(session.http.cookie_jar, aiohttp.DummyCookieJar)
