"""Publishing without a copy: the file itself is served, as long as it is what it was."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

import shardcast
from shardcast import file_copies
from shardcast.errors import VersionNotOffered
from shardcast.nodes.client import Client
from shardcast.nodes.origin import Origin
from shardcast.store import open_version
from tests.support import processes
from tests.support.published import random_bytes, sha256

SHARD = 300_000


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


async def test_a_linked_payload_takes_no_room_and_is_read_like_any_other(
    payload: Path, tmp_path: Path
) -> None:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        assert await fetch(origin, version, tmp_path / "got") == sha256(payload)
    assert {entry.name for entry in (tmp_path / "data" / version).iterdir()} == {"manifest.jsonl", "payload"}
    assert payload.samefile(tmp_path / "data" / version / "payload")


async def test_a_payload_that_is_replaced_stays_as_it_was_published(payload: Path, tmp_path: Path) -> None:
    before = sha256(payload)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        (tmp_path / "next").write_bytes(random_bytes(1_000_000, seed=2))
        (tmp_path / "next").replace(payload)
        assert await fetch(origin, version, tmp_path / "got") == before


@pytest.mark.parametrize("restart", [False, True])
async def test_a_payload_that_is_written_to_retires_its_version(
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


async def test_it_is_served_again_after_a_restart(payload: Path, tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        assert await fetch(origin, version, tmp_path / "got") == sha256(payload)
        assert await publish(origin, payload) == "v2"


async def test_what_can_not_be_linked_is_copied(
    payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(open_version, "link", lambda known, name: False)
    monkeypatch.setattr(open_version, "clone", lambda original, copy: False)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        version = await publish(origin, payload)
        change(payload)
        assert hashlib.sha256(random_bytes(1_000_000)).hexdigest() == await fetch(
            origin, version, tmp_path / "got"
        )
    assert "is copied" in caplog.text


async def test_retiring_a_linked_version_leaves_the_payload_alone(payload: Path, tmp_path: Path) -> None:
    before = sha256(payload)
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0, keep=1) as origin:
        assert [await publish(origin, payload) for _ in range(3)] == ["v1", "v2", "v3"]
        assert [one.version for one in origin.folders.listings] == ["v3"]
    assert sha256(payload) == before
    assert not list((tmp_path / "data" / ".shardcast" / "linked").glob("v[12]"))


def test_the_command_and_the_library_have_it(payload: Path, tmp_path: Path) -> None:
    done = processes.run("broadcast", str(payload), "--data-dir", str(tmp_path / "data"), "--link")
    assert (done.stdout, done.returncode) == ("v1\n", 0)
    origin = shardcast.OriginServer(tmp_path / "data", 0)
    try:
        assert origin.broadcast(payload, copy=False) == "v2"
    finally:
        origin.shutdown()
    for version in ("v1", "v2"):
        assert payload.samefile(tmp_path / "data" / version / "payload")


def test_a_clone_is_the_same_or_is_not_there(payload: Path, tmp_path: Path) -> None:
    if file_copies.clone(payload, tmp_path / "clone"):
        assert sha256(tmp_path / "clone") == sha256(payload)
    else:
        assert not (tmp_path / "clone").exists()
