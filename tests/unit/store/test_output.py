"""The output file of a receiving client: its name appears when every byte is right."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.protocol.manifest import manifest_of_old_node
from shardcast.protocol.manifest_reader import parse
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from tests.support import payloads
from tests.support.filling import DATA, MANIFEST, fill, names, open_output
from tests.support.payloads import PIECE, SHARD, cut, random_bytes, sha256

PIECES = cut(DATA, PIECE)


async def test_output_appears_on_completion_without_leftovers(tmp_path: Path) -> None:
    output = tmp_path / "missing" / "folder" / "model.bin"
    with open_output(output) as opened:
        assert await fill(opened) == len(DATA)
        assert not output.exists()
        assert names(output.parent) == {".model.bin.part", ".model.bin.part.manifest"}
        assert parse((output.parent / ".model.bin.part.manifest").read_bytes()) == MANIFEST
        await opened.complete(MANIFEST)
        assert output.read_bytes() == DATA
    assert names(output.parent) == {"model.bin"}


async def test_output_mode_follows_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with open_output(tmp_path / "model.bin") as opened:
            await fill(opened)
            await opened.complete(MANIFEST)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.bin").stat().st_mode) == 0o640


async def test_interrupted_download_resumes(tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    with open_output(output) as opened:
        assert await fill(opened, stop=SHARD + PIECE) == SHARD + PIECE
    assert not output.exists()
    with open_output(output) as opened:
        assert await fill(opened) == len(DATA) - SHARD - PIECE
        await opened.complete(MANIFEST)
    assert output.read_bytes() == DATA


async def test_only_wrong_pieces_are_fetched_again_after_kill(tmp_path: Path) -> None:
    output, part = tmp_path / "model.bin", tmp_path / ".model.bin.part"
    with open_output(output) as opened:
        await fill(opened)
    with part.open("r+b") as file:  # a piece that was being written
        file.seek(3 * PIECE + 7)
        file.write(bytes(PIECE // 2))
    with open_output(output) as opened:
        assert await fill(opened) == PIECE
        await opened.complete(MANIFEST)
    assert output.read_bytes() == DATA


async def test_pieces_matching_newer_manifest_are_kept(tmp_path: Path) -> None:
    newer = DATA[:SHARD] + random_bytes(SHARD, seed=2) + DATA[2 * SHARD :]
    manifest = payloads.manifest(newer, "v2")
    output = tmp_path / "model.bin"
    with open_output(output) as opened:
        await fill(opened)
    with open_output(output, manifest) as opened:
        assert await fill(opened, newer, manifest) == SHARD
        await opened.complete(manifest)
    assert output.read_bytes() == newer


@pytest.mark.parametrize("size", [0, 1, PIECE, SHARD + 1])
async def test_part_of_longer_version_is_truncated(size: int, tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    with open_output(output) as opened:
        await fill(opened)
    shorter = payloads.manifest(DATA[:size], "v2")
    with open_output(output, shorter) as opened:
        await fill(opened, DATA[:size], shorter)
        await opened.complete(shorter)
    assert output.read_bytes() == DATA[:size]
    assert names(tmp_path) == {"model.bin"}


@pytest.mark.parametrize("existing", [None, b"", b"another file altogether"])
async def test_nothing_is_left_behind_when_nothing_landed(existing: bytes | None, tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    if existing is not None:
        output.write_bytes(existing)
    with open_output(output) as opened:
        (await opened.landing(MANIFEST.shards[0])).close()  # room was made for a shard
    assert names(tmp_path) == (set() if existing is None else {"model.bin"})
    assert existing is None or output.read_bytes() == existing


async def test_old_output_is_kept_until_new_one_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    output.write_bytes(b"the version before")
    with open_output(output) as opened:
        await fill(opened)
        assert output.read_bytes() == b"the version before"
        await opened.complete(MANIFEST)
        assert output.read_bytes() == DATA


@pytest.mark.parametrize(("changed", "missing"), [(None, 0), (1, PIECE), (6, PIECE)])
async def test_matching_pieces_of_existing_output_are_not_fetched(
    changed: int | None, missing: int, tmp_path: Path
) -> None:
    earlier = bytearray(DATA)
    if changed is not None:
        earlier[changed * PIECE] ^= 1
    output = tmp_path / "model.bin"
    output.write_bytes(earlier)
    with open_output(output) as opened:
        assert await fill(opened) == missing
        assert output.read_bytes() == earlier
        await opened.complete(MANIFEST)
    assert output.read_bytes() == DATA


async def test_two_concurrent_downloads_of_one_output_both_succeed(tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    with open_output(output) as one, open_output(output) as other:
        await fill(one, stop=SHARD)
        assert await fill(other) == len(DATA)  # each has a file of its own
        await other.complete(MANIFEST)
        assert output.read_bytes() == DATA
        assert await fill(one, stop=2 * SHARD) > 0
        await fill(one)
        await one.complete(MANIFEST)
        assert output.read_bytes() == DATA
    assert names(tmp_path) == {"model.bin"}


async def test_failed_download_does_not_disturb_concurrent_one(tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    with open_output(output) as one:
        with open_output(output):
            pass
        await fill(one)
        with open_output(output):
            pass
        await one.complete(MANIFEST)
    assert output.read_bytes() == DATA
    assert names(tmp_path) == {"model.bin"}


async def test_completion_removes_parts_of_interrupted_runs(tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    with open_output(output) as one, open_output(output) as other:
        await fill(one, stop=SHARD)
        await fill(other, stop=SHARD)
    assert ".model.bin.part-2" in names(tmp_path)
    with open_output(output) as opened:
        await fill(opened)
        await opened.complete(MANIFEST)
    assert names(tmp_path) == {"model.bin"}


@pytest.mark.parametrize("name", ["model.bin.part2", "model.bin.part-2", "model.bin.partial", "model2.bin"])
async def test_part_of_another_output_is_kept(name: str, tmp_path: Path) -> None:
    with open_output(tmp_path / name) as opened:
        await fill(opened, stop=SHARD)
    with open_output(tmp_path / "model.bin") as opened:
        await fill(opened)
        await opened.complete(MANIFEST)
    with open_output(tmp_path / name) as opened:
        assert await fill(opened) == len(DATA) - SHARD


LOCKING = """
import fcntl, sys
with open(sys.argv[1], "wb") as part:
    fcntl.flock(part, fcntl.LOCK_EX)
    print(flush=True)
    input()
    part.write(b"the other's")
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that holds the part file of ``model.bin``, and writes into it when it is told to."""
    command = [sys.executable, "-c", LOCKING, str(tmp_path / ".model.bin.part")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        yield process
        if process.poll() is None:
            process.kill()


async def test_part_locked_by_another_process_is_not_touched(
    other_process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    output = tmp_path / "model.bin"
    with open_output(output) as opened:
        await fill(opened)
        await opened.complete(MANIFEST)
    other_process.communicate(b"\n", timeout=20)
    assert output.read_bytes() == DATA
    assert (tmp_path / ".model.bin.part").read_bytes() == b"the other's"


async def test_part_renamed_by_its_owner_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner completes between opening the part here and locking it."""
    output, part = tmp_path / "model.bin", tmp_path / ".model.bin.part"
    lock, renamed = fcntl.flock, []

    def lock_late(descriptor: int, how: int) -> None:
        if not renamed:
            renamed.append(part.rename(output))
        lock(descriptor, how)

    part.write_bytes(b"the other's output")
    monkeypatch.setattr(fcntl, "flock", lock_late)
    with open_output(output) as opened:
        await fill(opened)
        assert output.read_bytes() == b"the other's output"
        await opened.complete(MANIFEST)
    assert output.read_bytes() == DATA


async def test_directory_as_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="it is a directory; name a file in it"):
        OutputFile(tmp_path, LiveManifest.of(MANIFEST))
    assert names(tmp_path) == set()


async def test_special_file_as_output_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LocalDiskError, match="not a file"):
        OutputFile(tmp_path / "pipe", LiveManifest.of(MANIFEST))
    assert names(tmp_path) == {"pipe"}


@pytest.mark.parametrize("name", ["file/model.bin", "x" * 256])
async def test_uncreatable_output_raises_local_disk_error_naming_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalDiskError, match=name):
        OutputFile(tmp_path / name, LiveManifest.of(MANIFEST))


async def test_manifest_name_does_not_affect_output_path(tmp_path: Path) -> None:
    manifest = payloads.manifest(DATA, name="other.bin")
    with open_output(tmp_path / "model.bin", manifest) as opened:
        await fill(opened, manifest=manifest)
        await opened.complete(manifest)
    assert names(tmp_path) == {"model.bin"}


async def test_shards_without_digests_are_fetched_again_after_interruption(
    tmp_path: Path,
) -> None:
    told = manifest_of_old_node("v1", [shard.size for shard in MANIFEST.shards], {"sha256": sha256(DATA)})
    output = tmp_path / "model.bin"
    output.write_bytes(DATA)  # nothing says whether it is right
    for _ in range(2):
        with open_output(output, told) as opened:
            assert await fill(opened, manifest=told) == len(DATA)
    with open_output(output, told) as opened:
        await fill(opened, manifest=told)
        await opened.complete(told)
    assert output.read_bytes() == DATA
    assert names(tmp_path) == {"model.bin"}
