"""The ways that bytes come besides a plain answer over plain HTTP."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from shardcast.errors import NoServerReachable
from shardcast.nodes.client import Client
from shardcast.peer.bulk import Bulk
from shardcast.transfer.limits import Limits
from tests.support.published import Published, publish, random_bytes, sha256

MB = 1_000_000


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """3 MB in 3 shards."""
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(3 * MB), MB)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signs itself, with its key."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography makes the certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    encoding, secret = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, secret) + made.public_bytes(encoding)
    )
    return file


@asynccontextmanager
async def serving(app: web.Application, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def files(published: Published) -> web.Application:
    app = web.Application()
    app.router.add_static("/", published.data_dir)
    return app


async def test_download_over_tls_requires_trusted_certificate(
    published: Published, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with serving(files(published), context) as port:
        server = f"https://localhost:{port}"
        async with Client([server], limits=Limits(unreachable_at_start=0.3)) as client:
            with pytest.raises(NoServerReachable, match="certificate"):
                await client.download("v1", tmp_path / "untrusted")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
        async with Client([server]) as client:
            release = await client.download("v1", tmp_path / "got")
    assert sha256(release.path) == published.sha256
    assert not (tmp_path / "untrusted").exists()


async def test_download_uses_http_proxy(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def forward(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        async with ClientSession() as session:
            headers = {
                name: request.headers[name] for name in ("Range", "If-Match") if name in request.headers
            }
            target = f"http://localhost:{port}{request.path}"
            async with session.get(target, headers=headers) as answer:
                passed = {"Content-Range": answer.headers.get("Content-Range", "")}
                return web.Response(body=await answer.read(), status=answer.status, headers=passed)

    proxy = web.Application()
    proxy.router.add_get("/{path:.*}", forward)
    async with serving(files(published)) as port, serving(proxy) as proxy_port:
        monkeypatch.setenv("http_proxy", f"http://localhost:{proxy_port}")
        monkeypatch.setenv("no_proxy", "")
        async with Client(["elsewhere.example:8000"]) as client:
            release = await client.download("v1", tmp_path / "got")
    assert sha256(release.path) == published.sha256
    assert {"/v1/shard_001.bin", "/v1/shard_002.bin", "/v1/shard_003.bin"} <= set(asked)


@pytest.mark.parametrize("chunked", [True, False])
async def test_redirected_and_chunked_answers_are_downloaded(
    published: Published, chunked: bool, tmp_path: Path
) -> None:
    async def shard(request: web.Request) -> web.StreamResponse:
        if not chunked:
            raise web.HTTPFound(f"http://localhost:{port}{request.path}")
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write((published.data_dir / request.path.lstrip("/")).read_bytes())
        return response

    odd = web.Application()
    odd.router.add_get("/v1/{shard:shard_.*}", shard)
    odd.router.add_static("/", published.data_dir)
    async with (
        serving(files(published)) as port,
        serving(odd) as odd_port,
        Client([f"localhost:{odd_port}"]) as client,
    ):
        release = await client.download("v1", tmp_path / "got")
    assert sha256(release.path) == published.sha256


async def test_connections_are_reused(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    connect = Bulk._connect

    async def counted(bulk: Bulk) -> object:
        made.append(bulk)
        return await connect(bulk)

    monkeypatch.setattr(Bulk, "_connect", counted)
    one = Limits(at_once=1)
    async with serving(files(published)) as port, Client([f"localhost:{port}"], limits=one) as client:
        for number in range(3):
            await client.download("v1", tmp_path / f"got{number}")
    assert len(made) == 1
