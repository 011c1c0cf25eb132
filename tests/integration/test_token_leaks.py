"""A token is placed wherever a person could see output from, and searched for there in vain."""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.http_writer import StreamWriter

from shardcast import Archive, ClientNode
from shardcast.access.secret import Secret
from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.client.remote import RemoteStore
from shardcast.cli.access_options import ClientAccessOptions
from shardcast.errors import ShardcastError
from shardcast.nodes.child_process import NodeProcess
from shardcast.nodes.client import Client
from shardcast.peer.next_range import NoRange, RangeServer
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.transfer.limits import Limits
from tests.support import bad_answers as bad
from tests.support.bad_servers import BadServer, Behaviour, Exchange, RightAnswer
from tests.support.gates import showing
from tests.support.processes import environment, origin
from tests.support.published import Published, publish, random_bytes

TOKEN = "sc-Rk21vWq80LmZ"
SHARD = 100_000
LOUD = """
import http.client, sys
http.client.HTTPConnection.debuglevel = 1
from shardcast.cli.main import main
sys.argv[0] = "shardcast"
main()
"""
"""A command in a process that prints all that its libraries can print."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(3 * SHARD), SHARD)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


def report(error: BaseException) -> str:
    """Return all that a report of an error can show: text, causes, contexts, and every local variable."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown, left = "".join(whole.format()), [error]
    while left:
        one = left.pop()
        shown += f"{one!r} {one} {vars(one)!r}"
        left += [linked for linked in (one.__cause__, one.__context__) if linked is not None]
        for frame, _ in list(traceback.walk_tb(one.__traceback__))[1:]:  # the first is the test's
            shown += "".join(f"{value!r}" for value in frame.f_locals.values())
    return shown


def unauthorized() -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        header = 'Bearer error="invalid_token", scope="read"'
        await exchange.answer(RightAnswer(401, b"", headers={"WWW-Authenticate": header}))

    return behave


def redirect(location: Callable[[Exchange], str]) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(RightAnswer(302, b"", headers={"Location": location(exchange)}))

    return behave


FAILURES: dict[str, Callable[[], Behaviour]] = {
    "closed": bad.closed,
    "cut": lambda: bad.cut(10),
    "silent": bad.silent,
    "html": bad.html,
    "huge-headers": bad.huge_headers,
    "error": bad.error,
    "unauthorized": unauthorized,
    "redirect-loop": bad.redirect_loop,
}
PATIENCE = Limits(attempts=1, timeout=0.3, unreachable_at_start=0.1, unreachable_once_begun=0.1)


async def test_no_error_of_a_request_shows_the_token(published: Published, tmp_path: Path) -> None:
    for name, behaviour in FAILURES.items():
        with BadServer(published.data_dir) as server:
            server.set("/v1/shard_*", behaviour()).set("/distribution.txt", behaviour())
            server.set("/v1/next", behaviour())
            async with open_session(0.3, showing(TOKEN)) as session:
                with pytest.raises(ShardcastError) as caught:
                    await Peer(server.url, session, 0.3).listings()
                ranges = RangeServer(server.url, session, 0.3).ranges("v1", "81ab", PieceNumbers(SHARD))
                try:
                    assert isinstance(await ranges.ask(0, lambda head: None), NoRange), name
                except ShardcastError as error:
                    assert TOKEN not in report(error), name
            assert TOKEN not in report(caught.value), name
            server.set("/distribution.txt", bad.good())
            async with Client([server.url], tmp_path, PATIENCE, access=showing(TOKEN)) as client:
                with pytest.raises(ShardcastError) as caught:
                    await client.download("v1", tmp_path / name)
            assert TOKEN not in report(caught.value), name


async def test_no_error_of_writing_a_request_shows_the_token(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("it can't be written")

    for kind, method in ((http.client.HTTPConnection, "send"), (StreamWriter, "_write")):
        with BadServer(published.data_dir) as server, monkeypatch.context() as patch:
            async with Client([server.url], tmp_path, PATIENCE, access=showing(TOKEN)) as client:
                patch.setattr(kind, method, fail)
                with pytest.raises(ShardcastError) as caught:
                    await client.download("v1", tmp_path / "out")
        assert "it can't be written" in report(caught.value)
        assert TOKEN not in report(caught.value)


async def test_no_redirect_takes_the_token_along(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir) as named, BadServer(published.data_dir) as other:
        seen: list[tuple[str, bool]] = []

        def record(server: BadServer, name: str) -> Behaviour:
            async def behave(exchange: Exchange) -> None:
                seen.append((name, "authorization" in exchange.headers))
                path = exchange.path.removeprefix("/moved")
                if name == "moved" or server is other:
                    exchange.path = path
                    await exchange.answer(exchange.right_answer())
                else:
                    here = exchange.path.endswith("shard_001.bin")
                    await redirect(lambda _: f"{'' if here else other.url}/moved{path}")(exchange)

            return behave

        named.set("*", record(named, "named")).set("/moved/*", record(named, "moved"))
        other.set("*", record(other, "other"))
        async with Client([named.url], access=showing(TOKEN)) as client:
            release = await client.download("v1", tmp_path / "out")
    assert release.path.read_bytes() == published.payload
    assert {name: {shown for place, shown in seen if place == name} for name, _ in seen} == {
        "named": {True},
        "moved": {False},
        "other": {False},
    }


async def test_proxy_of_plain_requests_gets_no_token(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bool] = []

    async def record(exchange: Exchange) -> None:
        shown.append("authorization" in exchange.headers)
        await exchange.answer(RightAnswer(404, b""))

    with BadServer(published.data_dir) as proxy:
        proxy.set("*", record)
        for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.url)
        async with Client(["10.9.9.9:8000"], access=showing(TOKEN)) as client:
            with pytest.raises(ShardcastError):
                await client.listings()
    assert shown
    assert not any(shown)


async def test_no_repr_shows_the_token(published: Published, tmp_path: Path, token_file: Path) -> None:
    access = showing(TOKEN)
    async with open_session(access=access) as session, Client(["10.0.0.1"], access=access) as client:
        things: list[Any] = [
            access, access.credentials, session, client,
            Peer("http://10.0.0.1:8000", session),
            ArchiveClient("http://10.0.0.1:8000", session, TOKEN),
            RemoteStore("http://10.0.0.1:8000", session, token=TOKEN),
            ClientNode(["10.0.0.1"], token=TOKEN),
            Archive("http://10.0.0.1:8000", TOKEN),
            ClientAccessOptions(token_file),
            ClientAccessOptions(token_file).load(),
        ]  # fmt: skip
        for thing in things:
            assert TOKEN not in repr(thing)
            assert TOKEN not in str(thing)
            inner = vars(thing) if hasattr(thing, "__dict__") else {}
            assert TOKEN not in repr(inner)
            assert TOKEN not in "".join(repr(getattr(value, "__dict__", "")) for value in inner.values())


def test_no_command_prints_the_token(published: Published, tmp_path: Path, token_file: Path) -> None:
    def printed(server: str, code: int) -> None:
        done = subprocess.run(
            [
                sys.executable, "-X", "dev", "-W", "ignore", "-c", LOUD,
                "client", "--servers", server, "--version", "v1", "--log-level", "DEBUG",
                "--output-file", str(tmp_path / "out"),
            ],
            env=environment(SHARDCAST_TOKEN_FILE=str(token_file), SHARDCAST_RETRY_ATTEMPTS="1"),
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert TOKEN not in done.stdout + done.stderr

    with origin(published.data_dir, "--log-level", "DEBUG") as running:
        printed(running.url, 0)

        async def status() -> str:
            async with aiohttp.ClientSession() as web, web.get(f"{running.url}/status") as answer:
                return await answer.text()

        assert TOKEN not in asyncio.run(status())
        running.stop()
        assert TOKEN not in running.log
    (tmp_path / "out").unlink()
    with BadServer(published.data_dir) as server:
        server.set("/v1/shard_*", unauthorized())
        printed(server.url, 8)


def test_child_gets_its_secrets_where_no_other_process_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDCAST_ORIGIN_SECRET", "before")
    words = ["--data-dir", str(tmp_path / "o"), "--host", "127.0.0.1", "--port", "0"]
    process = NodeProcess("origin", words, secrets={"SHARDCAST_ORIGIN_SECRET": Secret(TOKEN)})
    process.wait_until_listening()
    try:
        for file in ("cmdline", "environ"):
            assert TOKEN.encode() not in Path(f"/proc/{process.pid}/{file}").read_bytes()
    finally:
        process.stop()
    assert os.environ["SHARDCAST_ORIGIN_SECRET"] == "before"
