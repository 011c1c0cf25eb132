"""Tokens that clients, middles and stores show: who gets them, and what a refusal leads to."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from shardcast import ClientNode, MiddleNode
from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import CredentialsFile
from shardcast.blobs.client.archive import ArchiveClient
from shardcast.errors import AccessDenied, UsageError
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.transfer.limits import Limits
from tests.support import bad_answers as bad
from tests.support.archives import wait_until
from tests.support.bad_servers import BadServer, Exchange, RightAnswer
from tests.support.gates import Gate, showing
from tests.support.processes import run
from tests.support.published import Published, publish, random_bytes

TOKEN = "sc-Gx82pQ0rVn31"
SHARD = 100_000
NEEDED = 'a token with the scope "read" is needed; give --token-file or SHARDCAST_TOKEN'


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(5 * SHARD), SHARD)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


@asynccontextmanager
async def gated(data_dir: Path, gate: Gate) -> AsyncIterator[Origin]:
    """Run an origin behind a gate."""
    with gate.closed():
        async with Origin.running(data_dir, "127.0.0.1", 0) as origin:
            yield origin


def gate_of(server: BadServer, gate: Gate) -> None:
    """Put a gate before all that a static server has."""

    async def behave(exchange: Exchange) -> None:
        authorization = exchange.headers.get("authorization")
        gate.seen.append((exchange.method, exchange.path, authorization))
        if refusal := gate.answer(exchange.path, authorization):
            headers = {"WWW-Authenticate": refusal[1]}
            await exchange.answer(RightAnswer(refusal[0], b"", headers=headers))
        else:
            await exchange.answer(exchange.right_answer())

    server.set("*", behave)


@contextmanager
def refusing(data_dir: Path, gate: Gate | None = None) -> Iterator[BadServer]:
    """Run a static server behind a gate, which takes no token unless it is given."""
    with BadServer(data_dir) as server:
        gate_of(server, gate or Gate())
        yield server


# Commands


@pytest.mark.parametrize("words", [("--list",), ("--version", "latest")], ids=["list", "version"])
def test_refused_command_ends_at_once_with_code_8(
    words: tuple[str, ...], published: Published, tmp_path: Path
) -> None:
    gate = Gate()
    with refusing(published.data_dir, gate) as server:
        env = {"SHARDCAST_UNREACHABLE_AT_START": "100"}
        done = run("client", "--servers", server.address, *words, env=env, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr == f"Error: {server.url}: GET /feed: 401: {NEEDED}\n"
    assert gate.requests() == 1
    assert gate.seen[0][2] is None


@pytest.mark.parametrize("way", ["option", "variables"])
def test_command_shows_the_token_that_it_was_given(
    way: str, published: Published, tmp_path: Path, token_file: Path
) -> None:
    gate = Gate()
    gate.add(TOKEN, "read")
    words, env = ("--token-file", str(token_file)), dict[str, str]()
    with refusing(published.data_dir, gate) as server:
        token_file.write_text(f"# ours\n10.9.9.9=another\n{server.address}={TOKEN}\nthird\n")
        if way == "variables":
            words, env = (), {"SHARDCAST_TOKEN_FILE": str(token_file), "SHARDCAST_TOKEN": "another"}
        output = tmp_path / "out"
        done = run(
            "client", "--servers", server.address, "--version", "v1", "--output-file", str(output), *words,
            env=env,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == published.payload
    assert {authorization for _, _, authorization in gate.seen} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stderr


@pytest.mark.parametrize(
    ("scopes", "said"),
    [
        ("report status", '403: the token lacks the scope "read"; give a token with the scope "read"'),
        (None, "401: the token is unknown there, expired or revoked; give a token with the scope"),
    ],
)
async def test_wrong_token_is_refused_with_the_missing_scope(
    scopes: str | None, said: str, published: Published, tmp_path: Path
) -> None:
    gate = Gate()
    if scopes:
        gate.add(TOKEN, scopes)
    async with (
        gated(published.data_dir, gate) as origin,
        Client([origin.url], access=showing(TOKEN)) as client,
    ):
        for work in (client.listings(), client.download("v1", tmp_path / "out")):
            with pytest.raises(AccessDenied) as caught:
                await work
            assert said in str(caught.value)
            assert origin.url in str(caught.value)
            assert caught.value.scopes == ("read",)
        with pytest.raises(AccessDenied, match="v1: GET /v1/lease"):
            async with client.lease("v1"):
                pass


async def test_http_server_is_refused_where_tls_is_required(published: Published, tmp_path: Path) -> None:
    access = replace(showing(TOKEN), require_tls=True)
    with refusing(published.data_dir) as server:
        done = await asyncio.to_thread(run, "client", "--servers", server.address, "--list", "--require-tls")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{server.url} is no https server" in done.stderr
        with pytest.raises(UsageError, match="is no https server"):
            async with Middle.running([server.url], tmp_path / "middle", upstream_access=access):
                pass
        for make in (Peer, ArchiveClient):
            async with open_session(access=access) as session:
                with pytest.raises(UsageError, match="is no https server"):
                    make(server.url, session)
        assert server.requested() == 0


async def test_library_refuses_http_where_tls_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDCAST_REQUIRE_TLS", "true")
    for make in (Client, ClientNode):
        with pytest.raises(UsageError, match="is no https server"):
            make(["10.0.0.1"])


# Several servers


async def test_refusing_server_is_named_once_and_left_alone(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    with refusing(published.data_dir, gate) as refused:
        async with (
            Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
            Client([refused.url, origin.url], access=showing(TOKEN)) as client,
        ):
            release = await client.download("v1", tmp_path / "out")
    assert release.path.read_bytes() == published.payload
    assert sum(refused.url in record.getMessage() for record in caplog.records) == 1
    assert "the token is unknown there" in caplog.text
    assert gate.requests() == 1


async def test_token_revoked_in_a_transfer_leaves_it_to_other_servers(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    gate.add(TOKEN, "read")
    with refusing(published.data_dir, gate) as revoking, BadServer(published.data_dir) as other:
        await _revoke_at_shards(revoking, gate)
        async with Client([revoking.url, other.url], access=showing(TOKEN)) as client:
            release = await client.download("v1", tmp_path / "out")
    assert release.path.read_bytes() == published.payload
    assert release.received[other.url] == len(published.payload)
    assert sum("is fetched from other servers" in record.getMessage() for record in caplog.records) <= 1


async def test_token_revoked_in_a_transfer_ends_it_and_keeps_what_landed(
    published: Published, tmp_path: Path
) -> None:
    gate, output = Gate(), tmp_path / "out"
    gate.add(TOKEN, "read")
    gate.add("newer", "read")
    with refusing(published.data_dir, gate) as server:
        await _revoke_at_shards(server, gate, after=2)
        started = time.monotonic()
        with pytest.raises(AccessDenied, match=r"shard.*the token is unknown there.*what is here is kept"):
            one = Limits(at_once=1)  # so that two shards are here when the third is refused
            async with Client([server.url], limits=one, access=showing(TOKEN)) as client:
                await client.download("v1", output)
        assert time.monotonic() - started < 10
        asked = gate.requests("/v1/shard_001.bin")
        gate_of(server, gate)
        async with Client([server.url], access=showing("newer")) as client:
            await client.download("v1", output)
        assert output.read_bytes() == published.payload
        assert gate.requests("/v1/shard_001.bin") == asked


@pytest.mark.parametrize("other", ["lacks", "down"])
async def test_revoked_token_is_the_error_where_no_other_server_can_serve(
    other: str, published: Published, tmp_path: Path
) -> None:
    gate = Gate()
    gate.add(TOKEN, "read")
    limits = Limits(attempts=2, unreachable_at_start=0.5, unreachable_once_begun=0.5)
    with refusing(published.data_dir, gate) as revoking, BadServer(published.data_dir) as useless:
        await _revoke_at_shards(revoking, gate)
        useless.set("/v1/shard_*", bad.error(404) if other == "lacks" else bad.closed())
        async with Client([revoking.url, useless.url], limits=limits, access=showing(TOKEN)) as client:
            with pytest.raises(AccessDenied, match=f"shard.*the token is unknown there.*{useless.address}"):
                await client.download("v1", tmp_path / "out")


async def _revoke_at_shards(server: BadServer, gate: Gate, after: int = 0) -> None:
    """Have a server take the token for the list, the manifest and ``after`` shards only."""
    served: set[str] = set()

    async def behave(exchange: Exchange) -> None:
        authorization = exchange.headers.get("authorization")
        gate.seen.append((exchange.method, exchange.path, authorization))
        if authorization == f"Bearer {TOKEN}" and len(served) >= after:
            header = 'Bearer error="invalid_token", scope="read"'
            await exchange.answer(RightAnswer(401, b"", headers={"WWW-Authenticate": header}))
        else:
            served.add(exchange.path)
            await exchange.answer(exchange.right_answer())

    server.set("/v1/shard_*", behave)


async def test_refusal_of_a_gateway_ends_with_its_own_words(published: Published, tmp_path: Path) -> None:
    async def forbidden(exchange: Exchange) -> None:
        await exchange.answer(RightAnswer(403, b"no"))

    with BadServer(published.data_dir) as server:
        server.set("*", forbidden)
        async with Client([server.url]) as client:
            with pytest.raises(AccessDenied, match="403: the server, or a gateway before it, refuses"):
                await client.listings()


async def test_static_server_that_forbids_what_it_lacks_is_read(published: Published, tmp_path: Path) -> None:
    async def as_buckets(exchange: Exchange) -> None:
        right = exchange.right_answer()
        await exchange.answer(RightAnswer(403, b"") if right.status == 404 else right)

    with BadServer(published.data_dir) as server:
        server.set("*", as_buckets)
        async with Client([server.url]) as client:
            release = await client.download("latest", tmp_path / "out")
    assert release.path.read_bytes() == published.payload


# Those that stay


async def test_follower_goes_on_until_it_is_let_in(
    published: Published, tmp_path: Path, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    gate.add("newer", "read")
    now = [0.0]
    credentials = CredentialsFile(token_file, lambda: now[0])
    async with gated(published.data_dir, gate) as origin:
        client = Client([origin.url], tmp_path / "out", access=ClientAccess(credentials=credentials))
        async with client:
            following = client.follow(check_interval=0.1)
            first = asyncio.ensure_future(anext(following))
            await wait_until(lambda: gate.requests("/feed") >= 4)
            assert not first.done()
            refused = [r for r in caplog.records if "the token is unknown there" in r.getMessage()]
            assert [record.levelno for record in refused] == [logging.WARNING]
            token_file.write_text("newer")
            now[0] += 1.0
            assert (await first).version == "v1"
            await following.aclose()
    assert "not reported" in caplog.text or gate.requests("/report") == 0


async def test_middle_shows_a_refusal_and_goes_on_until_it_is_let_in(
    published: Published, tmp_path: Path, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate()
    gate.add("newer", "read")
    now = [0.0]
    access = ClientAccess(credentials=CredentialsFile(token_file, lambda: now[0]))
    async with (
        gated(published.data_dir, gate) as origin,
        Middle.running(
            [origin.url], tmp_path / "middle", "127.0.0.1", 0, check_interval=0.1, upstream_access=access
        ) as middle,
        aiohttp.ClientSession() as web,
    ):
        await wait_until(lambda: gate.requests("/feed") >= 4)
        async with web.get(f"{middle.url}/ready") as answer:
            assert (answer.status, "the token is unknown there" in await answer.text()) == (503, True)
        (upstream,) = middle.status()["upstreams"]
        assert upstream["state"] == "lost"
        assert 'a token with the scope "read"' in upstream["failure"]
        token_file.write_text("newer")
        now[0] += 1.0
        await wait_until(lambda: middle.missing() is None)
        await wait_until(lambda: "not reported" in caplog.text)
        assert middle.folders.complete_numbers == {1}
    logged = [record.getMessage() for record in caplog.records]
    assert sum("the token is unknown there" in line for line in logged) == 1
    assert sum("lets this node read now" in line for line in logged) == 1
    assert sum("not reported" in line and 'lacks the scope "report"' in line for line in logged) == 1


async def test_middle_of_the_library_shows_its_token_and_hides_it(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token_file: Path
) -> None:
    gate = Gate()
    gate.add(TOKEN, "read report")
    token_file.write_text("another")
    monkeypatch.setenv("SHARDCAST_TOKEN_FILE", str(token_file))
    async with gated(published.data_dir, gate) as origin:
        middle = await asyncio.to_thread(
            lambda: MiddleNode([origin.url], tmp_path / "middle", 0, check_interval=0.2, token=TOKEN)
        )
        try:
            await wait_until(lambda: (tmp_path / "middle" / "v1" / "manifest.jsonl").exists())
            pid = middle._process.pid
            for file in ("cmdline", "environ"):
                assert TOKEN.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()
        finally:
            await asyncio.to_thread(middle.shutdown)
    assert {authorization for _, _, authorization in gate.seen} == {f"Bearer {TOKEN}"}


def test_pickled_client_reads_the_token_of_its_new_process(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    gate.add(TOKEN, "read")
    monkeypatch.setenv("SHARDCAST_TOKEN", TOKEN)
    with refusing(published.data_dir, gate) as server:
        pickled = pickle.dumps(ClientNode([server.url], tmp_path))
        assert TOKEN.encode() not in pickled
        assert list(pickle.loads(pickled).list_available_versions()) == ["v1"]
    with pytest.raises(TypeError, match="SHARDCAST_TOKEN_FILE"):
        pickle.dumps(ClientNode([server.url], tmp_path, token=TOKEN))


def test_clients_of_the_library_show_their_token(published: Published, tmp_path: Path) -> None:
    gate = Gate()
    gate.add(TOKEN, "read")
    with refusing(published.data_dir, gate) as server:
        path = ClientNode([server.url], tmp_path, token=TOKEN).download_version("latest")
        assert Path(str(path)).read_bytes() == published.payload
        with pytest.raises(AccessDenied):
            ClientNode([server.url], tmp_path, token="wrong").list_available_versions()
    with pytest.raises(UsageError, match="the token: blanks"):
        ClientNode([server.url], tmp_path, token="two words")
