"""Publishing without a copy: the file itself is served, as long as it is what it was."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import shardcast
from shardcast.errors import PayloadChanged, VersionNotOffered
from shardcast.nodes.client import Client
from shardcast.nodes.origin import Origin
from shardcast.store import recovery as taking_up
from shardcast.store import verified, version_place
from tests.support import processes
from tests.support.published import random_bytes, sha256

SHARD = 300_000
PAYLOAD = hashlib.sha256(random_bytes(1_000_000)).hexdigest()


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(1_000_000))
    return file


async def publish(origin: Origin, payload: Path) -> str:
    broadcast = await origin.publish(payload, SHARD, copy=False)
    await broadcast.result()
    return broadcast.version


async def fetch(origin: Origin, version: str, output: Path) -> str:
    async with Client([origin.url]) as client:
        return sha256((await client.download(version, output)).path)


async def test_linked_payload_takes_no_room_and_is_readable(payload: Path, tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        assert await fetch(origin, version, tmp_path / "got") == sha256(payload)
    assert {entry.name for entry in (tmp_path / "data" / version).iterdir()} == {"manifest.jsonl", "payload"}
    assert payload.samefile(tmp_path / "data" / version / "payload")


async def test_replaced_payload_keeps_published_bytes(payload: Path, tmp_path: Path) -> None:
    before = sha256(payload)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        (tmp_path / "next").write_bytes(random_bytes(1_000_000, seed=2))
        (tmp_path / "next").replace(payload)
        assert await fetch(origin, version, tmp_path / "got") == before


@pytest.mark.parametrize("restart", [False, True])
async def test_writing_to_payload_retires_its_version(
    restart: bool, payload: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_dir = tmp_path / "data"
    async with Origin.running(data_dir, "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        if not restart:
            change(payload)
            assert origin.folders.shard(version, 1) is None
            while origin.folders.listings or (data_dir / version / "payload").exists():
                await asyncio.sleep(0.01)
            with pytest.raises(VersionNotOffered):
                await fetch(origin, version, tmp_path / "got")
    if restart:
        change(payload)
        async with Origin.running(data_dir, "127.0.0.1", 0) as origin:
            with pytest.raises(VersionNotOffered):
                await fetch(origin, version, tmp_path / "got")
    assert "changed after it was published without a copy" in caplog.text
    assert not (data_dir / version / "payload").exists()
    assert payload.exists()


def change(payload: Path) -> None:
    """One byte, in place, and the time that says so."""
    with payload.open("r+b") as file:
        file.write(b"\0")
    os.utime(payload, ns=(1, 1))


async def test_linked_version_is_served_after_restart(payload: Path, tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        assert await fetch(origin, version, tmp_path / "got") == sha256(payload)
        assert await publish(origin, payload) == "v2"


@pytest.mark.parametrize("copy", [True, False], ids=["copied", "linked"])
async def test_copied_data_directory_keeps_its_versions(
    copy: bool, payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        await (await origin.publish(payload, SHARD, copy=copy)).result()
    shutil.copytree(tmp_path / "data", tmp_path / "moved")  # with its times, as cp -a: the inodes are others
    change(payload)
    hashed: list[Path] = []
    look = verified.identity_if_right

    def count(file: Path, *rest: Any) -> str | None:
        hashed.append(file)
        return look(file, *rest)

    monkeypatch.setattr(taking_up, "identity_if_right", count)
    async with Origin.running(tmp_path / "moved", "127.0.0.1", 0) as origin:
        assert await fetch(origin, "v1", tmp_path / "got") == PAYLOAD
    assert len(hashed) == (4 if copy else 1)
    async with Origin.running(tmp_path / "moved", "127.0.0.1", 0) as origin:
        assert await fetch(origin, "v1", tmp_path / "again") == PAYLOAD
    assert len(hashed) == (4 if copy else 1), "its new looks were not remembered"


async def test_touched_payload_is_withheld_until_rehashed(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go_on = asyncio.Event(), threading.Event()
    loop, look = asyncio.get_running_loop(), verified.identity_if_right

    def wait(*said: Any) -> str | None:
        loop.call_soon_threadsafe(looked.set)
        go_on.wait(30)
        return look(*said)

    monkeypatch.setattr(taking_up, "identity_if_right", wait)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        os.utime(payload, ns=(1, 1))
        shard = f"{origin.url}/{version}/shard_001.bin"
        assert await asyncio.to_thread(status, shard) == 503
        await looked.wait()
        assert await asyncio.to_thread(status, shard) == 503
        assert await asyncio.to_thread(status, f"{origin.url}/v9/shard_001.bin") == 404
        go_on.set()
        while origin.folders.in_doubt(version):
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(status, shard) == 200
        assert await fetch(origin, version, tmp_path / "got") == PAYLOAD
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        assert origin.folders.shard(version, 1)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_unreadable_payload_is_kept_and_rechecked(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*said: Any) -> str | None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        os.utime(payload, ns=(1, 1))
        with monkeypatch.context() as patch:
            patch.setattr(taking_up, "identity_if_right", fail)
            await origin.folders.tidy()
            while origin.folders.in_doubt(version):
                await asyncio.sleep(0.01)
        assert [one.version for one in origin.folders.listings] == [version]
        assert origin.folders.shard(version, 1) is None
        while origin.folders.in_doubt(version):
            await asyncio.sleep(0.01)
        assert origin.folders.shard(version, 1)


@pytest.mark.parametrize("kind", ["relative", "absolute", "of a link"])
async def test_symbolic_link_is_resolved_before_linking(kind: str, payload: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    file = snapshot / "model.safetensors"  # as it lies in the cache of Hugging Face
    if kind == "of a link":
        (tmp_path / "link").symlink_to("model.bin")
        file.symlink_to("../../link")
    else:
        file.symlink_to(payload if kind == "absolute" else "../../model.bin")
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, file)
        manifest = origin.folders.manifest_of(version)
        assert manifest
        assert manifest.header.name == "model.safetensors"
        linked = tmp_path / "data" / version / "payload"
        assert linked.lstat().st_ino == payload.stat().st_ino
        file.unlink()
        assert await fetch(origin, version, tmp_path / "got") == PAYLOAD


def test_command_links_target_of_symbolic_link(payload: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("model.bin")
    done = processes.run("broadcast", "link", "--data-dir", str(tmp_path / "data"), "--link", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("v1\n", 0)
    assert "is copied" not in done.stderr
    assert (tmp_path / "data" / "v1" / "payload").lstat().st_ino == payload.stat().st_ino


async def test_name_turned_into_symbolic_link_is_copied(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(payload)

    def link_link(known: Path, name: Path) -> bool:
        os.link(tmp_path / "link", name, follow_symlinks=False)
        return True

    monkeypatch.setattr(version_place, "clone", lambda original, copy: False)
    monkeypatch.setattr(version_place, "hard_link", link_link)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        assert await fetch(origin, version, tmp_path / "got") == PAYLOAD
    assert not (tmp_path / "data" / version / "payload").is_symlink()
    assert (tmp_path / "data" / version / "shard_001.bin").exists()


@pytest.mark.parametrize("swap", [True, False], ids=["another file", "written to"])
async def test_payload_replaced_after_hashing_is_not_published(
    swap: bool, payload: Path, tmp_path: Path
) -> None:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:

        async def change_it() -> None:
            linked = tmp_path / "data" / "v1" / "payload"
            if swap:
                shutil.copy2(linked, tmp_path / "other")
                (tmp_path / "other").replace(linked)
            else:
                change(payload)

        broadcast = await origin.publish(payload, SHARD, copy=False, confirm=change_it)
        with pytest.raises(PayloadChanged, match="was changed or replaced since its hashing"):
            await broadcast.result()
        assert origin.folders.listings == ()
        assert payload.exists()


async def test_unlinkable_payload_is_copied(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(version_place, "hard_link", lambda known, name: False)
    monkeypatch.setattr(version_place, "clone", lambda original, copy: False)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        change(payload)
        assert hashlib.sha256(random_bytes(1_000_000)).hexdigest() == await fetch(
            origin, version, tmp_path / "got"
        )
    assert "is copied" in caplog.text


async def test_retiring_linked_version_keeps_the_payload(payload: Path, tmp_path: Path) -> None:
    before = sha256(payload)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0, keep=1) as origin:
        assert [await publish(origin, payload) for _ in range(3)] == ["v1", "v2", "v3"]
        assert [one.version for one in origin.folders.listings] == ["v3"]
    assert sha256(payload) == before
    assert not list((tmp_path / "data" / ".shardcast" / "linked").glob("v[12]"))


def test_command_and_library_publish_links(payload: Path, tmp_path: Path) -> None:
    done = processes.run("broadcast", str(payload), "--data-dir", str(tmp_path / "data"), "--link")
    assert (done.stdout, done.returncode) == ("v1\n", 0)
    origin = shardcast.OriginServer(tmp_path / "data", 0)
    try:
        assert origin.broadcast(payload, copy=False) == "v2"
    finally:
        origin.shutdown()
    for version in ("v1", "v2"):
        assert payload.samefile(tmp_path / "data" / version / "payload")


def test_clone_is_identical_or_missing(payload: Path, tmp_path: Path) -> None:
    if version_place.clone(payload, tmp_path / "clone"):
        assert sha256(tmp_path / "clone") == sha256(payload)
    else:
        assert not (tmp_path / "clone").exists()
