"""The folder of one upload, on a disk that fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.protocol.uploads import UploadRequest
from shardcast.store.upload_folder import UploadFolder, remove_upload
from tests.support.payloads import sha256


def fail(descriptor: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def folder(tmp_path: Path) -> UploadFolder:
    return UploadFolder.create(tmp_path / "uploads" / "one", UploadRequest("model.bin"))


def test_bytes_that_could_not_be_synced_are_not_received(
    folder: UploadFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.append(b"one")
    folder.sync()
    folder.append(b"lost")
    with monkeypatch.context() as broken, pytest.raises(LocalDiskError):
        broken.setattr(os, "fsync", fail)
        folder.sync()
    folder.sync()  # which a system that has dropped the bytes reports as a success
    assert folder.offset == folder.record.durable == 3
    folder.append(b"two")
    folder.sync()
    folder.seal()
    assert not folder.hash_more(1 << 20)
    assert folder.digest() == sha256(b"onetwo")
    assert folder.payload.read_bytes() == b"onetwo"


def test_upload_that_can_not_be_read_is_no_damaged_one(
    folder: UploadFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    with pytest.raises(LocalDiskError, match="could not take up"):
        UploadFolder.load(folder.folder)


def test_upload_that_could_not_be_removed_is_not_taken_up(
    folder: UploadFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("shutil.rmtree", lambda *_, **__: None)
        assert not remove_upload(folder.folder)
    with pytest.raises(ValueError, match="is missing"):
        UploadFolder.load(folder.folder)
    assert remove_upload(folder.folder)
