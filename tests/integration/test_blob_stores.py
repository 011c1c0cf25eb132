"""What every store of blobs keeps to, whatever it keeps them in."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.compression import DigestCheck, MalformedCoding
from shardcast.blobs.directory.verify_cache import VerifiedFile, VerifyCache
from shardcast.blobs.interface import ALGORITHMS, BlobStore
from shardcast.errors import (
    BlobCorrupt,
    BlobMissing,
    IntegrityError,
    LocalDiskError,
    ReadOnlyStore,
    UsageError,
    WrongStore,
)
from shardcast.store.interfaces import BlobReader
from tests.support.blob_stores import KINDS, Kind, digest_of, spoil_file

LARGE = random.Random(5).randbytes((3 << 20) + 17)
SIZES = {"empty": b"", "one byte": b"x", "small": b"small" * 100, "large": LARGE}


@dataclass
class Opened:
    """A store of one kind and digest, and the folder that it is in."""

    kind: Kind
    place: Path
    store: BlobStore

    def digest(self, data: bytes) -> str:
        return digest_of(data, self.store.algorithm)

    async def put(self, data: bytes, digest: str | None = None, piece: int = 100_000) -> str:
        async with self.store.put(digest) as writer:
            for start in range(0, len(data), piece):
                await writer.write(data[start : start + piece])
            return await writer.commit()

    async def get(self, digest: str) -> bytes:
        async with self.store.open(digest) as reader:
            return await read(reader)

    async def all(self) -> list[str]:
        return sorted([digest async for digest in self.store.digests()])

    def files(self) -> list[Path]:
        """Everything that isn't a folder or a lock."""
        return sorted(one for one in self.place.rglob("*") if one.is_file() and one.name != "lock")


async def read(reader: BlobReader, most: int = 70_000) -> bytes:
    parts = []
    while part := await reader.read(most):
        assert len(part) <= most
        parts.append(part)
    data = b"".join(parts)
    assert len(data) == reader.size
    if reader.span is not None:
        with reader.span.path.open("rb") as file:
            file.seek(reader.span.offset)
            assert file.read(reader.span.length) == data
    return data


@pytest.fixture(
    params=[(kind, one) for kind in KINDS for one in ALGORITHMS], ids=lambda p: f"{p[0].name}-{p[1]}"
)
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    kind, algorithm = request.param
    place = tmp_path / "store"
    place.mkdir()
    async with kind.open(place, algorithm) as store:
        assert store.algorithm == algorithm
        yield Opened(kind, place, store)


@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "found-out"])
async def test_put_blob_is_readable(opened: Opened, data: bytes, known: bool) -> None:
    digest = opened.digest(data)
    assert await opened.store.size(digest) is None
    with pytest.raises(BlobMissing, match=digest):
        await opened.get(digest)
    assert await opened.put(data, digest if known else None) == digest
    assert await opened.get(digest) == data
    assert await opened.store.size(digest) == len(data)
    assert await opened.all() == [digest]


async def test_put_with_wrong_digest_keeps_nothing(opened: Opened) -> None:
    before = opened.files()
    for data in SIZES.values():
        with pytest.raises(IntegrityError):
            await opened.put(data, opened.digest(b"another"))
    assert await opened.all() == []
    assert opened.files() == before


async def test_uncommitted_put_keeps_nothing(opened: Opened) -> None:
    before = opened.files()
    for data in SIZES.values():
        async with opened.store.put() as writer:
            await writer.write(data)
        with pytest.raises(ZeroDivisionError):
            async with opened.store.put(opened.digest(data)) as writer:
                await writer.write(data)
                raise ZeroDivisionError
    assert await opened.all() == []
    assert opened.files() == before


async def test_second_put_changes_nothing(opened: Opened) -> None:
    digest = await opened.put(LARGE)
    for _ in range(2):
        assert await opened.put(LARGE, digest) == digest
    assert await opened.all() == [digest]
    assert await opened.get(digest) == LARGE


async def test_concurrent_puts_of_one_blob_succeed(opened: Opened) -> None:
    digest = opened.digest(LARGE)
    assert set(await asyncio.gather(*(opened.put(LARGE, digest) for _ in range(5)))) == {digest}
    assert await opened.get(digest) == LARGE
    assert await opened.all() == [digest]


async def test_deleted_blob_is_missing(opened: Opened) -> None:
    digest, other = await opened.put(b"one"), await opened.put(b"other")
    assert await opened.store.delete(digest) is True
    assert await opened.store.delete(digest) is False
    assert await opened.store.size(digest) is None
    with pytest.raises(BlobMissing):
        await opened.get(digest)
    assert await opened.all() == [other]
    await opened.put(b"one")
    assert await opened.get(digest) == b"one"


async def test_digests_lists_each_blob_once(opened: Opened) -> None:
    digests = [await opened.put(b"%d" % number) for number in range(40)]
    assert await opened.all() == sorted(digests)


async def test_blobs_persist_when_store_is_reopened(opened: Opened) -> None:
    digest = await opened.put(LARGE)
    async with opened.kind.open(opened.place, opened.store.algorithm) as again:
        assert await Opened(opened.kind, opened.place, again).get(digest) == LARGE


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
async def test_damaged_blob_is_never_read_and_is_repaired_by_put(opened: Opened, data: bytes) -> None:
    if opened.kind.spoil is None:
        pytest.skip("nobody can change its bytes")
    digest = await opened.put(data)
    assert await opened.get(digest) == data
    opened.kind.spoil(opened.place, digest)
    for _ in range(2):
        with pytest.raises((BlobCorrupt, BlobMissing)):
            await opened.get(digest)
    await opened.put(data, digest)
    assert await opened.get(digest) == data


# The directory's own


def path_of(place: Path, digest: str) -> Path:
    return place / digest[:2] / digest


async def put(store: BlobDirectory, data: bytes, coding: str | None = None, digest: str | None = None) -> str:
    async with store.put(digest, coding) as writer:
        await writer.write(data)
        return await writer.commit()


async def get(store: BlobDirectory, digest: str) -> bytes:
    async with store.open(digest) as reader:
        return await read(reader)


async def test_directory_layout_matches_hashserver(tmp_path: Path) -> None:
    store = BlobDirectory(tmp_path, writable=True)
    assert store.folder.layout == "prefix"
    digest = await put(store, b"hello")
    file = path_of(tmp_path, digest)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == stat.S_IMODE(file.parent.stat().st_mode) == 0o3775
    assert stat.S_IMODE(file.stat().st_mode) == 0o444
    assert (tmp_path / ".HASHSERVER_PREFIX").read_text() == "1\n"
    assert (tmp_path / ".shardcast-store" / "digest").read_text() == "sha256\n"
    assert BlobDirectory(tmp_path).folder.layout == "prefix"
    await store.close()


async def test_store_refuses_another_algorithm_when_reopened(tmp_path: Path) -> None:
    assert BlobDirectory(tmp_path, "sha3-256").algorithm == "sha3-256"  # plain: it is what it is said to be
    assert BlobDirectory(tmp_path, "sha256").algorithm == "sha256"
    assert BlobDirectory(tmp_path, "sha3-256", writable=True).algorithm == "sha3-256"
    assert BlobDirectory(tmp_path).algorithm == "sha3-256"
    for writable in (True, False):
        with pytest.raises(WrongStore, match="sha3-256, not sha256"):
            BlobDirectory(tmp_path, "sha256", writable=writable)
    with pytest.raises(UsageError, match="md5"):
        BlobDirectory(tmp_path, "md5")
    with pytest.raises(UsageError, match="no directory"):
        BlobDirectory(tmp_path / "missing")
    (tmp_path / ".shardcast-store" / "digest").write_text("sha9\n")
    with pytest.raises(WrongStore, match="sha9"):
        BlobDirectory(tmp_path)


async def test_read_only_store_refuses_put(tmp_path: Path) -> None:
    store = BlobDirectory(tmp_path)
    with pytest.raises(ReadOnlyStore):
        await put(store, b"x")
    with pytest.raises(ReadOnlyStore):
        await store.delete(digest_of(b"x"))
    assert list(tmp_path.iterdir()) == []


async def test_extra_directories_are_read_in_their_current_layout(tmp_path: Path) -> None:
    main, flat, prefix = (tmp_path / name for name in ("main", "flat", "prefix"))
    for folder in (main, flat, prefix):
        folder.mkdir()
    one, two = digest_of(b"one"), digest_of(b"two")
    (flat / one).write_bytes(b"one")
    (prefix / two[:2]).mkdir()
    path_of(prefix, two).write_bytes(b"two")
    store = BlobDirectory(main, layout="prefix", extra=[flat, prefix], writable=True)
    assert await get(store, one) == b"one"
    (prefix / ".HASHSERVER_PREFIX").write_text("1\n")
    assert await get(store, two) == b"two"
    (prefix / ".HASHSERVER_PREFIX").unlink()
    assert await get(store, two) == b"two", "its blobs lie so"
    assert sorted([digest async for digest in store.digests()]) == sorted([one, two])
    assert store.lookup.present([two, one, digest_of(b"three")]) == [True, True, False]
    assert await store.delete(one) is False
    assert (flat / one).exists()
    await put(store, b"one")
    assert sorted([digest async for digest in store.digests()]) == sorted([one, two])
    spoil_file(path_of(main, one))
    assert await get(store, one) == b"one"  # the other one is right
    await store.close()


async def test_two_processes_share_one_directory(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from shardcast.blobs.directory.blob_directory import BlobDirectory
async def main():
    store = BlobDirectory(sys.argv[1], layout="prefix", writable=True)
    for number in range(150):
        async with store.put() as writer:
            await writer.write(b"%d" % number * 1000)
            await writer.commit()
    await store.close()
asyncio.run(main())
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(words) for _ in range(2)]  # noqa: ASYNC220
    assert [one.wait(60) for one in running] == [0, 0]
    store = BlobDirectory(tmp_path)
    digests = [digest async for digest in store.digests()]
    assert sorted(digests) == sorted(digest_of(b"%d" % number * 1000) for number in range(150))
    for digest in digests:
        await get(store, digest)
    assert not list(tmp_path.rglob("*.part"))


async def test_leftovers_of_killed_process_are_removed_but_not_of_living(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from shardcast.blobs.directory.blob_directory import BlobDirectory
async def main():
    store = BlobDirectory(sys.argv[1], layout="prefix", writable=True)
    async with store.put() as writer:
        for _ in range(40):
            await writer.write(bytes(100_000))
        await asyncio.sleep(0.2)
        print("there", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert len(list(tmp_path.rglob("*.part"))) == 1
        living = BlobDirectory(tmp_path, layout="prefix", writable=True)
        await living.prepare()
        assert len(list(tmp_path.rglob("*.part"))) == 1
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert [digest async for digest in living.digests()] == []
        again = BlobDirectory(tmp_path, layout="prefix", writable=True)
        await again.prepare()
        assert list(tmp_path.rglob("*.part")) == []
        await living.close()
        await again.close()
        assert {one.name for one in (tmp_path / ".shardcast-store" / "incoming").iterdir()} == {"lock"}
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


def test_put_on_full_disk_raises_and_leaves_nothing(tmp_path: Path) -> None:
    """A process may write no file larger than 1 MiB, and no signal ends it for that."""
    code = """
import asyncio, resource, signal, sys
from shardcast.errors import LocalDiskError
from shardcast.blobs.directory.blob_directory import BlobDirectory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
async def main():
    store = BlobDirectory(sys.argv[1], layout="prefix", writable=True)
    for size in (3 << 20, 30 << 20):
        try:
            async with store.put() as writer:
                for _ in range(size >> 18):
                    await writer.write(bytes(1 << 18))
                await writer.commit()
        except LocalDiskError as error:
            print(error)
    await store.close()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("File too large") == 2, done.stdout
    assert {one.name for one in tmp_path.rglob("*") if one.is_file()} == {
        ".HASHSERVER_PREFIX",
        "digest",
        "lock",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_put_into_unwritable_directory_raises(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(LocalDiskError, match="denied"):
            BlobDirectory(tmp_path, writable=True)
    finally:
        tmp_path.chmod(0o755)


def test_verify_cache_is_keyed_by_file_identity_and_bounded(tmp_path: Path) -> None:
    verified, digest = VerifyCache(max_files=1000), digest_of(b"x")
    file = tmp_path / "file"
    file.write_bytes(b"x")
    verified.add(digest, file.stat(), VerifiedFile(1))
    assert verified.get(digest, file.stat()) == VerifiedFile(1)
    assert verified.get(digest_of(b"y"), file.stat()) is None
    os.utime(file, ns=(0, 0))
    assert verified.get(digest, file.stat()) is None
    for number in range(5000):
        verified.add(digest_of(b"%d" % number), file.stat(), VerifiedFile(1))
    assert len(verified) <= 1000
    assert verified.get(digest_of(b"4999"), file.stat()) == VerifiedFile(1)
    verified.forget(digest_of(b"4999"), file.stat())
    assert verified.get(digest_of(b"4999"), file.stat()) is None


# Coded blobs


def zstd(data: bytes, **settings: object) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    coded: bytes = zstandard.ZstdCompressor(**settings).compress(data)
    return coded


CODED = {"gzip": gzip.compress, "zstd": zstd}
ENDS = {"gzip": ".gz", "zstd": ".zst"}


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("data", [b"", b"hello" * 1000, LARGE], ids=["empty", "small", "large"])
async def test_compressed_blob_is_stored_verbatim_and_read_decoded(
    tmp_path: Path, coding: str, data: bytes
) -> None:
    store = BlobDirectory(tmp_path, layout="prefix", writable=True)
    coded, digest = CODED[coding](data), digest_of(data)
    assert await put(store, coded, coding, digest) == digest
    file = path_of(tmp_path, digest)
    assert file.with_name(digest + ENDS[coding]).read_bytes() == coded
    assert file.with_name(f"{digest}.BUFFERLENGTH").read_text() == str(len(data))
    for one in (store, BlobDirectory(tmp_path)):  # which verified it already, and which didn't
        assert await get(one, digest) == data
        assert await one.size(digest) == len(data)
        assert [digest async for digest in one.digests()] == [digest]
    file.with_name(f"{digest}.BUFFERLENGTH").unlink()
    assert await store.size(digest) == len(data)
    await put(store, coded, coding)
    await put(store, data)
    assert sorted(one.name for one in file.parent.iterdir()) == [digest, digest + ENDS[coding]]
    assert [digest async for digest in store.digests()] == [digest]
    assert await store.delete(digest) is True
    assert list(file.parent.iterdir()) == []
    await store.close()


@pytest.mark.parametrize("coding", CODED)
async def test_put_refuses_bytes_not_of_the_named_compression(tmp_path: Path, coding: str) -> None:
    store = BlobDirectory(tmp_path, layout="prefix", writable=True)
    data = b"hello" * 1000
    coded = CODED[coding](data)
    for bad in (b"", b"nonsense", data, coded[:-1], coded[:10], coded + b"x", bytes(100)):
        with pytest.raises(IntegrityError):
            await put(store, bad, coding, digest_of(data))
    assert [digest async for digest in store.digests()] == []
    await put(store, coded + CODED[coding](b"more"), coding, digest_of(data + b"more"))  # two in one
    assert await get(store, digest_of(data + b"more")) == data + b"more"
    await store.close()


def bomb(coding: str) -> tuple[bytes, int]:
    """Few bytes that become many, and how many."""
    size = 256 << 20
    if coding == "zstd":
        return zstd(bytes(size), level=19), size
    coder = zlib.compressobj(wbits=31)
    return b"".join(coder.compress(bytes(1 << 20)) for _ in range(size >> 20)) + coder.flush(), size


@pytest.mark.parametrize("coding", CODED)
def test_decompression_bomb_takes_bounded_memory(coding: str) -> None:
    coded, size = bomb(coding)
    check = DigestCheck("sha256", coding)
    tracemalloc.start()
    try:
        check.update(coded)
        check.finish()
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert check.length == size


def test_zstd_with_large_window_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    out = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as writer:
        writer.write(LARGE)
    with pytest.raises(MalformedCoding):
        DigestCheck("sha256", "zstd").update(out.getvalue())


@given(
    data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000)), coding=st.sampled_from(list(CODED))
)
@settings(deadline=None, max_examples=60)
def test_decoding_is_independent_of_chunk_boundaries(data: bytes, cuts: list[int], coding: str) -> None:
    coded, check, position = CODED[coding](data), DigestCheck("sha256", coding), 0
    for cut in [*sorted(cuts), len(coded)]:
        check.update(coded[position:cut])
        position = max(position, cut)
    assert check.finish() == digest_of(data)
    assert check.length == len(data)


@given(data=st.binary(max_size=300), coding=st.sampled_from(list(CODED)), cut=st.integers(0, 60))
@settings(deadline=None, max_examples=100)
def test_random_bytes_raise_malformed_only(data: bytes, coding: str, cut: int) -> None:
    check = DigestCheck("sha256", coding)
    with pytest.raises(MalformedCoding):
        check.update(CODED[coding](b"hello" * 10)[:cut] + data)
        check.finish()
        if check.length or data == CODED[coding](b""):  # by a wonder it is one
            raise MalformedCoding
