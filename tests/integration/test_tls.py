"""TLS between real nodes: what is refused, in which words, and that everything else works as without it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest

from shardcast.access.client_access import ClientAccess
from shardcast.access.server_access import ServerAccess
from shardcast.access.tls import ClientTls, ServerTls
from shardcast.api import ClientNode, OriginServer
from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.errors import NoServerReachable, TlsFailure, UsageError
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.peer.session import open_session
from shardcast.protocol.wire import TLS_ONLY_REASON
from shardcast.server.bounds import Bounds
from tests.support import processes
from tests.support.certificates import Certificates
from tests.support.loops import on_each_loop, run_on
from tests.support.published import Published, publish, random_bytes

SIZE = 2_500_000
HOST = "127.0.0.1"


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "data", random_bytes(SIZE), 1_000_000)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "tls")


async def download(url: str, folder: Path, access: ClientAccess) -> bytes:
    async with Client([url], folder, access=access) as client:
        release = await client.download("latest")
    return release.path.read_bytes()


async def test_mutual_tls_through_two_middles_to_a_client(
    published: Published, certificates: Certificates, tmp_path: Path
) -> None:
    access = certificates.server(mutual=True)
    shown = certificates.client(certificates.issue("gpu-7.example", file="client.pem", common_name="gpu-7"))
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin.running(published.data_dir, HOST, 0, access=access))
        url = origin.url
        assert url.startswith("https://")
        for name in ("one", "two"):
            middle = await stack.enter_async_context(
                Middle.running([url], tmp_path / name, HOST, 0, access=access, upstream_access=shown)
            )
            url = middle.url
        while not middle.folders.listings:
            await asyncio.sleep(0.01)
        assert await download(url, tmp_path / "out", shown) == published.payload


@pytest.fixture
async def secure(published: Published, certificates: Certificates) -> AsyncIterator[Origin]:
    async with Origin.running(published.data_dir, HOST, 0, access=certificates.server()) as origin:
        yield origin


async def test_ranges_heads_and_conditions_are_those_of_plain_http(
    secure: Origin, published: Published, certificates: Certificates
) -> None:
    context = certificates.client().tls.load()
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(secure.url, connector=connector) as web:
        async with web.get("/v1/shard_002.bin", headers={"Range": "bytes=70000-399999"}) as answer:
            assert (answer.status, await answer.read()) == (206, published.payload[1_070_000:1_400_000])
        async with web.head("/v1/shard_002.bin") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, "1000000")
        async with web.get("/v1/shard_003.bin", headers={"If-Match": '"other"'}) as answer:
            assert answer.status == 412


Refusal = Callable[[Certificates], tuple[ServerAccess, ClientAccess]]


def unknown_authority(certificates: Certificates) -> tuple[ServerAccess, ClientAccess]:
    return certificates.server(), ClientAccess()


def wrong_name(certificates: Certificates) -> tuple[ServerAccess, ClientAccess]:
    pem = certificates.issue("origin.example", "10.9.8.7")
    return ServerAccess(tls=ServerTls(pem)), certificates.client()


def expired(certificates: Certificates) -> tuple[ServerAccess, ClientAccess]:
    pem = certificates.issue(days=(-30, -2))
    return ServerAccess(tls=ServerTls(pem)), certificates.client()


def not_yet_valid(certificates: Certificates) -> tuple[ServerAccess, ClientAccess]:
    pem = certificates.issue(days=(2, 30))
    return ServerAccess(tls=ServerTls(pem)), certificates.client()


def no_client_certificate(certificates: Certificates) -> tuple[ServerAccess, ClientAccess]:
    return certificates.server(mutual=True), certificates.client()


def strange_client_certificate(certificates: Certificates) -> tuple[ServerAccess, ClientAccess]:
    strangers = Certificates(certificates.ca.parent / "strangers")
    pem = strangers.issue("gpu-1.example", file="client.pem")
    return certificates.server(mutual=True), certificates.client(pem)


REFUSALS = [
    (unknown_authority, "signed by a CA that is not trusted here; name the CA that signed it (--ca)"),
    (wrong_name, "for origin.example, 10.9.8.7, not for 127.0.0.1"),
    (expired, "its certificate expired on "),
    (not_yet_valid, "its certificate is not valid before "),
    (no_client_certificate, "wants a certificate of this client (--client-certificate"),
    (strange_client_certificate, "it refuses the certificate of this client: it does not know the CA"),
]


@pytest.mark.parametrize(("refusal", "words"), REFUSALS, ids=[each.__name__ for each, _ in REFUSALS])
async def test_refused_tls_fails_at_once_and_says_why(
    refusal: Refusal,
    words: str,
    published: Published,
    certificates: Certificates,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    access, shown = refusal(certificates)
    async with Origin.running(published.data_dir, HOST, 0, access=access) as origin, asyncio.timeout(5):
        with pytest.raises(NoServerReachable) as failed:
            await download(origin.url, tmp_path / "out", shown)
    assert words in str(failed.value)
    assert origin.url in str(failed.value)
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


async def test_plain_http_to_tls_port_says_https(
    secure: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(NoServerReachable, match="write https:// before its address"):
            await download(secure.url.replace("https", "http"), tmp_path / "out", ClientAccess())
    assert not [record for record in caplog.records if record.exc_info]


async def test_tls_to_plain_port_says_http(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Origin.running(published.data_dir, HOST, 0) as origin, asyncio.timeout(5):
        with pytest.raises(NoServerReachable, match="write http:// before its address"):
            await download(origin.url.replace("http", "https"), tmp_path / "out", ClientAccess())
    assert not [record for record in caplog.records if record.exc_info]


async def test_tls_1_1_is_refused(secure: Origin) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    port = int(secure.url.rsplit(":", 1)[1])
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        await asyncio.open_connection(HOST, port, ssl=context)


async def test_another_server_is_used_where_one_has_a_wrong_certificate(
    secure: Origin, published: Published, certificates: Certificates, tmp_path: Path
) -> None:
    pem = certificates.issue("elsewhere.example", file="wrong.pem")
    data = publish(tmp_path / "other", published.payload, 1_000_000)
    async with (
        Origin.running(data.data_dir, HOST, 0, access=ServerAccess(tls=ServerTls(pem))) as wrong,
        Client([wrong.url, secure.url], tmp_path / "out", access=certificates.client()) as client,
    ):
        release = await client.download("latest")
    assert release.path.read_bytes() == published.payload


async def test_silent_handshake_is_dropped_within_the_bound_of_heads(
    published: Published, certificates: Certificates
) -> None:
    bounds = Bounds(head_seconds=0.2)
    access = certificates.server()
    async with Origin.running(published.data_dir, HOST, 0, access=access, bounds=bounds) as origin:
        reader, writer = await asyncio.open_connection(HOST, int(origin.url.rsplit(":", 1)[1]))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


@on_each_loop
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\xff", b"no TLS", b"\x00" * 70_000])
def test_handshake_that_fails_ends_and_the_next_one_is_taken(
    loop: str, sent: bytes, published: Published, certificates: Certificates
) -> None:
    async def shake() -> None:
        bounds, access = Bounds(head_seconds=0.3), certificates.server()
        async with Origin.running(published.data_dir, HOST, 0, access=access, bounds=bounds) as origin:
            port = int(origin.url.rsplit(":", 1)[1])
            for sock in [socket.create_connection((HOST, port)) for _ in range(5)]:
                with sock:
                    await asyncio.to_thread(sock.sendall, sent)
                    sock.settimeout(5)
                    with contextlib.suppress(ConnectionResetError):
                        while await asyncio.to_thread(sock.recv, 1000):
                            pass
            context = certificates.client().tls.load()
            _, writer = await asyncio.open_connection(HOST, port, ssl=context)
            writer.close()

    run_on(loop, shake())


async def test_renewed_certificate_serves_new_connections_while_open_ones_go_on(
    published: Published, certificates: Certificates
) -> None:
    pem = certificates.issue()
    context = certificates.client().tls.load()
    async with Origin.running(published.data_dir, HOST, 0, access=ServerAccess(tls=ServerTls(pem))) as origin:
        port = int(origin.url.rsplit(":", 1)[1])

        async def serial() -> str:
            _, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname=HOST)
            found: dict[str, str] = writer.get_extra_info("peercert")
            writer.close()
            return found["serialNumber"]

        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as web,
            web.get(f"{origin.url}/feed") as feed,
        ):
            await feed.content.readline()
            before = await serial()
            certificates.issue()
            async with asyncio.timeout(10):
                while await serial() == before:
                    await asyncio.sleep(0.1)
            release = await origin.publish(published.data_dir / "v1" / "shard_001.bin")
            await release.result()
            async with asyncio.timeout(5):
                while b'"v2"' not in await feed.content.readline():
                    pass


async def test_session_of_a_client_that_is_no_longer_trusted_is_not_resumed(
    certificates: Certificates, tmp_path: Path
) -> None:
    clients = Certificates(tmp_path / "clients")
    tls = ServerTls(certificates.issue(), client_ca=clients.ca)
    context = ClientTls(certificates.ca, clients.issue("gpu-7.example")).load()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 no session is offered
    async with Origin.running(tmp_path / "data", HOST, 0, access=ServerAccess(tls=tls)) as origin:
        port = int(origin.url.rsplit(":", 1)[1])

        def ask(session: ssl.SSLSession | None = None) -> tuple[bytes, ssl.SSLSession | None]:
            with (
                socket.create_connection((HOST, port), timeout=30) as plain,
                context.wrap_socket(plain, server_hostname=HOST, session=session) as secured,
            ):
                secured.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
                return secured.recv(12), secured.session

        first, session = await asyncio.to_thread(ask)
        again, _ = await asyncio.to_thread(ask, session)
        assert first == again == b"HTTP/1.0 200"
        Certificates(tmp_path / "clients")
        async with asyncio.timeout(30):
            with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
                while True:
                    await asyncio.to_thread(ask)
                    await asyncio.sleep(0.1)
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
            await asyncio.to_thread(ask, session)


async def test_client_certificate_names_the_node_in_status(
    published: Published, certificates: Certificates, tmp_path: Path
) -> None:
    access = certificates.server(mutual=True)
    shown = certificates.client(certificates.issue("gpu-7.example", file="client.pem", common_name="gpu-7"))
    async with (
        Origin.running(published.data_dir, HOST, 0, access=access) as origin,
        Middle.running([origin.url], tmp_path / "middle", HOST, 0, access=access, upstream_access=shown),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=shown.tls.load())) as web,
        asyncio.timeout(10),
    ):
        names: list[str] = []
        while not names:
            async with web.get(f"{origin.url}/status") as answer:
                names = [node["name"] for node in (await answer.json())["below"]]
    assert [name.split(" ")[0] for name in names] == ["gpu-7"]


def test_library_speaks_tls_also_after_a_restart_of_its_origin(
    certificates: Certificates, tmp_path: Path
) -> None:
    payload = tmp_path / "payload.bin"
    payload.write_bytes(random_bytes(10_000))
    pem = certificates.issue()
    origin = OriginServer(tmp_path / "data", 0, certificate=pem)
    try:
        assert origin.url.startswith("https://")
        os.kill(origin._process.pid, signal.SIGKILL)
        processes.wait_until(lambda: not origin._process.running, what="it to die")
        assert origin.broadcast(payload) == "v1"
        client = ClientNode([f"https://localhost:{origin.port}"], tmp_path / "out", ca=certificates.ca)
        path = client.download_version("v1")
    finally:
        origin.shutdown(0)
    assert path is not None
    assert Path(path).read_bytes() == payload.read_bytes()


def test_library_reports_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(UsageError, match=r"there is no certificate in .*none\.pem"):
        OriginServer(tmp_path / "data", 0, certificate=tmp_path / "none.pem")


async def test_handshakes_of_one_address_are_limited(
    published: Published, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the first packet on: thousands of silent handshakes cost as little as silent requests."""
    monkeypatch.setattr(Bounds, "counted_address", lambda *_: ip_address("10.9.8.7"))
    bounds, access = Bounds(connections=2), certificates.server()
    async with (
        Origin.running(published.data_dir, HOST, 0, access=access, bounds=bounds) as origin,
        asyncio.timeout(5),
    ):
        port = int(origin.url.rsplit(":", 1)[1])
        silent = [await asyncio.open_connection(HOST, port) for _ in range(2)]
        context = certificates.client().tls.load()
        with pytest.raises(OSError):
            await asyncio.open_connection(HOST, port, ssl=context)
        for _, writer in silent:
            writer.close()
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port, ssl=context)
            except OSError:
                continue  # the server has yet to see the end of the others
            break
        writer.close()


async def test_download_goes_on_while_certificates_are_replaced_and_broken(
    published: Published, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    pem, context = certificates.issue(), certificates.client().tls.load()
    async with (
        Origin.running(published.data_dir, HOST, 0, access=ServerAccess(tls=ServerTls(pem))) as origin,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), read_bufsize=1024) as web,
        web.get(f"{origin.url}/v1/shard_001.bin") as answer,
    ):
        received = await answer.content.readexactly(1000)
        pem.write_text("no PEM at all")
        async with asyncio.timeout(10):
            while "the old ones stay in use" not in caplog.text:
                await asyncio.sleep(0.05)
        received += await answer.content.read()
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as other,
            other.get(f"{origin.url}/healthcheck") as health,
        ):
            assert health.status == 200
    assert received == published.payload[:1_000_000]


async def test_slow_reader_gets_every_byte_of_a_file_over_tls(
    secure: Origin, published: Published, certificates: Certificates
) -> None:
    """The buffer of one chunk is the next one's: bytes that still wait for the reader must not change."""
    context = certificates.client().tls.load()
    reader, writer = await asyncio.open_connection(
        HOST, int(secure.url.rsplit(":", 1)[1]), ssl=context, limit=2048
    )
    writer.write(b"GET /v1/shard_002.bin HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    received = b""
    while len(received) < 1_000_000:
        received += await reader.read(4096)
        await asyncio.sleep(0)
    writer.close()
    assert received == published.payload[1_000_000:2_000_000]


@pytest.mark.parametrize("kind", ["store", "archive"])
async def test_store_and_archive_speak_tls(kind: str, certificates: Certificates, tmp_path: Path) -> None:
    data, access = b"a blob", certificates.server(mutual=True)
    shown = certificates.client(certificates.issue("gpu-7.example", file="client.pem"))
    key = sha256(data).hexdigest()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / key).write_bytes(data)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_serving(kind, tmp_path / "blobs", access))
        assert url.startswith("https://")
        async with open_session(access=shown) as session:
            store = RemoteStore(url, session)
            assert await store.size(key) == len(data)
        async with open_session(access=certificates.client()) as session:
            with pytest.raises(TlsFailure, match="wants a certificate of this client"):
                await RemoteStore(url, session).size(key)


def plain_http(certificates: Certificates) -> tuple[ServerAccess, ClientAccess]:
    return certificates.server(), ClientAccess()


WRONG_TLS = [*REFUSALS, (plain_http, "write https:// before its address")]


@pytest.mark.parametrize("kind", ["middle", "store", "archive", "authorized port"])
@pytest.mark.parametrize(("refusal", "words"), WRONG_TLS, ids=[each.__name__ for each, _ in WRONG_TLS])
async def test_each_listener_refuses_wrong_tls(
    kind: str, refusal: Refusal, words: str, certificates: Certificates, tmp_path: Path
) -> None:
    access, shown = refusal(certificates)
    (tmp_path / "blobs").mkdir()
    async with _serving(kind, tmp_path / "blobs", access) as url, asyncio.timeout(10):
        asked = url.replace("https", "http") if refusal is plain_http else url
        with pytest.raises((NoServerReachable, TlsFailure), match=re.escape(words)):
            if kind == "middle":
                async with Client([asked], tmp_path / "out", access=shown) as client:
                    await client.listings()
            else:
                async with open_session(access=shown) as session:
                    await RemoteStore(asked, session).size("0" * 64)


@asynccontextmanager
async def _serving(kind: str, folder: Path, access: ServerAccess) -> AsyncIterator[str]:
    """Run a listener of this kind over a folder, and yield its URL."""
    if kind == "store":
        settings = StoreSettings(folder, "sha256", "flat")
        async with StoreServer.running(settings, access=access) as server:
            yield server.url
    elif kind == "middle":
        async with Middle.running(["http://127.0.0.1:1"], folder, HOST, 0, access=access) as middle:
            yield middle.url
    else:
        async with ArchiveNode.on_directory(
            folder, host=HOST, port=0, authorized_port=0, access=access
        ) as node:
            assert node.push_url
            yield node.push_url if kind == "authorized port" else node.url


async def test_small_shards_arrive_over_tls_without_a_wait(
    certificates: Certificates, tmp_path: Path
) -> None:
    data = publish(tmp_path / "small", random_bytes(5000), 1000)
    async with (
        Origin.running(data.data_dir, HOST, 0, access=certificates.server()) as origin,
        asyncio.timeout(20),
    ):
        assert await download(origin.url, tmp_path / "out", certificates.client()) == data.payload


async def test_connections_for_shards_load_no_cas_of_the_system(
    secure: Origin,
    published: Published,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each load takes some 40 ms of the event loop."""

    def load() -> ssl.SSLContext:
        raise AssertionError("http.client makes a context of its own")

    monkeypatch.setattr(ssl, "_create_default_https_context", load)
    assert await download(secure.url, tmp_path / "out", certificates.client()) == published.payload


async def test_version_that_is_being_made_and_its_lease_go_over_tls(
    certificates: Certificates, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    payload = random_bytes(150_000)
    connector = aiohttp.TCPConnector(ssl=certificates.client().tls.load())
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sink:
        async with (
            Origin.running(
                tmp_path / "live", HOST, 0, shard_size=50_000, access=certificates.server()
            ) as origin,
            aiohttp.ClientSession(origin.url, connector=connector) as web,
            asyncio.timeout(20),
        ):
            broadcast = await origin.publish_stream(source, "payload.bin")
            sink.write(payload[:60_000])
            while not ((live := origin.folders.live("v1")) and live.has_header):
                await asyncio.sleep(0.001)
            async with web.get("/v1/manifest.jsonl") as manifest:
                await manifest.content.readline()
                assert b'"shard"' in await manifest.content.readline()
                async with web.get("/v1/shard_001.bin") as shard:
                    assert await shard.read() == payload[:50_000]
                await asyncio.to_thread(sink.write, payload[60_000:])
                sink.close()
                assert b'"complete"' in (await manifest.content.read()).splitlines()[-1]
            await broadcast.result()
            async with web.get("/v1/lease") as lease:
                assert lease.status == 200
                assert await lease.content.readline()


async def test_old_nodes_request_at_tls_port_is_answered_in_plain_http(
    secure: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """0.1.0 knows no https: it asks for the list, fails with what it is told, and tries again for 20 s."""
    async with (
        aiohttp.ClientSession() as web,
        web.get(secure.url.replace("https", "http") + "/distribution.txt") as answer,
    ):
        assert (answer.status, answer.reason) == (400, TLS_ONLY_REASON)
        assert await answer.text() == f"400: {TLS_ONLY_REASON}\n"
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
