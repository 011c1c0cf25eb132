"""Verifying files of blobs: once for all who want one at a time, reading ahead of the hashing."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.compression import DigestCheck
from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.directory.reading_ahead import PART, read_parts
from shardcast.blobs.directory.verify_cache import VerifiedFile, VerifyCache
from shardcast.errors import BlobCorrupt
from shardcast.file_identity import FileIdentity
from tests.support.blob_stores import digest_of

SIZE = (40 << 20) + 1


@pytest.fixture
def blob(tmp_path: Path) -> tuple[BlobDirectory, str, Path]:
    """A directory with a blob that is hashed in several steps."""
    data = os.urandom(1 << 20) * (SIZE >> 20) + b"x"
    digest = digest_of(data)
    file = tmp_path / digest[:2] / digest
    file.parent.mkdir()
    file.write_bytes(data)
    return BlobDirectory(tmp_path, layout="prefix"), digest, file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gathers how many bytes were hashed, step by step."""
    taken: list[int] = []
    read = BlobFile.read

    def count(file: BlobFile, check: DigestCheck, position: int, end: int, ahead: bool = False) -> int:
        taken.append(end - position)
        return read(file, check, position, end, ahead)

    monkeypatch.setattr(BlobFile, "read", count)
    return taken


def descriptors() -> int:
    """Files that this process has open, where the system tells."""
    told = Path("/proc/self/fd")
    return len(list(told.iterdir())) if told.is_dir() else 0


async def opened(store: BlobDirectory, digest: str) -> int:
    async with store.open(digest) as reader:
        return reader.size


@pytest.mark.parametrize("field", ["st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"])
def test_file_with_any_changed_attribute_is_not_known(field: str, tmp_path: Path) -> None:
    looks = tmp_path.stat()
    names = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    told: Any = SimpleNamespace(**{name: getattr(looks, name) for name in names})
    other: Any = SimpleNamespace(**{**vars(told), field: getattr(told, field) + 1})
    files = VerifyCache()
    files.add("ab" * 32, told, VerifiedFile(7))
    assert files.get("ab" * 32, told) == VerifiedFile(7)
    assert files.get("ab" * 32, other) is None
    assert FileIdentity.from_stat(told) != FileIdentity.from_stat(other)


def test_blob_is_hashed_once_for_concurrent_readers(
    blob: tuple[BlobDirectory, str, Path], hashed: list[int]
) -> None:
    store, digest, _ = blob

    async def work() -> list[int]:
        return await asyncio.gather(*(opened(store, digest) for _ in range(20)), opened(store, digest))

    assert asyncio.run(work()) == [SIZE] * 21
    assert sum(hashed) == SIZE


def test_concurrent_readers_of_corrupt_blob_all_fail(
    blob: tuple[BlobDirectory, str, Path], hashed: list[int]
) -> None:
    store, digest, file = blob
    with file.open("r+b") as changed:
        changed.seek(-1, os.SEEK_END)
        changed.write(b"y")

    async def work() -> list[object]:
        return await asyncio.gather(*(opened(store, digest) for _ in range(5)), return_exceptions=True)

    assert [type(one) for one in asyncio.run(work())] == [BlobCorrupt] * 5
    assert sum(hashed) == SIZE


def test_hashing_continues_when_first_reader_is_cancelled(
    blob: tuple[BlobDirectory, str, Path], hashed: list[int]
) -> None:
    store, digest, _ = blob

    async def work() -> int:
        first, second = (asyncio.ensure_future(opened(store, digest)) for _ in range(2))
        while not hashed:
            await asyncio.sleep(0)
        first.cancel()
        assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        return await second

    assert asyncio.run(work()) == SIZE
    assert sum(hashed) == SIZE


def test_hashing_stops_without_readers_and_restarts_for_the_next(
    blob: tuple[BlobDirectory, str, Path], hashed: list[int]
) -> None:
    store, digest, _ = blob
    before = descriptors()

    async def work() -> int:
        first = asyncio.ensure_future(opened(store, digest))
        while not hashed:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert sum(hashed) < SIZE
        hashed.clear()
        return await opened(store, digest)

    assert asyncio.run(work()) == SIZE
    assert sum(hashed) == SIZE
    assert descriptors() == before


@given(
    size=st.integers(0, 10 * PART + 5),
    position=st.integers(0, 3 * PART),
    length=st.integers(-1, 10 * PART),
    ahead=st.booleans(),
)
def test_read_ahead_returns_the_file_content(
    tmp_path_factory: pytest.TempPathFactory, size: int, position: int, length: int, ahead: bool
) -> None:
    data = (os.urandom(1 + size // 16) * 16)[:size]
    path = tmp_path_factory.getbasetemp() / "read-ahead"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = b"".join(
            bytes(part) for part in read_parts(file.fileno(), position, position + length, ahead=ahead)
        )
        assert found == data[position : position + max(0, length)]


def test_closed_read_ahead_yields_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * PART))
    with path.open("rb") as file, closing(read_parts(file.fileno(), 0, 20 * PART, ahead=True)) as coming:
        assert len(next(coming)) == PART
    assert list(coming) == []


def test_read_ahead_raises_when_file_cannot_be_read() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    try:
        for ahead in (False, True):
            with pytest.raises(OSError, match="seek"):
                list(read_parts(reader, 0, 20 * PART, ahead=ahead))
    finally:
        os.close(reader)


@pytest.mark.parametrize("seconds", [15_032_385_535, -(2**31)])
async def test_blob_of_any_time_is_verified_once(
    blob: tuple[BlobDirectory, str, Path], hashed: list[int], seconds: int
) -> None:
    store, digest, file = blob
    os.utime(file, (seconds, seconds))
    for _ in range(2):
        async with store.open(digest) as reader:
            assert reader.size == SIZE
    assert sum(hashed) == SIZE
