"""Versions that are pinned: on whatever runs in their data directory, over restarts and kills."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardcast.constants import LONGEST_HOLD
from shardcast.control import client as control
from shardcast.control.client import ControlConnection, change_pin
from shardcast.errors import VersionNotOffered
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.store import pins
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import BLOCK
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support import payloads, processes
from tests.support.payloads import manifest, publish, random_bytes
from tests.support.processes import wait_until
from tests.support.published import publish as publish_here

HTTP = "127.0.0.1", 0
USAGE, NOT_OFFERED, LOCAL_DISK, OTHER = 2, 3, 6, 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def command(words: str, data_dir: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """``shardcast WORDS --data-dir DATA_DIR``."""
    done = processes.run(*words.split(), "--data-dir", str(data_dir), **options)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done


def status(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/status", timeout=10) as answer:
        return json.load(answer)


def held(url: str) -> dict[str, list[str]]:
    """The kinds of holds of each complete version, as a node tells."""
    complete = [one for one in status(url)["versions"] if one["state"] == "complete"]
    return {one["version"]: [hold["kind"] for hold in one["held"]] for one in complete}


@contextlib.contextmanager
def taken(data_dir: Path, role: str = "origin") -> Iterator[DataDir]:
    directory = DataDir(data_dir, role)
    try:
        yield directory
    finally:
        directory.close()


@contextlib.contextmanager
def folders(
    data_dir: Path,
    keep: int = 1,
    clock: Clock | None = None,
    max_bytes: int | None = None,
    resume: bool = False,
) -> Iterator[VersionFolders]:
    """What a node does with a data directory, without the node."""
    with taken(data_dir) as directory:
        found = VersionFolders(directory, keep, clock or Clock(), max_bytes)
        found.load(resume)
        yield found


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with v1 and v2, on which nothing runs."""

    async def fill() -> None:
        with folders(tmp_path / "data", keep=15) as found:
            await publish(found, b"one")
            await publish(found, b"two")

    asyncio.run(fill())
    return tmp_path / "data"


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("payload") / "model.bin"
    file.write_bytes(random_bytes(10_000))
    return file


def broadcast(payload: Path, data_dir: Path) -> str:
    """As ``shardcast broadcast`` does it beside an origin."""
    *_, last = control.publish(data_dir, payload)
    return str(last["complete"])


# The commands ----------------------------------------------------------------------------------------


def test_pinned_version_of_origin_survives_newer_ones_and_kills(payload: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with processes.origin(data, "--keep", "1") as origin:
        assert broadcast(payload, data) == "v1"
        done = command("pin v1", data)
        assert done.returncode == 0
        assert "v1 is pinned" in done.stderr
        assert held(origin.url) == {"v1": ["pin"]}
        assert status(origin.url)["versions"][0]["held"] == [
            {"kind": "pin", "by": "this machine", "seconds": None}
        ]
        broadcast(payload, data)
        broadcast(payload, data)
        assert held(origin.url) == {"v1": ["pin"], "v3": []}
        origin.kill()
    assert publish_here(data, b"four", 100).version == "v4"  # without an origin it stays as well
    with processes.origin(data, "--keep", "1") as origin:
        assert held(origin.url) == {"v1": ["pin"], "v4": []}
        done = command("unpin v1", data)
        assert done.returncode == 0
        assert "no longer pinned" in done.stderr
        assert held(origin.url) == {"v4": []}  # at once
        assert not (data / "v1").exists()
        assert command("unpin v1", data).returncode == NOT_OFFERED
        assert command("pin v1", data).returncode == NOT_OFFERED


def test_pin_at_middle_keeps_version_only_there(payload: Path, tmp_path: Path) -> None:
    with (
        processes.origin(tmp_path / "origin") as origin,
        processes.middle(origin.url, tmp_path / "m", "--keep", "1") as middle,
    ):
        broadcast(payload, tmp_path / "origin")
        wait_until(lambda: set(held(middle.url)) == {"v1"}, what="v1")
        assert command("pin v1", tmp_path / "m").returncode == 0
        broadcast(payload, tmp_path / "origin")
        wait_until(lambda: held(middle.url) == {"v1": ["pin"], "v2": []}, what="v2")
        assert "pin" not in held(origin.url)["v1"]
        assert command("unpin v1", tmp_path / "m").returncode == 0
        assert held(middle.url) == {"v2": []}


def test_pin_works_without_a_node(data_dir: Path, tmp_path: Path) -> None:
    assert command("pin v1", data_dir).returncode == 0
    assert command("pin v1", data_dir).returncode == 0  # twice is no mistake
    with processes.origin(data_dir, "--keep", "1") as origin:
        assert held(origin.url) == {"v1": ["pin"], "v2": []}
    assert command("unpin v1", data_dir).returncode == 0
    with processes.origin(data_dir, "--keep", "1") as origin:
        assert held(origin.url) == {"v2": []}


def test_pin_waits_for_starting_node(data_dir: Path) -> None:
    """It has the directory, and does not listen on its socket yet."""
    with taken(data_dir):
        waiting = processes.Popen(
            processes.command("pin", "v1", "--data-dir", str(data_dir)),
            env=processes.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
    _, told = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, told
    with taken(data_dir) as directory:
        assert pins.pinned(directory) == {1}


@pytest.mark.parametrize(
    ("word", "version", "code"),
    [
        ("pin", "v3", NOT_OFFERED),
        ("unpin", "v3", NOT_OFFERED),
        ("pin", "v0", USAGE),
        ("pin", "../v1", USAGE),
        ("unpin", "latest", USAGE),
    ],
)
def test_pin_of_missing_version_is_refused(word: str, version: str, code: int, data_dir: Path) -> None:
    done = command(f"{word} {version}", data_dir)
    assert done.returncode == code
    assert version in done.stderr
    if code == NOT_OFFERED:
        assert ("v1, v2" if word == "pin" else "nothing") in done.stderr  # what could be


def test_missing_directory_is_reported_and_not_made(tmp_path: Path) -> None:
    done = command("pin v1", tmp_path / "nowhere")
    assert done.returncode == LOCAL_DISK
    assert "nowhere" in done.stderr
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_bytes(b"")
    assert command("pin v1", tmp_path / "file").returncode == LOCAL_DISK


def test_foreign_directory_is_left_unchanged(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    for word in ("pin", "unpin"):
        assert command(f"{word} v1", home).returncode == LOCAL_DISK
        assert [entry.name for entry in home.iterdir()] == ["letter.txt"]


def list_is_nonsense(data_dir: Path) -> None:
    (data_dir / "distribution.txt").write_bytes(bytes((1 << 20) + 1))


def list_is_a_folder(data_dir: Path) -> None:
    (data_dir / "distribution.txt").unlink()
    (data_dir / "distribution.txt").mkdir()


def pins_are_a_file(data_dir: Path) -> None:
    shutil.rmtree(data_dir / ".shardcast" / "pinned")
    (data_dir / ".shardcast" / "pinned").write_text("")


def the_pin_is_a_folder(data_dir: Path) -> None:
    (data_dir / ".shardcast" / "pinned" / "v1").mkdir()


@pytest.mark.parametrize("broken", [list_is_nonsense, list_is_a_folder, pins_are_a_file, the_pin_is_a_folder])
def test_broken_directory_is_reported(broken: Any, data_dir: Path) -> None:
    broken(data_dir)
    done = command("pin v1", data_dir)
    assert done.returncode == LOCAL_DISK
    assert str(data_dir) in done.stderr


def test_file_without_version_name_is_no_pin(data_dir: Path) -> None:
    for name in ("v1.part", "v0", "notes", "v9"):
        (data_dir / ".shardcast" / "pinned" / name).touch()
    with folders(data_dir, keep=15) as found:
        assert found.holds.pinned == set()


@pytest.mark.root
def test_directory_of_another_user_is_reported(data_dir: Path) -> None:
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can be somebody else")
    script = (
        "import sys; from pathlib import Path; from shardcast.store.data_dir import DataDir\n"
        "from shardcast.errors import LocalDiskError\n"
        "try: DataDir(Path(sys.argv[1]), 'pin')\n"
        "except LocalDiskError as error: print(error)\n"
    )
    for folder in [data_dir, *data_dir.parents[:-1]]:
        if "pytest" in str(folder):
            folder.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", processes.command()[0], "-c", script, str(data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "No module named" in done.stderr or "can't open" in done.stderr or done.returncode == 126:
        pytest.skip("nobody else can run this interpreter")
    assert "ermission" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# The door -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"7", 400),
        (b"{}", 400),
        (b'{"version": "../../etc"}', 200),
        (b'{"version": null}', 200),
        (b'{"version": ["v1"]}', 200),
        (b'{"version": "v' + b"9" * 10_000 + b'"}', 200),
    ],
)
async def test_malformed_request_pins_nothing(body: bytes, code: int, tmp_path: Path) -> None:
    def ask(path: str) -> tuple[int, bytes]:
        connection = ControlConnection(tmp_path / "data")
        with contextlib.closing(connection):
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    async with Origin.running(tmp_path / "data", *HTTP) as origin:
        await publish(origin.folders, b"one")
        for path in ("/pin", "/unpin"):
            answered, told = await asyncio.to_thread(ask, path)
            assert answered == code
            assert code == 400 or json.loads(told)["error"]["kind"] == "VersionNotOffered"
        assert not origin.folders.holds.pinned
        assert [one.name for one in (tmp_path / "data" / ".shardcast" / "pinned").iterdir()] == []


async def test_pin_route_is_not_reachable_over_tcp(tmp_path: Path) -> None:
    def ask(url: str, path: str) -> int:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", path, b'{"version": "v1"}', {"Content-Type": "application/json"})
            return connection.getresponse().status

    async with (
        Origin.running(tmp_path / "data", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP) as middle,
    ):
        await publish(origin.folders, b"one")
        for node in (origin, middle):
            for path in ("/pin", "/unpin"):
                assert await asyncio.to_thread(ask, node.url, path) in (404, 405)
            assert not node.folders.holds.pinned


# How long they stay -----------------------------------------------------------------------------------


async def test_pinned_version_survives_count_bytes_and_time_limits(tmp_path: Path) -> None:
    clock = Clock()
    with folders(tmp_path / "data", keep=1, clock=clock, max_bytes=10 * BLOCK) as found:
        await publish(found, bytes(4 * BLOCK))
        await found.pin("v1")
        await publish(found, bytes(4 * BLOCK - 1))
        await found.begin_version(9)
        await found.quota.claim(9, 5 * BLOCK)
        assert found.complete_numbers == {1}
        clock.now += 100 * LONGEST_HOLD
        await found.tidy()
        await found.retire(1)
        assert found.complete_numbers == {1}
        assert payloads.read_shards(tmp_path / "data" / "v1") == bytes(4 * BLOCK)


async def test_unpinned_version_within_retention_stays(tmp_path: Path) -> None:
    with folders(tmp_path / "data", keep=2) as found:
        await publish(found, b"one")
        await publish(found, b"two")
        await found.pin("v1")
        await found.unpin("v1")
        assert found.complete_numbers == {1, 2}
        await publish(found, b"three")
        assert found.complete_numbers == {2, 3}


async def test_reader_of_unpinned_version_holds_it(tmp_path: Path) -> None:
    clock = Clock()
    with folders(tmp_path / "data", keep=1, clock=clock) as found:
        await publish(found, b"one")
        await found.pin("v1")
        await publish(found, b"two")
        with found.leased("v1", "somebody"):
            clock.now += 2 * LONGEST_HOLD
            await found.unpin("v1")
            assert found.complete_numbers == {1, 2}
            clock.now += LONGEST_HOLD
            await found.tidy()
            assert found.complete_numbers == {2}


async def test_only_complete_versions_can_be_pinned(tmp_path: Path) -> None:
    with folders(tmp_path / "data") as found:
        await found.begin_version(7, LiveManifest.of(manifest(b"seven", "v7")))
        with pytest.raises(VersionNotOffered, match="v7 is not complete"):
            await found.pin("v7")
        assert not found.holds.pinned


async def test_pin_in_stopped_middle_keeps_open_versions(tmp_path: Path) -> None:
    data, made = random_bytes(3 * payloads.SHARD), tmp_path / "data"
    described = manifest(data, "v2")
    with folders(made, resume=True) as found:
        await publish(found, b"one")
        opened = await found.begin_version(2, LiveManifest.of(described))
        landing = await opened.landing(described.shards[0])
        await landing.land(0, data[: payloads.SHARD])
        await opened.commit_shard(landing)
        landing.close()
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file() and file.name != "lock"}
    for word in ("pin", "unpin", "pin"):
        assert command(f"{word} v1", made).returncode == 0
    after = {file: file.read_bytes() for file in made.rglob("*") if file.is_file() and file.name != "lock"}
    assert after.pop(made / ".shardcast" / "pinned" / "v1") == b""
    assert after == before
    with folders(made, resume=True) as found:
        assert found.verified_counts("v2") == (1, payloads.SHARD)


async def test_version_of_0_1_0_can_be_pinned_before_import(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "v1").mkdir(parents=True)
    (data / "v1" / "shard_001.bin").write_bytes(b"one")
    (data / "distribution.txt").write_text(f"v1: {payloads.sha256(b'one')}|1\n")
    with taken(data) as directory:
        pins.pin(directory, "v1")
    async with (
        Origin.running(tmp_path / "origin", *HTTP) as origin,
        Middle.running([origin.url], data, *HTTP, keep=1) as middle,
    ):
        origin.folders.data_dir.mark_used(1)
        await publish(origin.folders, b"two")
        await publish(origin.folders, b"three")
        deadline = asyncio.get_running_loop().time() + 30
        while 3 not in middle.folders.complete_numbers or middle.folders.untrusted:
            assert asyncio.get_running_loop().time() < deadline, middle.folders.complete_numbers
            await asyncio.sleep(0.01)
        await middle.folders.tidy()
        assert {1, 3} <= middle.folders.complete_numbers


# Races ---------------------------------------------------------------------------------------------


async def test_acknowledged_pin_keeps_version_at_any_timing(tmp_path: Path) -> None:
    """Each version is pinned at the moments around which the next one retires it."""
    pinned: set[int] = set()
    refused = 0
    async with Origin.running(tmp_path / "data", *HTTP, keep=1) as origin:
        ended = threading.Event()
        newest = 0

        def pin_on() -> None:
            nonlocal refused
            while not ended.is_set():
                number = newest
                if number in pinned or not number:
                    time.sleep(0.0005)
                    continue
                try:
                    change_pin(tmp_path / "data", f"v{number}", pinned=True)
                    pinned.add(number)
                    if number % 3 == 0:
                        change_pin(tmp_path / "data", f"v{number}", pinned=False)
                        pinned.discard(number)
                except VersionNotOffered:
                    refused += 1

        threads = [threading.Thread(target=pin_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, 31):
                await publish(origin.folders, b"%d" % number)
                newest = number
                if number % 2:
                    await asyncio.sleep(0.005)
        finally:
            ended.set()
            for thread in threads:
                await asyncio.to_thread(thread.join)
        await origin.folders.tidy()
        kept = {number for number in pinned if number % 3}
        assert kept
        assert kept <= origin.folders.complete_numbers
        for number in kept:
            assert (tmp_path / "data" / f"v{number}" / "shard_001.bin").read_bytes() == b"%d" % number
        assert kept <= origin.folders.holds.pinned
    with folders(tmp_path / "data") as found:
        assert kept <= found.complete_numbers
