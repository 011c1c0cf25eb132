"""Folders that somebody removes under a store that runs: cron jobs clear what looks temporary."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.incoming_folder import IncomingFolder
from shardcast.blobs.directory.layout import OWN_FOLDER
from shardcast.blobs.directory.staging import staging_area
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.errors import LocalDiskError
from tests.support.blob_stores import digest_of
from tests.support.hash_servers import request

SMALL, LARGE = b"small", b"large" * 300_000


def incoming(root: Path) -> None:
    shutil.rmtree(root / OWN_FOLDER / "incoming")


def own_of_the_process(root: Path) -> None:
    for folder in (root / OWN_FOLDER / "incoming").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


def its_lock(root: Path) -> None:
    for folder in (root / OWN_FOLDER / "incoming").iterdir():
        (folder / "lock").unlink() if folder.is_dir() else None


def all_of_ours(root: Path) -> None:
    shutil.rmtree(root / OWN_FOLDER)


def prefixes(root: Path) -> None:
    for folder in root.iterdir():
        if folder.name != OWN_FOLDER and folder.is_dir():
            shutil.rmtree(folder)


SWEEPS = [incoming, own_of_the_process, its_lock, all_of_ours, prefixes]


async def put(store: BlobDirectory, data: bytes) -> None:
    async with store.put(digest_of(data)) as writer:
        for start in range(0, len(data), 1 << 20):
            await writer.write(data[start : start + (1 << 20)])
        await writer.commit()


@pytest.mark.parametrize("sweep", SWEEPS)
async def test_store_recreates_its_removed_folders(tmp_path: Path, sweep: Callable[[Path], None]) -> None:
    async with StoreServer.running(StoreSettings(tmp_path, "sha3-256", writable=True)) as server:
        port = int(server.url.rsplit(":", 1)[1])
        for again in (False, True):
            if again:
                sweep(tmp_path)
            for blob in (b"small %d" % again, b"large %d" % again * 200_000):
                digest = digest_of(blob, "sha3-256")
                answer = await asyncio.to_thread(request, port, "PUT", f"/{digest}", blob)
                assert answer.status == 200, answer
                assert (await asyncio.to_thread(request, port, "GET", f"/{digest}")).body == blob
    assert BlobDirectory(tmp_path).algorithm == "sha3-256"


@pytest.mark.parametrize("sweep", [incoming, its_lock])
async def test_recreated_folder_is_locked_against_other_processes(
    tmp_path: Path, sweep: Callable[[Path], None]
) -> None:
    store = BlobDirectory(tmp_path, writable=True)
    await put(store, SMALL)
    sweep(tmp_path)
    async with store.put() as writer:
        for _ in range(3):
            await writer.write(LARGE)
        other = IncomingFolder(str(tmp_path))  # which removes what no process has locked
        assert await writer.commit() == digest_of(LARGE * 3)
    other.close()
    await store.close()
    assert not [one for one in (tmp_path / OWN_FOLDER / "incoming").iterdir() if one.is_dir()]


@pytest.mark.parametrize("sweep", SWEEPS[:4])
async def test_push_continues_when_staging_folder_is_removed(
    tmp_path: Path, sweep: Callable[[Path], None]
) -> None:
    store = BlobDirectory(tmp_path, writable=True)
    await store.prepare()
    waiting = IncomingFolder(str(tmp_path))
    sweep(tmp_path)
    async with staging_area(store, waiting) as stage:
        await put(stage.blobs, SMALL)
        await put(stage.blobs, LARGE)
        assert sorted([one async for some in stage.publish() for one in some]) == sorted(
            map(digest_of, (SMALL, LARGE))
        )
    waiting.close()
    await store.close()


def all_files(place: Path) -> None:
    for file in place.iterdir():
        if file.is_file():
            file.unlink()


def one_file(place: Path) -> None:
    (place / digest_of(SMALL)).unlink()


def the_folder(place: Path) -> None:
    shutil.rmtree(place)


@pytest.mark.parametrize("sweep", [all_files, one_file, the_folder])
async def test_push_fails_when_staged_blob_is_removed(tmp_path: Path, sweep: Callable[[Path], None]) -> None:
    """The push fails, before any of its blobs has its name: whoever pushed sends all of them again."""
    store = BlobDirectory(tmp_path, writable=True)
    waiting = IncomingFolder(str(tmp_path))
    async with staging_area(store, waiting) as stage:
        await put(stage.blobs, SMALL)
        await put(stage.blobs, LARGE)
        sweep(Path(stage.blobs.folder.root))
        with pytest.raises(LocalDiskError, match="removed by another program"):
            _ = [one async for some in stage.publish() for one in some]
    waiting.close()
    assert [one async for one in store.digests()] == []
    await store.close()
