"""``--wait``: a client that begins before the version, or its server, is there."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest

from shardcast.errors import NoServerReachable, VersionNotOffered, VersionWithdrawn
from shardcast.nodes.client import Client
from shardcast.nodes.origin import Origin
from shardcast.transfer.limits import Limits
from tests.support import processes
from tests.support.bad_servers import dead_address
from tests.support.processes import reserved_port

QUICK = Limits(unreachable_at_start=0.1)


def payload(folder: Path) -> Path:
    path = folder / "payload.bin"
    path.write_bytes(b"payload" * 1000)
    return path


@pytest.mark.parametrize("version", ["latest", "v1"])
async def test_a_version_that_comes_later_is_waited_for(tmp_path: Path, version: str) -> None:
    async with (
        Origin.running(tmp_path / "d", "127.0.0.1", 0) as origin,
        Client([origin.url], tmp_path / "out") as client,
    ):
        waiting = asyncio.ensure_future(client.download(version, wait=math.inf))
        while not client.waits.now(0.5):
            assert not waiting.done()
            await asyncio.sleep(0.02)
        assert "to be on offer at" in str(client.waits.now())
        await (await origin.publish(payload(tmp_path))).result()
        release = await asyncio.wait_for(waiting, 30)
    assert release.version == "v1"
    assert release.path.read_bytes() == b"payload" * 1000


async def test_a_server_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    with reserved_port() as port:
        async with Client([f"127.0.0.1:{port}"], tmp_path / "out", QUICK) as client:
            waiting = asyncio.ensure_future(client.download(wait=60))
            while not client.waits.now(0.5):
                assert not waiting.done()
                await asyncio.sleep(0.02)
            async with Origin.running(tmp_path / "d", "127.0.0.1", port) as origin:
                await (await origin.publish(payload(tmp_path))).result()
                assert (await asyncio.wait_for(waiting, 40)).version == "v1"


async def test_the_wait_ends(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "d", "127.0.0.1", 0) as origin, Client([origin.url]) as client:
        started = time.monotonic()
        with pytest.raises(VersionNotOffered):
            await client.download("v7", wait=0.5)
        assert 0.4 < time.monotonic() - started < 20
    with dead_address() as gone:
        async with Client([gone], limits=QUICK) as client:
            with pytest.raises(NoServerReachable):
                await client.download("v7", wait=0.5)


async def test_a_withdrawn_version_is_not_waited_for(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "d", "127.0.0.1", 0) as origin,
        Client([origin.url], tmp_path / "out") as client,
    ):
        await (await origin.publish(payload(tmp_path))).result()
        await origin.folders.withdraw_own("v1", "")
        with pytest.raises(VersionWithdrawn):
            await asyncio.wait_for(client.download("v1", wait=math.inf), 30)


def test_the_command_waits_and_says_so(tmp_path: Path) -> None:
    with dead_address() as gone:
        words = ("client", "--servers", gone, "--version", "latest", "--output-dir", str(tmp_path))
        done = processes.run(*words, "--wait", "2.5s", env={"SHARDCAST_UNREACHABLE_AT_START": "0.1"})
    assert done.returncode == 4
    assert "waiting for an answer of" in done.stderr


@pytest.mark.parametrize(
    "words", [("--list", "--wait", "3"), ("--follow", "--wait"), ("--version", "v1", "--wait", "x")]
)
def test_wrong_words_are_usage_errors(words: tuple[str, ...]) -> None:
    done = processes.run("client", "--servers", "127.0.0.1:9", *words)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
