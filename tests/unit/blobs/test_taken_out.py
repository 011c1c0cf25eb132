"""Files that were taken out of a store when that was killed: each may be a blob that was just put."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast import file_moves
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import OWN_FOLDER
from shardcast.blobs.directory.quarantine import Quarantine, folder_lock, take_out
from shardcast.blobs.maintenance.gc import GarbageCollection
from shardcast.blobs.maintenance.gc_policy import Rules
from shardcast.temporary_files import temporary_name
from tests.support.small_disks import small_disk

BLOB = b"a blob"
DIGEST = hashlib.sha256(BLOB).hexdigest()
DAY = 86400.0


class Killed(BaseException):
    """Stands for a kill."""


def killed(*_: object, **__: object) -> bool:
    raise Killed


@pytest.fixture(params=["same disk", "other disk"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A store, or one whose prefix folder of the blob is on a disk of its own."""
    root = tmp_path / "store"
    root.mkdir()
    if request.param == "same disk":
        yield root
    else:
        with small_disk(root / DIGEST[:2], "1m"):
            yield root


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[BlobDirectory]:
    store = BlobDirectory(root, "sha256", "prefix", writable=True)
    await store.prepare()
    try:
        yield store
    finally:
        await store.close()


async def put(root: Path) -> Path:
    async with opened(root) as store, store.put() as writer:
        await writer.write(BLOB)
        await writer.commit()
    return root / DIGEST[:2] / DIGEST


def place(root: Path, folder: str) -> Path:
    found = root / OWN_FOLDER / folder
    found.mkdir(parents=True, exist_ok=True)
    return found


@pytest.mark.root
@pytest.mark.parametrize(("folder", "name"), [("gc/trash", DIGEST), ("quarantine", f"{DIGEST}-0123abcd")])
async def test_blob_is_restored_at_open_after_interrupted_removal(root: Path, folder: str, name: str) -> None:
    file = await put(root)
    with pytest.raises(Killed):
        take_out(file, place(root, folder) / name, killed)
    assert not file.exists()
    async with opened(root):
        assert file.read_bytes() == BLOB
    assert not [one for one in root.rglob(f"{DIGEST}*") if one != file]


@pytest.mark.root
@pytest.mark.parametrize(("folder", "name"), [("gc/trash", DIGEST), ("quarantine", f"{DIGEST}-0123abcd")])
async def test_blob_put_after_interrupted_removal_is_kept(root: Path, folder: str, name: str) -> None:
    file = await put(root)
    with pytest.raises(Killed):
        take_out(file, place(root, folder) / name, killed)
    file.write_bytes(BLOB)
    inode = file.stat().st_ino
    async with opened(root):
        assert file.stat().st_ino == inode
    if folder == "quarantine":
        store = BlobDirectory(root, "sha256", "prefix")
        (aside,) = Quarantine(store.folder).entries()
        assert Path(aside.file).read_bytes() == BLOB
        assert "interrupted" in aside.reason
    else:
        assert not [one for one in root.rglob(f"{DIGEST}*") if one != file]


@pytest.mark.root
async def test_blob_being_removed_by_running_gc_is_not_restored(root: Path) -> None:
    file = await put(root)
    with pytest.raises(Killed):
        take_out(file, place(root, "gc/trash") / DIGEST, killed)
    with folder_lock(root / OWN_FOLDER / "gc"):
        async with opened(root):
            assert not file.exists()
    async with opened(root):
        assert file.exists()


@pytest.mark.root
async def test_interrupted_copy_into_quarantine_is_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await put(root)
    store = BlobDirectory(root, "sha256", "prefix")
    looks = file.stat()
    with monkeypatch.context() as patch:
        patch.setattr(file_moves, "copy_bytes", killed)
        patch.setattr(Quarantine, "_write_record", killed)
        with pytest.raises(Killed):
            Quarantine(store.folder).set_aside(str(file), DIGEST, looks, "a test")
    assert not file.exists()
    async with opened(root):
        assert file.read_bytes() == BLOB
    aside = Quarantine(store.folder).set_aside(str(file), DIGEST, file.stat(), "a test")
    assert aside
    assert Path(aside.file).read_bytes() == BLOB
    assert not list(file.parent.rglob(f"*{DIGEST}*"))


@pytest.mark.root
async def test_gc_removes_old_unfinished_copies(tmp_path: Path) -> None:
    with small_disk(tmp_path / DIGEST[:2], "1m"):
        file = await put(tmp_path)
        old, new = temporary_name(file), temporary_name(file)
        for part in (old, new):
            part.write_bytes(b"half")
        os.utime(old, (old.stat().st_mtime - 2 * DAY,) * 2)
        store = BlobDirectory(tmp_path, "sha256", "prefix")
        for later in (10 * DAY, 20 * DAY):
            now = file.stat().st_mtime + later
            for _ in GarbageCollection(
                store.folder, frozenset(), Rules(DAY, DAY), now=now, delete=True
            ).run():
                pass
        assert [one.name for one in file.parent.rglob("*") if one.is_file()] == [new.name]
