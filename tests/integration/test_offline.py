"""Versions that are here already: taken at once beside a server, and with ``offline`` without any."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from shardcast import Client, ClientNode, NoServerReachable, OriginServer, UsageError
from shardcast.folders.options import FolderOptions
from shardcast.nodes.local_versions import find_local
from shardcast.transfer.limits import Limits
from tests.support import processes
from tests.support.bad_servers import dead_address
from tests.support.published import random_bytes

SIZE = 300_000
IMPATIENT = Limits(unreachable_at_start=0.1)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OriginServer]:
    place = tmp_path_factory.mktemp("origin")
    running = OriginServer(place / "data", 0)
    for number, tags in ((1, ["best"]), (2, ["step-2"])):
        file = place / "model.pt"
        file.write_bytes(random_bytes(SIZE, number))
        running.broadcast(file, 100_000, tags=tags, metadata={"loss": number})
    folder = place / "checkpoint"
    folder.mkdir()
    (folder / "a.bin").write_bytes(random_bytes(SIZE, 3))
    running.broadcast(folder, 100_000)
    yield running
    running.shutdown(wait=0)


@pytest.fixture
def dead() -> Iterator[str]:
    with dead_address() as address:
        yield f"http://{address}"


async def keep(origin: OriginServer, folder: Path, *versions: str) -> None:
    """Download versions with records for later calls without a server."""
    async with Client(origin.url, folder) as client:
        for version in versions:
            assert not (await client.download(version, offline=True)).offline


async def test_verified_version_is_given_when_no_server_answers(
    origin: OriginServer, dead: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await keep(origin, tmp_path, "v2", "v1")
    async with Client(dead, tmp_path) as client:
        for name, version in (("latest", "v2"), ("v1", "v1"), ("best", "v1"), ("step-2", "v2")):
            release = await client.download(name, offline=True)
            assert (release.version, release.offline, release.received) == (version, True, {})
            assert release.path == tmp_path / f"download_{version}.bin"
            assert release.manifest.header.name == "model.pt"
            assert release.metadata["loss"] == release.number
        assert "v2 is not checked against a server" in caplog.text
        for missing in ("v3", "worst"):
            with pytest.raises(NoServerReachable, match=f"no verified {missing} is here"):
                await client.download(missing, offline=True)
    node = ClientNode(dead, tmp_path)
    assert node.download_version("best", offline=True) == str(tmp_path / "download_v1.bin")


async def test_without_offline_the_error_says_what_is_here(
    origin: OriginServer, dead: str, tmp_path: Path
) -> None:
    await keep(origin, tmp_path, "v1")
    async with Client(dead, tmp_path, IMPATIENT) as client:
        with pytest.raises(NoServerReachable, match=r"v1 is here, verified: --offline \(offline=True\)"):
            await client.download("latest")
        with pytest.raises(NoServerReachable) as error:
            await client.download("v2")
        assert "offline" not in str(error.value)


def rewrite(file: Path) -> None:
    """Change a byte, and put size and mtime back."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"\0")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    """Put another file with the same bytes and times in its place."""
    before = file.stat()
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


def change_permissions(file: Path) -> None:
    file.chmod(0o600)


def remove_manifest(file: Path) -> None:
    file.with_name(f".{file.name}.manifest").unlink()


def swap_manifest(file: Path) -> None:
    file.with_name(".download_v2.bin.manifest").replace(file.with_name(f".{file.name}.manifest"))


def damage_manifest(file: Path) -> None:
    file.with_name(f".{file.name}.manifest").write_bytes(b"{}\n")


def change_record(file: Path, **values: object) -> None:
    place = file.with_name(f".{file.name}.record")
    record = {**json.loads(place.read_text()), **values}
    place.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def forget_ctime(file: Path) -> None:
    """Leave the record that an earlier version wrote."""
    change_record(file, ctime_ns=None)


def withdraw(file: Path) -> None:
    change_record(file, withdrawn=True)


@pytest.mark.parametrize(
    "touch",
    [
        rewrite, replace, change_permissions, os.remove, remove_manifest, swap_manifest, damage_manifest,
        forget_ctime, withdraw,
    ],
)  # fmt: skip
async def test_touched_outputs_do_not_count(
    touch: Callable[[Path], object], origin: OriginServer, tmp_path: Path
) -> None:
    await keep(origin, tmp_path, "v1", "v2")
    touch(tmp_path / "download_v1.bin")
    assert find_local(tmp_path, "v1") is None
    assert find_local(tmp_path, "best") is None
    other = find_local(tmp_path, "latest")
    assert other is None if touch is swap_manifest else other and other.path.name == "download_v2.bin"


@pytest.mark.parametrize("offline", [False, True])
async def test_untouched_output_is_taken_at_once_when_a_server_tells_its_digest(
    offline: bool, origin: OriginServer, tmp_path: Path
) -> None:
    await keep(origin, tmp_path, "v1")
    file, told = tmp_path / "download_v1.bin", []
    before = file.stat()
    async with Client(origin.url, tmp_path) as client:
        release = await client.download("v1", offline=offline, progress=told.append)
        assert (release.received, release.offline) == ({}, False)
        assert file.stat().st_ctime_ns == before.st_ctime_ns, "it is the very file"
        assert [(one.done, one.size) for one in told] == [(SIZE, SIZE)]
        rewrite(file)
        await client.download("v1", offline=offline)
        assert file.read_bytes() == random_bytes(SIZE, 1)
        release = await client.download("v2", file, offline=offline)
        assert file.read_bytes() == random_bytes(SIZE, 2)
        assert release.received


async def test_whole_verification_reads_what_is_here(origin: OriginServer, dead: str, tmp_path: Path) -> None:
    await keep(origin, tmp_path, "v1")
    file = tmp_path / "download_v1.bin"
    before = file.stat().st_ino
    async with Client(origin.url, tmp_path, folders=FolderOptions(verify="whole")) as client:
        await client.download("v1")
        assert file.stat().st_ino != before
        with pytest.raises(UsageError, match="leave one of the two out"):
            await client.download("v1", offline=True)


async def test_server_that_takes_connections_without_an_answer_is_left_after_two_seconds(
    origin: OriginServer, tmp_path: Path
) -> None:
    await keep(origin, tmp_path, "v1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with Client(f"127.0.0.1:{silent.getsockname()[1]}", tmp_path) as client:
            started = time.monotonic()
            release = await client.download("latest", offline=True)
    assert release.offline
    assert 1.5 < time.monotonic() - started < 8


async def test_server_that_answers_goes_first(origin: OriginServer, dead: str, tmp_path: Path) -> None:
    await keep(origin, tmp_path, "v1")
    async with Client([dead, origin.url], tmp_path) as client:
        release = await client.download("v2", offline=True)
    assert (release.version, release.offline) == ("v2", False)


async def test_output_with_a_place_of_its_own_counts(origin: OriginServer, dead: str, tmp_path: Path) -> None:
    file = tmp_path / "models" / "model.pt"
    async with Client(origin.url, tmp_path) as client:
        await client.download("v1", file, offline=True)
    async with Client(dead, tmp_path, output_name="{version}/{name}") as client:
        for name in ("latest", "best", "v1"):
            release = await client.download(name, file, offline=True)
            assert (release.version, release.path) == ("v1", file)
        with pytest.raises(NoServerReachable, match="no verified v2"):
            await client.download("v2", file, offline=True)


async def test_named_outputs_and_folders_count(origin: OriginServer, dead: str, tmp_path: Path) -> None:
    async with Client(origin.url, tmp_path, output_name="{version}/{name}") as client:
        await client.download("v1", offline=True)
    await keep(origin, tmp_path, "v3")
    async with Client(dead, tmp_path) as client:
        release = await client.download("v1", offline=True)
        assert release.path == tmp_path / "v1" / "model.pt"
        release = await client.download("latest", offline=True)
        assert (release.path, len(release.files)) == (tmp_path / "v3", 1)
        rewrite(tmp_path / "v3" / "a.bin")
        assert (await client.download("latest", offline=True)).version == "v1"


async def test_followed_versions_count_until_they_are_removed(
    origin: OriginServer, dead: str, tmp_path: Path
) -> None:
    for name in (None, "{version}-{name}"):
        folder = tmp_path / str(name)
        async with (
            Client(origin.url, folder, output_name=name) as client,
            aclosing(client.follow("v1", every=True, keep=1)) as releases,
        ):
            async for release in releases:
                assert not release.offline
                async with Client(dead, folder) as other:
                    assert (await other.download("latest", offline=True)).path == release.path
                if release.version == "v3":
                    break
        left = {entry.name for entry in folder.iterdir() if entry.name.endswith(".manifest")}
        assert len(left) <= 2, f"the versions that went left their manifests: {left}"
        assert not {entry for entry in left if "v1" in entry}


def test_command_says_that_no_server_was_asked(origin: OriginServer, dead: str, tmp_path: Path) -> None:
    words = ("client", "--output-dir", str(tmp_path), "--version", "best", "--offline")
    done = processes.run(*words, "--servers", origin.url)
    assert done.returncode == 0, done.stderr
    assert "not checked" not in done.stderr
    done = processes.run(*words, "--servers", dead, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["version"], told["offline"], told["name"]) == ("v1", True, "model.pt")
    assert "v1 is not checked against a server: " in done.stderr
    done = processes.run("client", "--servers", dead, "--follow", "--offline")
    assert (done.returncode, "goes with --version" in done.stderr) == (2, True)
    done = processes.run(*words[:-2], "v9", "--offline", "--servers", dead)
    assert done.returncode == 4, done.stderr
    assert "no verified v9 is here" in done.stderr


def test_plain_download_leaves_nothing_beside_its_output(origin: OriginServer, tmp_path: Path) -> None:
    assert ClientNode(origin.url, tmp_path).download_version("v1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["download_v1.bin"]
