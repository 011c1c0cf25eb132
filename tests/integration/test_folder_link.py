"""Folders that are published without a copy: large files are served as they lie, until they are changed."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from random import Random

import pytest

from shardcast.errors import PayloadChanged, VersionNotOffered
from shardcast.folders import payload
from shardcast.nodes.client import Client
from shardcast.nodes.origin import Origin
from shardcast.store import version_place
from tests.support import processes
from tests.support.folder_trees import read_tree
from tests.support.processes import wait_until

MIB = 1 << 20
SHARD = MIB
SETTLED = 3.0
"""Seconds after which a file that was written counts as settled on every file system."""


@pytest.fixture(autouse=True)
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_place, "clone_open", lambda source, copy: False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root, random = tmp_path / "model", Random(5)
    (root / "weights").mkdir(parents=True)
    (root / "weights" / "a.bin").write_bytes(random.randbytes(2 * MIB + 7))
    (root / "weights" / "b.bin").write_bytes(random.randbytes(MIB))
    (root / "weights" / "same.bin").hardlink_to(root / "weights" / "b.bin")
    (root / "config.json").write_bytes(b"{}")
    long_ago = time.time_ns() - int(SETTLED * 1e9)
    for file in root.rglob("*.*"):
        os.utime(file, ns=(long_ago, long_ago))
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The paths of files that are opened to be read while a folder is published."""
    found: list[bytes] = []
    opened = payload._OpenFile._open

    def note(self: payload._OpenFile, index: int, path: bytes) -> int:
        found.append(path)
        return opened(self, index, path)

    monkeypatch.setattr(payload._OpenFile, "_open", note)
    return found


async def publish(origin: Origin, folder: Path, *, copy: bool = False) -> str:
    broadcast = await origin.publish(folder, SHARD, copy=copy)
    await broadcast.result()
    return broadcast.version


async def fetch(origin: Origin, version: str, output: Path) -> Path:
    async with Client([origin.url]) as client:
        return (await client.download(version, output)).path


def change(file: Path) -> None:
    """One byte, in place, and the time that says so."""
    with file.open("r+b") as opened:
        opened.write(b"\0")
    os.utime(file, ns=(1, 1))


async def test_large_files_are_linked_and_the_folder_comes_back(model: Path, tmp_path: Path) -> None:
    before = read_tree(model)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, model)
        assert read_tree(await fetch(origin, version, tmp_path / "got")) == before
        digest = origin.folders.listings[0].digest
        assert await publish(origin, model, copy=True) == "v2"
        assert origin.folders.listings[1].digest == digest
    names = {entry.name for entry in (tmp_path / "data" / version).iterdir()}
    assert names == {
        "manifest.jsonl", "shard_001.bin", "payload_002", "shard_005.bin", "payload_006", "shard_007.bin"
    }  # fmt: skip
    assert (model / "weights" / "a.bin").samefile(tmp_path / "data" / version / "payload_002")
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        assert read_tree(await fetch(origin, version, tmp_path / "again")) == before


@pytest.mark.parametrize("restart", [False, True])
async def test_writing_to_a_linked_file_retires_the_version(
    restart: bool, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_dir, file = tmp_path / "data", model / "weights" / "b.bin"
    async with Origin.running(data_dir, "127.0.0.1", 0) as origin:
        version = await publish(origin, model)
        if not restart:
            change(file)
            assert origin.folders.shard(version, 6) is None
            while origin.folders.listings or (data_dir / version).exists():
                await asyncio.sleep(0.01)
    if restart:
        change(file)
    async with Origin.running(data_dir, "127.0.0.1", 0) as origin:
        with pytest.raises(VersionNotOffered):
            await fetch(origin, version, tmp_path / "got")
    assert "changed after it was published without a copy" in caplog.text
    assert file.exists()


async def test_touched_file_is_hashed_and_served_again(model: Path, tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, model)
        os.utime(model / "weights" / "a.bin", ns=(1, 1))
        assert origin.folders.shard(version, 3) is None
        while origin.folders.in_doubt(version):
            await asyncio.sleep(0.01)
        span = origin.folders.shard(version, 3)
        assert span and span.offset == SHARD
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    async with Origin.running(tmp_path / "moved", "127.0.0.1", 0) as origin:
        assert origin.folders.shard(version, 3)


async def test_our_own_links_and_unlinks_let_nothing_be_read_again(
    model: Path, tmp_path: Path, read: list[bytes]
) -> None:
    await asyncio.sleep(SETTLED if model.stat().st_ctime_ns % 10**9 == 0 else 0.1)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0, keep=1) as origin:
        await publish(origin, model)
        assert read
        for _ in range(3):  # each links all files once more, and removes the links of the version before
            read.clear()
            await publish(origin, model)
            while any((tmp_path / "data" / ".shardcast" / "retired").iterdir()):
                await asyncio.sleep(0.01)
            assert not read
        change(model / "weights" / "b.bin")
        await publish(origin, model)
        assert read
        assert read_tree(await fetch(origin, "latest", tmp_path / "got")) == read_tree(model)


async def test_record_forgets_what_was_written_before_our_unlink(
    model: Path, tmp_path: Path, read: list[bytes]
) -> None:
    file = model / "weights" / "a.bin"
    found = file.stat()
    await asyncio.sleep(0.1)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        await publish(origin, model)
        await publish(origin, model)
        read.clear()
        file.write_bytes(bytes(found.st_size))
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))  # the ctime alone tells
        await origin.folders.retire(1)
        await publish(origin, model)
        assert b"weights/a.bin" in read
        assert read_tree(await fetch(origin, "v3", tmp_path / "got")) == read_tree(model)


async def test_file_that_is_written_to_after_its_link_aborts_the_version(model: Path, tmp_path: Path) -> None:
    before = read_tree(model)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:

        async def write() -> None:
            change(model / "weights" / "a.bin")

        broadcast = await origin.publish(model, SHARD, copy=False, confirm=write)
        with pytest.raises(PayloadChanged, match="was changed or replaced since its hashing"):
            await broadcast.result()
        assert origin.folders.listings == ()
        assert not (tmp_path / "data" / "v1").exists()
    assert read_tree(model).keys() == before.keys()


async def test_files_that_cannot_be_linked_are_copied(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(version_place.VersionPlace, "adopt_open", lambda *_: False)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, model)
        assert read_tree(await fetch(origin, version, tmp_path / "got")) == read_tree(model)
    assert not list((tmp_path / "data" / version).glob("payload*"))
    assert "2 files of" in caplog.text and "are copied" in caplog.text


def test_killed_origin_leaves_the_files_and_publishes_again(model: Path, tmp_path: Path) -> None:
    before, data = read_tree(model), tmp_path / "data"
    with (model / "weights" / "z.bin").open("wb") as file:
        file.truncate(1 << 30)
    with processes.origin(data, fork=False) as origin:
        words = processes.command("broadcast", str(model), "--data-dir", str(data), "--link")
        with processes.Popen(words, env=processes.environment()) as broadcast:
            wait_until(lambda: list(data.glob("v1/payload_*")))
            origin.process.kill()
            assert broadcast.wait() == 1
    (model / "weights" / "z.bin").unlink()
    done = processes.run("broadcast", str(model), "--data-dir", str(data), "--link")
    assert (done.stdout, done.returncode) == ("v2\n", 0), done.stderr
    assert "copied" not in done.stderr
    assert not (data / "v1").exists()
    assert read_tree(model) == before
