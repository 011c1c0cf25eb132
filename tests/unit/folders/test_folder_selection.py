"""A part of a folder: only what the patterns choose is fetched, made and verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.errors import IntegrityError, UsageError
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.options import WHOLE, FolderOptions
from shardcast.folders.output import FolderOutput
from shardcast.folders.table import FolderTable
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse
from shardcast.store.live_manifest import LiveManifest
from tests.support.filling import fill
from tests.support.folder_manifests import counted, folder_manifest

TIME = 1_763_780_000
LARGE = (1 << 20) + 5
PIECE = 256 * 1024


def some_table() -> FolderTable:
    table = FolderTable()
    table.append(FolderEntry(b"config.json", EntryKind.FILE, 640, 0o644, TIME))
    table.append(FolderEntry(b"copy", EntryKind.HARD_LINK, 0, 0o644, TIME, b"config.json"))
    table.append(FolderEntry(b"copy2", EntryKind.HARD_LINK, 0, 0o644, TIME, b"config.json"))
    table.append(FolderEntry(b"middle", EntryKind.FILE, 3 * PIECE, 0o644, TIME))
    table.append(FolderEntry(b"w/", EntryKind.FOLDER, mode=0o755))
    table.append(FolderEntry(b"w/a.bin", EntryKind.FILE, LARGE, 0o644, TIME))
    table.append(FolderEntry(b"w/b.bin", EntryKind.FILE, LARGE, 0o644, TIME))
    table.append(FolderEntry(b"w/index.json", EntryKind.FILE, 70, 0o644, TIME))
    table.append(FolderEntry(b"x", EntryKind.SYMLINK, 0, 0o777, TIME, b"w"))
    return table


MANIFEST, PAYLOAD = folder_manifest(some_table(), shard_size=2 << 20)


async def receive(
    output: Path, *only: str, exclude: tuple[str, ...] = (), manifest: Manifest = MANIFEST
) -> int:
    opened = FolderOutput(output, LiveManifest.of(manifest), FolderOptions(only=only, exclude=exclude))
    try:
        assert not opened.hashes_whole
        fetched = await fill(opened, PAYLOAD, manifest)
        await opened.complete(manifest)
        return fetched
    finally:
        opened.close()


def content(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def test_only_one_large_file_is_fetched(tmp_path: Path) -> None:
    assert await receive(tmp_path / "v1", "w/a.bin") == LARGE
    assert content(tmp_path / "v1") == {"w", "w/a.bin"}
    assert (tmp_path / "v1" / "w" / "a.bin").read_bytes() == counted(5, 0, LARGE)


async def test_only_small_files_cost_their_pieces(tmp_path: Path) -> None:
    assert 0 < await receive(tmp_path / "v1", "*.json") <= 2 * PIECE
    assert content(tmp_path / "v1") == {"config.json", "w", "w/index.json"}
    assert (tmp_path / "v1" / "w" / "index.json").read_bytes() == counted(7, 0, 70)


async def test_excluded_files_are_left_out(tmp_path: Path) -> None:
    fetched = await receive(tmp_path / "v1", exclude=("*.bin", "middle"))
    assert fetched <= 2 * PIECE
    assert content(tmp_path / "v1") == {"config.json", "copy", "copy2", "w", "w/index.json", "x"}


async def test_hard_link_alone_brings_the_bytes(tmp_path: Path) -> None:
    assert await receive(tmp_path / "v1", "copy*") > 0
    assert content(tmp_path / "v1") == {"copy", "copy2"}
    assert (tmp_path / "v1" / "copy").read_bytes() == counted(0, 0, 640)
    assert (tmp_path / "v1" / "copy").samefile(tmp_path / "v1" / "copy2")


async def test_rest_of_a_folder_is_fetched_later_and_the_part_serves_again(tmp_path: Path) -> None:
    await receive(tmp_path / "v1", "w/*.bin")
    opened = FolderOutput(tmp_path / "v1", LiveManifest.of(MANIFEST))
    fetched = await fill(opened, PAYLOAD, MANIFEST)
    await opened.complete(MANIFEST)
    assert fetched < LARGE
    assert "middle" in content(tmp_path / "v1")


async def test_part_with_another_digest_gets_no_name(tmp_path: Path) -> None:
    shard = MANIFEST.shards[1]
    lies = parse(MANIFEST.raw.replace((shard.sha256 or "").encode(), b"0" * 64))
    with pytest.raises(IntegrityError, match="shard 2: its bytes have another SHA-256"):
        await receive(tmp_path / "v1", "w/a.bin", manifest=lies)
    assert not (tmp_path / "v1").exists()
    assert await receive(tmp_path / "v1", "w/b.bin", manifest=lies) == LARGE


def test_whole_digest_of_a_part_is_refused() -> None:
    with pytest.raises(UsageError, match="no whole digest"):
        FolderOptions(only=("a",), verify=WHOLE).checked()
    with pytest.raises(UsageError, match="exceptions are not supported"):
        FolderOptions(only=("!a",)).checked()
