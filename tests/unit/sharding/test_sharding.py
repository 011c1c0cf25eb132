"""Payloads cut into shards, and shards that are here already described as if they had been cut here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from shardcast.errors import LocalDiskError, PayloadChanged, PayloadMissing, UsageError
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse
from shardcast.sharding import payload_hasher
from shardcast.sharding.chunk_source import ByteSource, at_end
from shardcast.sharding.payload_hasher import hash_payload
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress
from shardcast.sharding.publishing import check_payload, publish
from shardcast.store.data_dir import DataDir
from shardcast.store.interfaces import Span
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.payloads import cut, random_bytes, sha256

PIECE = 256 * 1024
SHARD = 3 * PIECE + 1000


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[VersionFolders]:
    directory = DataDir(tmp_path / "data", "origin")
    yield VersionFolders(directory)
    directory.close()


def described(**changes: Any) -> PayloadDescription:
    return PayloadDescription(**{"origin": payloads.ORIGIN, "shard_size": SHARD, **changes})


async def published(
    folders: VersionFolders, data: bytes, tmp_path: Path, **changes: Any
) -> tuple[Manifest, list[bytes]]:
    """What publishing says, and the shards' files."""
    file = tmp_path / "model.bin"
    file.write_bytes(data)
    opened = folders.open(folders.data_dir.allot())
    manifest = publish(file, opened, described(**changes), PublishProgress())
    await opened.complete(manifest)
    return manifest, [opened.files.final(shard.number).read_bytes() for shard in manifest.shards]


@pytest.mark.parametrize(
    "size", [0, 1, PIECE, SHARD - 1, SHARD, SHARD + 1, 3 * SHARD - 1, 3 * SHARD, 3 * SHARD + 1, 5_000_000]
)
async def test_shards_are_payload_slices_with_right_digests(
    size: int, folders: VersionFolders, tmp_path: Path
) -> None:
    data = random_bytes(size)
    manifest, files = await published(folders, data, tmp_path)
    assert files == cut(data, SHARD)
    assert manifest.shards == tuple(payloads.shards(files, PIECE))
    assert manifest.digests == {"sha256": sha256(data)}
    assert manifest.size == manifest.header.size == size
    assert (manifest.header.shard_size, manifest.header.piece_size) == (SHARD, PIECE)
    assert parse((folders.data_dir.manifest(1)).read_bytes(), "v1") == manifest


@pytest.mark.parametrize("chunk", [4096, 100_003])
async def test_shards_do_not_depend_on_chunk_lengths(
    chunk: int, folders: VersionFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_hasher, "CHUNK_SIZE", chunk)
    data = random_bytes(2 * SHARD + 17)
    manifest, files = await published(folders, data, tmp_path)
    assert files == cut(data, SHARD)
    assert manifest.shards == tuple(payloads.shards(files, PIECE))
    assert manifest.digests == {"sha256": sha256(data)}


@pytest.mark.parametrize("size", [1000, 1234])
async def test_more_than_999_shards_are_published(
    size: int, folders: VersionFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a thousand would take seconds
    data = random_bytes(size)
    manifest, files = await published(folders, data, tmp_path, shard_size=1)
    assert b"".join(files) == data
    assert folders.listings[0].value == f"{sha256(data)}|{size}"
    assert (folders.data_dir.folder(1) / "shard_1000.bin").read_bytes() == data[999:1000]
    assert [shard.number for shard in manifest.shards] == list(range(1, size + 1))


async def test_manifest_has_payload_blake3_for_0_3_readers(folders: VersionFolders, tmp_path: Path) -> None:
    data = random_bytes(2 * SHARD + 5)
    manifest, _ = await published(folders, data, tmp_path, digests=("sha256", "blake3"))
    assert manifest.digests == {"sha256": sha256(data), "blake3": blake3(data).hexdigest()}
    assert parse(manifest.raw).digests == manifest.digests


async def test_large_shards_have_larger_pieces(folders: VersionFolders, tmp_path: Path) -> None:
    data = random_bytes(3 * PIECE + 7)
    manifest, _ = await published(folders, data, tmp_path, shard_size=500_000_000)
    assert manifest.header.piece_size == 2 * PIECE
    assert manifest.shards == tuple(payloads.shards([data], 2 * PIECE))


async def test_header_has_origin_name_metadata_and_creation_time(
    folders: VersionFolders, tmp_path: Path
) -> None:
    manifest, _ = await published(folders, b"x", tmp_path, metadata={"step": 7})
    header = manifest.header
    assert (header.version, header.origin, header.name, header.kind) == (
        "v1",
        payloads.ORIGIN,
        "model.bin",
        "file",
    )
    assert header.metadata == {"step": 7}
    assert header.created and header.created > 1_600_000_000


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Gewichte ü 🙂".encode(), "Gewichte ü 🙂"),
        (b"x" * 255, "x" * 255),
        (b"a\\b", "a_b"),
        (b"a\nb", "a_b"),
        (b"a\xffb", "a_b"),
    ],
)
async def test_payload_with_any_file_name_is_published(
    name: bytes, shown: str, folders: VersionFolders, tmp_path: Path
) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    file.write_bytes(b"x")
    manifest = publish(file, folders.open(1), described(), PublishProgress())
    assert parse(manifest.raw) == manifest
    assert manifest.header.name == shown


async def test_progress_is_updated_during_publishing(folders: VersionFolders, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(random_bytes(2 * SHARD + 1))
    progress = PublishProgress()
    seen: list[tuple[int | None, int, int]] = []
    opened = folders.open(1)
    publish_shard = opened.files.publish_shard

    def watch(shard: int, digest: str) -> None:
        publish_shard(shard, digest)
        seen.append((progress.size, progress.done, progress.shards))

    opened.files.publish_shard = watch  # type: ignore[method-assign]
    publish(tmp_path / "model.bin", opened, described(), progress)
    assert (progress.size, progress.done, progress.shards) == (2 * SHARD + 1, 2 * SHARD + 1, 3)
    assert [size for size, _, _ in seen] == [2 * SHARD + 1] * 3
    assert all(done >= number * SHARD for number, (_, done, _) in enumerate(seen[:2], 1))
    assert seen == sorted(seen)


# Payloads that change, and others that can't be


def threads() -> list[str]:
    """Those of publishing; stores elsewhere in this process have theirs for as long as they are there."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("shardcast-") and "hash_" not in name]


def grow(file: Path) -> None:
    with file.open("ab") as payload:
        payload.write(b"more")


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def overwrite(file: Path) -> None:
    with file.open("r+b") as payload:
        payload.write(b"other")
    touch(file)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(grow, id="grows"),
        pytest.param(lambda file: os.truncate(file, 10), id="shrinks"),
        pytest.param(lambda file: os.truncate(file, 2 * SHARD), id="shrinks to whole shards"),
        pytest.param(lambda file: os.truncate(file, 0), id="is emptied"),
        pytest.param(overwrite, id="is overwritten"),
        pytest.param(touch, id="is touched"),
    ],
)
@pytest.mark.parametrize("when", [1, 2])
async def test_payload_changed_during_read_is_not_published(
    when: int, change: Callable[[Path], None], folders: VersionFolders, tmp_path: Path
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(3 * SHARD + 17))
    opened = folders.open(1)
    part = opened.files.part

    def part_and_change(shard: int) -> Path:
        if shard == when + 1:
            change(file)
        return part(shard)

    opened.files.part = part_and_change  # type: ignore[method-assign]
    with pytest.raises(PayloadChanged, match=r"model\.bin: it changed while being read"):
        publish(file, opened, described(), PublishProgress())
    await folders.discard(1)
    assert not folders.data_dir.folder(1).exists()


@pytest.mark.parametrize("change", [grow, lambda file: os.truncate(file, 10)], ids=["grows", "shrinks"])
async def test_linked_payload_changed_during_read_is_not_published(
    change: Callable[[Path], None], folders: VersionFolders, tmp_path: Path
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(3 * SHARD + 17))
    opened = folders.open(1)
    add = opened.live.add

    def add_and_change(lines: bytes) -> None:
        add(lines)
        if len(opened.live.shards) == 2:
            change(file)

    opened.live.add = add_and_change  # type: ignore[method-assign]
    with pytest.raises(PayloadChanged, match=r"model\.bin: it changed while being read"):
        publish(file, opened, described(copy=False), PublishProgress())
    assert opened.adopted.present


@pytest.mark.parametrize("copy", [True, False], ids=["copied", "linked"])
@pytest.mark.parametrize(
    ("payload", "says"),
    [("/proc/version", "0 bytes, and it has more"), ("/sys/kernel/uevent_seqnum", "4096 bytes, and it gave")],
)
async def test_payload_of_unknown_size_is_refused(
    payload: str, says: str, copy: bool, folders: VersionFolders
) -> None:
    if not Path(payload).exists():
        pytest.skip(f"there is no {payload} here")
    with pytest.raises(PayloadChanged, match=f"{payload}.*{says}.*pipe it, cat … | shardcast broadcast -"):
        publish(Path(payload), folders.open(1), described(copy=copy), PublishProgress())


def test_blocking_read_is_not_end_of_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    with file.open("rb", buffering=0) as payload:
        assert not at_end(payload)
        assert at_end(payload)
    os.mkfifo(tmp_path / "pipe")  # as /proc/kmsg and trace_pipe, which say that they are regular files
    with (tmp_path / "pipe").open("r+b", buffering=0) as pipe:
        assert not at_end(pipe)


async def test_cancelled_broadcast_ends_soon(folders: VersionFolders, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(random_bytes(30_000))
    progress = PublishProgress()
    opened = folders.open(1)
    publish_shard = opened.files.publish_shard

    def publish_and_cancel(shard: int, digest: str) -> None:
        progress.cancelled = True
        publish_shard(shard, digest)

    opened.files.publish_shard = publish_and_cancel  # type: ignore[method-assign]
    with pytest.raises(Cancelled, match="v1"):
        publish(tmp_path / "model.bin", opened, described(shard_size=1000), progress)
    assert 0 < progress.done < 20_000
    assert threads() == []


async def test_broadcast_cancelled_while_it_reads_is_not_called_changed(
    folders: VersionFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.bin").write_bytes(random_bytes(30_000))
    progress = PublishProgress()
    fill = ByteSource.fill

    def cancel_and_fill(source: ByteSource, chunk: memoryview, position: int) -> int:
        progress.cancelled = position > 0
        return fill(source, chunk, position)

    monkeypatch.setattr(ByteSource, "fill", cancel_and_fill)
    with pytest.raises(Cancelled, match="v1"):
        publish(tmp_path / "model.bin", folders.open(1), described(shard_size=20_000), progress)


@pytest.mark.parametrize("method", ["part", "publish_shard", "fsync_shard"])
@pytest.mark.parametrize("shard", [1, 3])
async def test_disk_error_is_raised_and_leaves_no_thread(
    shard: int, method: str, folders: VersionFolders, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(random_bytes(3 * SHARD))
    opened = folders.open(1)
    works = getattr(opened.files, method)

    def fail(number: int, *rest: object) -> object:
        if number == shard:
            raise LocalDiskError("no space left on device")
        return works(number, *rest)

    setattr(opened.files, method, fail)
    with pytest.raises(LocalDiskError, match="no space left"):
        publish(tmp_path / "model.bin", opened, described(), PublishProgress())
    assert threads() == []


async def test_payload_with_too_many_shards_is_refused_before_reading(
    folders: VersionFolders, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").touch()
    os.truncate(tmp_path / "model.bin", 10**6 * 1000 + 1)
    with pytest.raises(LocalDiskError, match=r"--shard-size"):
        publish(tmp_path / "model.bin", folders.open(1), described(shard_size=1000), PublishProgress())


async def test_shard_size_too_large_for_a_manifest_is_refused(
    folders: VersionFolders, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match="too large"):
        publish(tmp_path / "model.bin", folders.open(1), described(shard_size=10**12), PublishProgress())


def test_check_payload_explains_why_payload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PayloadMissing, match="missing: it does not exist") as missing:
        check_payload(tmp_path / "missing")
    assert isinstance(missing.value, FileNotFoundError)
    assert check_payload(tmp_path)  # folders.publishing takes it
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LocalDiskError, match="not a file"):
        check_payload(tmp_path / "pipe")
    with pytest.raises(LocalDiskError, match="name too long"):
        check_payload(tmp_path / ("x" * 300))


# Shards that are here already


@pytest.mark.parametrize("size", [0, 1, SHARD, 2 * SHARD + 5])
async def test_survey_finds_the_same_digests_as_publishing(
    size: int, folders: VersionFolders, tmp_path: Path
) -> None:
    manifest, _ = await published(folders, random_bytes(size), tmp_path, digests=("sha256", "blake3"))
    spans = [Span(folders.data_dir.shard(1, shard.number), 0, shard.size, None) for shard in manifest.shards]
    found = hash_payload("v1", spans, ("sha256", "blake3"), lambda: False)
    assert found.shards == manifest.shards
    assert found.digests == manifest.digests
    assert parse(found.raw, "v1") == found
    assert (found.header.origin, found.header.created, found.header.size) == (None, None, size)


async def test_surveys_of_equal_bytes_are_identical(folders: VersionFolders, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    data = random_bytes(2 * SHARD)
    whole.write_bytes(b"before" + data)
    elsewhere = [Span(whole, 6, SHARD, None), Span(whole, 6 + SHARD, SHARD, None)]
    await published(folders, data, tmp_path)
    here = [Span(folders.data_dir.shard(1, number), 0, SHARD, None) for number in (1, 2)]
    assert (
        hash_payload("v1", here, ("sha256",), lambda: False).raw
        == hash_payload("v1", elsewhere, ("sha256",), lambda: False).raw
    )


def test_survey_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(bytes(100))
    with pytest.raises(Cancelled):
        hash_payload("v1", [Span(tmp_path / "shard", 0, 100, None)], ("sha256",), lambda: True)


def test_survey_of_missing_file_raises_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="missing"):
        hash_payload("v1", [Span(tmp_path / "missing", 0, 100, None)], ("sha256",), lambda: False)
