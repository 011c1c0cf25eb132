"""Nobody looks at a silent terminal for long: what a client waits for is told within 3 s."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest

from shardcast.cli.waiting import NOTE_AFTER, note_waits
from shardcast.concurrency import cancel
from shardcast.nodes.client import Client
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from shardcast.waits import Wait, Waits
from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, dead_address
from tests.support.published import Published, publish, random_bytes, sha256

MB = 1_000_000
WAITING = re.compile(r"waiting for (.*), for ([0-9]+) s now")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(3 * MB), MB)


COMMANDS: dict[str, tuple[str, ...]] = {
    "list": ("--list",),
    "download": ("--version", "latest"),
    "follow": ("--follow",),
}


def first_wait(server: str, words: tuple[str, ...], folder: Path) -> re.Match[str] | None:
    """The first line of a client that says what it waits for; then it is killed."""
    process = processes.Popen(
        processes.command("client", "--servers", server, "--output-dir", str(folder), *words),
        env=processes.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr
        try:
            return next(filter(None, map(WAITING.search, process.stderr)), None)
        finally:
            process.kill()


def test_every_command_notes_its_waits(published: Published, tmp_path: Path) -> None:
    with (
        BadServer(published.data_dir).set("*", bad.silent()) as silent,
        ThreadPoolExecutor(len(COMMANDS)) as pool,
    ):
        told = {
            command: pool.submit(first_wait, silent.address, words, tmp_path / command)
            for command, words in COMMANDS.items()
        }
        for command in COMMANDS:
            found = told[command].result()
            assert found, f"{command}: nothing was told"
            assert found[1].startswith(f"an answer of {silent.url} (no answer yet"), found[0]
            assert int(found[2]) <= 3, found[0]


async def told_first(server: str, command: str, folder: Path) -> str:
    """What a client that does this is said to wait for at first."""
    notes: asyncio.Queue[str] = asyncio.Queue()

    async def carry_out(client: Client) -> None:
        if command == "list":
            await client.offered()
        elif command == "download":
            await client.download()
        else:
            async with aclosing(client.follow()) as releases:
                async for _ in releases:
                    pass

    async with Client([server], folder) as client:
        tasks = [
            asyncio.ensure_future(carry_out(client)),
            asyncio.ensure_future(note_waits(client.waits, notes.put_nowait)),
        ]
        try:
            return await asyncio.wait_for(notes.get(), 30)
        finally:
            await cancel(tasks)


async def test_waits_at_dead_and_hostile_servers_are_noted(published: Published, tmp_path: Path) -> None:
    with (
        dead_address() as dead,
        BadServer(published.data_dir).set("*", bad.silent()) as silent,
        BadServer(published.data_dir).set("/v1/manifest.jsonl", bad.silent()) as no_manifest,
        BadServer(published.data_dir).set("/v1/shard_*", bad.silent()) as no_shards,
    ):
        cases: dict[tuple[str, str], str] = {}
        for command in COMMANDS:
            cases[f"http://{dead}", command] = rf"an answer of http://{dead} \(.*no connection"
            cases[silent.url, command] = rf"an answer of {silent.url} \(no answer yet"
            cases[no_manifest.url, command] = rf"the manifest of v1 from {no_manifest.url}"
            cases[no_shards.url, command] = rf"bytes of v1 from {no_shards.url}"
        cases[no_manifest.url, "list"] = rf"manifests from {no_manifest.url}"
        del cases[no_shards.url, "list"]
        told = await asyncio.gather(*(told_first(*case, tmp_path / f"{at}") for at, case in enumerate(cases)))
    for note, (case, said) in zip(told, cases.items(), strict=True):
        found = WAITING.fullmatch(note)
        assert found and re.match(said, found[1]), (case, note)


def test_quiet_prints_no_waits(tmp_path: Path) -> None:
    with dead_address() as dead:
        done = processes.run(
            "client", "--servers", dead, "--list", "--quiet", env={"SHARDCAST_UNREACHABLE_AT_START": "2.3"}
        )
    assert done.returncode == 4
    assert "waiting" not in done.stderr


async def test_outage_during_download_is_noted(published: Published, tmp_path: Path) -> None:
    transfers, notes = list[Transfer](), list[str]()
    with BadServer(published.data_dir) as server:
        server.set("/v1/shard_002.bin", bad.error(502))
        async with Client([server.url], limits=Limits(at_once=1)) as client:
            telling = asyncio.ensure_future(note_waits(client.waits, notes.append))
            getting = asyncio.ensure_future(client.download("v1", tmp_path / "got", transfers.append))
            while not notes:
                await asyncio.sleep(0.05)
                assert not getting.done()
            assert transfers[0].progress.done, "it had not begun"
            server.set("/v1/shard_002.bin", bad.good())
            release = await asyncio.wait_for(getting, 30)
            while len(notes) < 2:
                await asyncio.sleep(0.05)
            telling.cancel()
    assert sha256(release.path) == published.sha256
    assert re.match(rf"waiting for v1: {server.url}: GET /v1/shard_002.bin: .* 502", notes[0])
    assert re.fullmatch(r"continuing, after [0-9]+ seconds?", notes[1])


class Time:
    """A clock that only sleeping moves, and what happens at which second."""

    def __init__(self, until: float, events: dict[float, Callable[[], None]]) -> None:
        self.now, self.until, self.events = 0.0, until, events

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at in [at for at in self.events if at <= self.now]:
            self.events.pop(at)()
        if self.now >= self.until:
            raise asyncio.CancelledError


async def test_wait_is_noted_once_and_again_when_long() -> None:
    notes: list[tuple[float, str]] = []
    time = Time(80.0, {})
    waits = Waits(time.clock)
    with waits.waiting(lambda: "the manifest"), pytest.raises(asyncio.CancelledError):
        await note_waits(waits, lambda text: notes.append((time.now, text)), time.sleep)
    assert [at for at, _ in notes] == [2.0, 32.0, 62.0]
    assert notes[1][1] == "waiting for the manifest, for 32 s now"


async def test_idle_wait_is_noted_once() -> None:
    notes: list[str] = []
    time = Time(80.0, {})
    waits = Waits(time.clock)
    began = 0.0

    def source() -> Wait:
        nonlocal began
        if time.now - began > 30.0:
            began = time.now  # as a follower's wait does at each of its looks
        return Wait(time.now - began, "the next version", is_idle=True)

    with waits.watching(source), pytest.raises(asyncio.CancelledError):
        await note_waits(waits, notes.append, time.sleep)
    assert notes == ["waiting for the next version"]


async def test_follower_says_what_it_waits_for(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir) as server:
        url, notes = server.url, asyncio.Queue[str]()
        async with Client([url], tmp_path) as client:

            async def follow(first: str) -> None:
                async with aclosing(client.follow(first)) as releases:
                    async for _ in releases:
                        pass

            telling = asyncio.ensure_future(note_waits(client.waits, notes.put_nowait))
            for first, what in (("v9", "v9, or the next version after it,"), ("v1", "v1, or the next")):
                following = asyncio.ensure_future(follow(first))
                note = await asyncio.wait_for(notes.get(), 30)
                assert note.startswith(f"waiting for {what}") and note.endswith("the newest on offer is v1")
                await cancel([following])
            await cancel([telling])


async def test_short_waits_are_not_noted() -> None:
    time, notes = Time(20.0, {}), list[str]()
    waits = Waits(time.clock)
    with waits.watching(lambda: Wait(time.now % 1.9, "a byte")), pytest.raises(asyncio.CancelledError):
        await note_waits(waits, notes.append, time.sleep)
    assert NOTE_AFTER <= 3 and not notes


def test_latest_wait_is_the_one_noted() -> None:
    now = 0.0
    waits = Waits(lambda: now)
    with waits.waiting(lambda: "the server"):
        now = 5.0
        with waits.waiting(lambda: "the manifest"):
            assert waits.now(1.0) == Wait(5.0, "the server")
            now = 6.0
            assert waits.now(1.0) == Wait(1.0, "the manifest")
        assert waits.now() == Wait(6.0, "the server")
    assert waits.now() is None
