"""What counts as here: on a disk that is nearly full, among claims of room, among files known by looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.errors import BlobCorrupt, LocalDiskError, NoRoom
from shardcast.store.live_manifest import LiveManifest
from tests.integration.test_room import KB, described, folders
from tests.support import payloads
from tests.support.blob_stores import digest_of
from tests.support.payloads import random_bytes
from tests.unit.store.test_output import DATA, fill, open_output

BLOCK = 4096


def almost_full(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """Have every disk tell that it has so many bytes left."""
    told = os.statvfs_result((BLOCK, 1, 10**9, left, left, 10**6, 10**6, 10**6, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: told)
    monkeypatch.setattr(os, "statvfs", lambda path: told)


async def test_download_resumes_when_free_space_fits_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is here already needs no room again: a disk that has 90 % of a version can take the rest."""
    rest = payloads.PIECE + 100
    with open_output(tmp_path / "model.bin") as opened:
        await fill(opened, stop=len(DATA) - rest)
    almost_full(monkeypatch, left=rest + BLOCK)
    with open_output(tmp_path / "model.bin") as opened:
        assert await fill(opened) == rest
        await opened.complete(payloads.manifest(DATA))
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_download_is_refused_when_the_rest_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    almost_full(monkeypatch, left=len(DATA) - 1)
    with pytest.raises(LocalDiskError, match="free some space"), open_output(tmp_path / "model.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_version_described_again_is_counted_once(tmp_path: Path) -> None:
    """Its own claim gives way to the new one; that of another version does not."""
    with folders(tmp_path / "data", max_bytes=100 * KB) as found:
        await found.begin_version(1, LiveManifest.of(described("v1", 80 * KB)))
        await found.quota.begin_fetch(1)
        await found.check_room(described("v1", 90 * KB))
        with pytest.raises(NoRoom):
            await found.check_room(described("v2", 90 * KB))


async def test_blob_changed_with_its_mtime_restored_is_verified_again(tmp_path: Path) -> None:
    """As `cp -p`, `rsync -t` and careless tools do it: size, inode and mtime are the same, ctime is not."""
    data = random_bytes(10_000)
    digest = digest_of(data)
    file = tmp_path / digest[:2] / digest
    file.parent.mkdir()
    file.write_bytes(data)
    store = BlobDirectory(tmp_path, layout="prefix")
    async with store.open(digest) as reader:
        assert reader.size == len(data)
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # a clock's tick later
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with pytest.raises(BlobCorrupt):
        async with store.open(digest):
            pass
