"""Archives on disks that are not as they should be: damaged statistics, read-only mounts, nothing left."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardcast.blobs.access_stats import AccessStats
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.errors import LocalDiskError
from tests.support.archives import http, push_body, running_archive
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import sha256
from tests.support.small_disks import small_disk
from tests.unit.blobs.test_framing import HELLO, PULL, PUSH, WORLD

HTTP: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "authorized_port": 0}


@pytest.fixture
async def store() -> BlobsInMemory:
    return BlobsInMemory()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with http() as opened:
        yield opened


def without_tables(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.executescript("DROP TABLE access; DROP TABLE content;")


def no_database(file: Path) -> None:
    file.write_bytes(b"this is no database, for sure" * 1000)


def cut(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(file, 5000)


def a_folder(file: Path) -> None:
    for one in file.parent.glob("archive.sqlite*"):
        one.unlink()
    file.mkdir()


def swept(file: Path) -> None:
    for one in file.parent.glob("archive.sqlite*"):
        one.unlink()


@pytest.mark.parametrize("damage", [without_tables, no_database, cut, a_folder, swept])
async def test_archive_starts_with_damaged_access_stats(
    tmp_path: Path, store: BlobsInMemory, session: aiohttp.ClientSession, damage: Callable[[Path], None]
) -> None:
    async with running_archive(tmp_path, store):
        pass
    damage(tmp_path / "archive.sqlite")
    async with running_archive(tmp_path, store) as node:
        await use(session, node)
    if damage is not a_folder:  # whose place can't be taken
        ledger = AccessStats(tmp_path / "archive.sqlite")
        assert {one.key for one in await ledger.most_pulled(5)} == {HELLO, WORLD}
        await ledger.close()


@pytest.mark.parametrize("damage", [without_tables, swept])
async def test_archive_serves_after_access_stats_are_damaged(
    tmp_path: Path, store: BlobsInMemory, session: aiohttp.ClientSession, damage: Callable[[Path], None]
) -> None:
    async with running_archive(tmp_path, store) as node:
        await use(session, node)
        damage(tmp_path / "archive.sqlite")
        await use(session, node)


async def use(session: aiohttp.ClientSession, node: ArchiveNode) -> None:
    async with session.post(f"{node.push_url}/v1/push", data=PUSH) as answer:
        assert answer.status == 200
    async with session.post(f"{node.url}/v1/pull", data=PULL) as answer:
        assert len(await answer.read()) == 2 * 38
    for path in ("/", "/liveness", "/stats", f"/v1/metadata/{HELLO}"):
        async with session.get(node.url + path) as answer:
            assert answer.status == 200


async def test_access_stats_without_a_disk_count_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = AccessStats(tmp_path / "file" / "archive.sqlite")
    ledger.count_pulls([HELLO])
    assert [one.pulls for one in await ledger.most_pulled(1)] == [1]
    await ledger.close()


def remount_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


async def test_archive_serves_from_read_only_mount(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "1m"):
        blob = b"here"
        (disk / sha256(blob)).write_bytes(blob)
        remount_read_only(disk)
        async with ArchiveNode.on_directory(disk, **HTTP) as node:
            async with session.get(f"{node.url}/{sha256(blob)}") as answer:
                assert await answer.read() == blob
            async with session.post(f"{node.push_url}/v1/push", data=PUSH) as answer:
                assert (answer.status, "only read" in await answer.text()) == (403, True)
            for path in ("/", "/liveness", "/stats", f"/v1/metadata/{sha256(blob)}"):
                async with session.get(node.url + path) as answer:
                    assert answer.status == 200
        with pytest.raises(LocalDiskError, match="Read-only"):
            async with ArchiveNode.on_directory(disk, mirror=["127.0.0.1:1"], **HTTP):
                pass


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_push_without_descriptors_may_be_repeated(
    tmp_path: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    really = os.open

    def fail(path: Any, *words: Any, **more: Any) -> int:
        if str(path).endswith(".part"):
            raise OSError(number, os.strerror(number))
        return really(path, *words, **more)

    async with ArchiveNode.on_directory(tmp_path, **HTTP) as node:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fail)
            async with session.post(f"{node.push_url}/v1/push", data=push_body([b"blob"])) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        async with session.post(f"{node.push_url}/v1/push", data=push_body([b"blob"])) as answer:
            assert answer.status == 200
