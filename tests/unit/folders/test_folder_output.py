"""The output of a version that is a folder: its name appears when every entry is right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from shardcast.errors import IntegrityError, LocalDiskError
from shardcast.folders.contents import folder_layout
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.output import FolderOutput
from shardcast.folders.table import FolderTable
from shardcast.folders.verification import FolderVerification
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse
from shardcast.store.live_manifest import LiveManifest
from tests.support.filling import fill, names
from tests.support.folder_manifests import counted, folder_manifest
from tests.support.folder_tables import folder_tables
from tests.support.other_user import as_nobody, place_for_all

TIME = 1_763_780_000
LARGE = (1 << 20) + 5
SHARD = 600_000


def some_table() -> FolderTable:
    table = FolderTable()
    table.append(FolderEntry(b"config", EntryKind.FILE, 640, 0o640, TIME))
    table.append(FolderEntry(b"copy", EntryKind.HARD_LINK, 0, 0o640, TIME, b"config"))
    table.append(FolderEntry(b"empty", EntryKind.FILE, 0, 0o400, -5))
    table.append(FolderEntry(b"hollow/", EntryKind.FOLDER, mode=0o500))
    table.append(FolderEntry(b"large", EntryKind.FILE, LARGE, 0o600, TIME))
    table.append(FolderEntry(b"w/", EntryKind.FOLDER, mode=0o755))
    table.append(FolderEntry(b"w/\xff", EntryKind.FILE, 300_000, 0o644, TIME))
    table.append(FolderEntry(b"x", EntryKind.SYMLINK, 0, 0o777, TIME, b"w"))
    return table


MANIFEST, PAYLOAD = folder_manifest(some_table(), shard_size=SHARD)


@contextlib.contextmanager
def open_folder(output: Path, manifest: Manifest = MANIFEST) -> Iterator[FolderOutput]:
    opened = FolderOutput(output, LiveManifest.of(manifest))
    try:
        yield opened
    finally:
        opened.close()


async def receive(output: Path, manifest: Manifest = MANIFEST, payload: bytes = PAYLOAD) -> int:
    """Receive a folder, and return the number of bytes that were not here."""
    with open_folder(output, manifest) as opened:
        fetched = await fill(opened, payload, manifest)
        await opened.complete(manifest)
        return fetched


def differences(folder: Path, manifest: Manifest = MANIFEST) -> dict[str, str]:
    layout = folder_layout(manifest)
    assert layout
    return {found.path: found.what for found in FolderVerification(folder, layout, manifest).run()}


async def test_folder_appears_on_completion_equal_and_without_leftovers(tmp_path: Path) -> None:
    output = tmp_path / "some" / "v1"
    with open_folder(output) as opened:
        await fill(opened, PAYLOAD, MANIFEST)
        assert names(output.parent) == {".v1.part"}
        await opened.complete(MANIFEST)
    assert differences(output) == {}
    assert (output / "w" / os.fsdecode(b"\xff")).read_bytes() == counted(6, 0, 300_000)
    assert (output / "config").samefile(output / "copy")
    assert names(output.parent) == {"v1", ".v1.manifest", ".v1.files"}
    assert parse((output.parent / ".v1.manifest").read_bytes()) == MANIFEST


async def test_interrupted_folder_resumes_by_file_and_piece(tmp_path: Path) -> None:
    output = tmp_path / "v1"
    whole = await receive(tmp_path / "other" / "v1")
    with open_folder(output) as opened:
        before = await fill(
            opened, PAYLOAD, MANIFEST, stop=MANIFEST.shards[1].offset + MANIFEST.header.piece_size
        )
    assert before > 0
    assert await receive(output) == whole - before
    assert differences(output) == {}


async def test_folder_keeps_nothing_of_an_earlier_run_that_is_not_in_its_list(tmp_path: Path) -> None:
    output = tmp_path / "v1"
    with open_folder(output) as opened:
        await fill(opened, PAYLOAD, MANIFEST, stop=MANIFEST.shards[1].offset)
        inside = tmp_path / ".v1.part" / "folder"
        (inside / "stranger").write_text("x")
        (inside / "empty").mkdir()
        (inside / "empty" / "more").write_text("x")
        (inside / "w").symlink_to(tmp_path)
        (inside / "copy").mkdir(0o000)
        (inside / "config").unlink()
        (inside / "config").symlink_to(tmp_path / "outside")
    await receive(output)
    assert differences(output) == {}
    assert not (tmp_path / "outside").exists()


async def test_name_of_another_program_in_an_arriving_folder_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "v1"
    with open_folder(output) as opened:
        await fill(opened, PAYLOAD, MANIFEST)
        (tmp_path / ".v1.part" / "folder" / "w" / "stranger").touch()
        with pytest.raises(LocalDiskError, match="'w/' has 1 entries and 2 names: another program wrote"):
            await opened.complete(MANIFEST)
    await receive(output)
    assert differences(output) == {}


def test_closed_folder_of_an_earlier_run_is_removed() -> None:
    def receive_over(output: Path) -> dict[str, str]:
        inside = output.parent / ".v1.part" / "folder" / "w"
        inside.mkdir(parents=True)
        (inside / "closed" / "deep").mkdir(parents=True)
        for closed in (inside / "closed" / "deep", inside / "closed", inside):
            closed.chmod(0o100)
        asyncio.run(receive(output))
        return differences(output)

    with place_for_all() as top:
        assert as_nobody(lambda: receive_over(top / "v1")) == {}


async def test_tar_that_differs_from_list_is_refused_and_named(tmp_path: Path) -> None:
    table = some_table()
    listed = FolderTable()
    for entry in table:
        mode = 0o644 if entry.path == b"config" else entry.mode
        listed.append(FolderEntry(entry.path, entry.kind, entry.size, mode, entry.mtime, entry.link))
    other, _ = folder_manifest(listed, shard_size=SHARD)
    lines = MANIFEST.raw.splitlines(keepends=True)
    lines[1] = other.raw.splitlines(keepends=True)[1]
    manifest = parse(b"".join(lines))
    with pytest.raises(IntegrityError, match="v1 shard 1: the tar differs from the list"):
        await receive(tmp_path / "v1", manifest)
    assert not (tmp_path / "v1").exists()


async def test_folder_of_others_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "mine").write_text("x")
    with pytest.raises(LocalDiskError, match="not made by a download"):
        await receive(tmp_path / "v1")
    assert (tmp_path / "v1" / "mine").read_text() == "x"
    (tmp_path / "file").write_text("x")
    with pytest.raises(LocalDiskError, match="not a folder"):
        await receive(tmp_path / "file")


async def test_folder_replaces_an_earlier_version_of_itself(tmp_path: Path) -> None:
    output = tmp_path / "v1"
    await receive(output)
    table = FolderTable()
    table.append(FolderEntry(b"other", EntryKind.FILE, 10, 0o644, TIME))
    manifest, payload = folder_manifest(table)
    await receive(output, manifest, payload)
    assert names(output) == {"other"}
    assert names(tmp_path) == {"v1", ".v1.manifest", ".v1.files"}


async def test_shards_that_do_not_follow_from_entries_are_refused(tmp_path: Path) -> None:
    manifest, payload = folder_manifest(some_table(), shard_size=SHARD)
    wrong = parse(manifest.raw.replace(b'"shard_size":600000', b'"shard_size":500000'))
    with pytest.raises(IntegrityError, match="shard 2 is not the one"):
        await receive(tmp_path / "v1", wrong, payload)


async def test_second_process_takes_a_folder_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "v1"
    with open_folder(output) as first, open_folder(output) as second:
        await fill(first, PAYLOAD, MANIFEST)
        await fill(second, PAYLOAD, MANIFEST)
        assert names(tmp_path) == {".v1.part", ".v1.part-2"}
        await first.complete(MANIFEST)
        await second.complete(MANIFEST)
    assert differences(output) == {}
    assert names(tmp_path) == {"v1", ".v1.manifest", ".v1.files"}


async def test_temporary_folder_is_private_and_the_named_one_is_not(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with open_folder(tmp_path / "v1") as opened:
            await fill(opened, PAYLOAD, MANIFEST)
            assert stat.S_IMODE((tmp_path / ".v1.part").stat().st_mode) == 0o700
            await opened.complete(MANIFEST)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "v1").stat().st_mode) == 0o750


@settings(deadline=None, max_examples=40)
@given(folder_tables())
def test_any_folder_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, table: FolderTable) -> None:
    manifest, payload = folder_manifest(table, shard_size=2048)
    output = tmp_path_factory.mktemp("any") / "v1"
    asyncio.run(receive(output, manifest, payload))
    assert differences(output, manifest) == {}
