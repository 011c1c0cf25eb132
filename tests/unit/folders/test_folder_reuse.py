"""Files of folders that the reader has serve again: found by digest, verified, never fetched."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shardcast.errors import IntegrityError
from shardcast.folders.contents import folder_layout
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.kept import is_unchanged, kept_selection, kept_states, remove_kept, unchanged_pieces
from shardcast.folders.options import SHARDS, FolderOptions
from shardcast.folders.output import FolderOutput
from shardcast.folders.table import FolderTable
from shardcast.folders.verification import Difference, FolderVerification
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse
from shardcast.store.live_manifest import LiveManifest
from tests.support.filling import fill
from tests.support.folder_manifests import folder_manifest

TIME = 1_763_780_000
LARGE = (1 << 20) + 5
SHARD = 600_000
LINKS = FolderOptions(links=True)


def files(*named: tuple[str, int], time: int = TIME) -> FolderTable:
    """Return a table of files, in the folders that their paths name."""
    entries = [FolderEntry(path.encode(), EntryKind.FILE, size, 0o644, time) for path, size in named]
    folders = {path.rpartition("/")[0] + "/" for path, _ in named if "/" in path}
    entries += [FolderEntry(folder.encode(), EntryKind.FOLDER, mode=0o755) for folder in folders]
    table = FolderTable()
    for entry in sorted(entries, key=lambda entry: entry.path):
        table.append(entry)
    return table


def by_size(table: FolderTable, changed: frozenset[int] = frozenset()):  # type: ignore[no-untyped-def]
    """Return bytes of files that depend on their sizes alone, but for files of ``changed`` sizes."""

    def content(index: int, offset: int, length: int) -> bytes:
        size = table.size(index)
        seed = size + (size in changed)
        return bytes((seed + place * 7) % 251 for place in range(offset, offset + length))

    return content


def version(number: int, table: FolderTable, *changed: int) -> tuple[Manifest, bytes]:
    return folder_manifest(table, by_size(table, frozenset(changed)), shard_size=SHARD, version=f"v{number}")


async def receive(
    folder: Path, made: tuple[Manifest, bytes], options: FolderOptions | None = None
) -> tuple[int, bool]:
    """Receive a folder; return the bytes that were fetched, and whether the payload is to be hashed."""
    manifest, payload = made
    opened = FolderOutput(folder / manifest.version, LiveManifest.of(manifest), options)
    try:
        fetched = await fill(opened, payload, manifest)
        await opened.complete(manifest)
        return fetched, opened.hashes_whole
    finally:
        opened.close()


def differences(folder: Path, manifest: Manifest) -> list[Difference]:
    """Return the differences of a downloaded folder, or part of one, from its version."""
    layout = folder_layout(manifest)
    assert layout
    selection = kept_selection(folder, manifest, layout.table)
    return list(FolderVerification(folder, layout, manifest, selection).run())


OLD = version(1, files(("a", 900), ("b", 70_000), ("big", LARGE), ("other", LARGE + 9)))


async def test_renamed_and_moved_files_cost_no_byte(tmp_path: Path) -> None:
    fetched, whole = await receive(tmp_path, OLD)
    assert fetched > 2 * LARGE
    assert whole
    moved = version(2, files(("a2", 900), ("sub/b", 70_000), ("sub/big", LARGE), ("z", LARGE + 9)))
    assert await receive(tmp_path, moved) == (0, False)
    assert (tmp_path / "v2" / "sub" / "big").read_bytes() == (tmp_path / "v1" / "big").read_bytes()
    assert (tmp_path / "v2" / "a2").stat().st_ino != (tmp_path / "v1" / "a").stat().st_ino


async def test_only_changed_file_is_fetched(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    newer = version(2, files(("a", 900), ("b", 70_000), ("big", LARGE), ("other", LARGE + 9)), LARGE)
    fetched, _ = await receive(tmp_path, newer)
    assert fetched == LARGE


async def test_files_are_linked_where_asked_and_the_record_is_renewed(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    same = files(("b", 70_000), ("big", LARGE))
    later = version(2, same)
    assert await receive(tmp_path, later, LINKS) == (0, False)
    for name in ("b", "big"):
        assert (tmp_path / "v1" / name).samefile(tmp_path / "v2" / name)
    assert is_unchanged(tmp_path / "v1", OLD[0])
    assert is_unchanged(tmp_path / "v2", later[0])
    touched = version(3, files(("b", 70_000), ("big", LARGE), time=TIME + 1))
    assert await receive(tmp_path, touched, LINKS) == (0, False)
    assert not (tmp_path / "v2" / "big").samefile(tmp_path / "v3" / "big")
    assert int((tmp_path / "v3" / "big").stat().st_mtime) == TIME + 1


@pytest.mark.parametrize(
    "part", [FolderOptions(only=("b", "big")), FolderOptions(exclude=("a", "other"))], ids=["only", "exclude"]
)
async def test_part_stays_a_part_of_its_version_when_files_of_it_are_linked(
    tmp_path: Path, part: FolderOptions
) -> None:
    await receive(tmp_path, OLD, part)
    later = version(2, files(("b", 70_000), ("big", LARGE)))
    states = kept_states(tmp_path / "v1").read_bytes()
    assert await receive(tmp_path, later, LINKS) == (0, False)
    assert (tmp_path / "v1" / "big").samefile(tmp_path / "v2" / "big")
    assert kept_states(tmp_path / "v1").read_bytes() != states
    assert not differences(tmp_path / "v1", OLD[0])
    remove_kept(tmp_path / "v2")
    assert not differences(tmp_path / "v1", OLD[0])


async def test_removing_a_version_renews_the_records_of_those_linked_to_it(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    later = version(2, files(("b", 70_000), ("big", LARGE)))
    await receive(tmp_path, later, LINKS)
    states = kept_states(tmp_path / "v2").read_bytes()
    remove_kept(tmp_path / "v1")
    assert not list(tmp_path.glob("*v1*"))
    assert kept_states(tmp_path / "v2").read_bytes() != states
    assert is_unchanged(tmp_path / "v2", later[0])


async def test_pieces_are_given_on_once_a_linked_version_is_removed(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    later = version(2, files(("b", 70_000), ("big", LARGE)))
    await receive(tmp_path, later, LINKS)
    pieces = unchanged_pieces(tmp_path / "v2", later[0])
    assert pieces
    big = pieces.layout.table.find(b"big")
    assert big is not None
    descriptor = pieces.open_large(big)
    remove_kept(tmp_path / "v1")
    assert pieces.is_unchanged(big, descriptor)
    (tmp_path / "v2" / "big").chmod(0o600)
    assert not pieces.is_unchanged(big, descriptor)
    os.close(descriptor)
    pieces.close()


async def test_removing_a_version_hides_no_change_of_a_linked_file(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    later = version(2, files(("b", 70_000), ("big", LARGE)))
    await receive(tmp_path, later, LINKS)
    big = tmp_path / "v2" / "big"
    before = big.stat()
    with big.open("r+b") as file:
        file.write(b"changed")
    os.utime(big, ns=(before.st_mtime_ns, before.st_mtime_ns))
    remove_kept(tmp_path / "v1")
    assert not is_unchanged(tmp_path / "v2", later[0])


async def test_file_changed_behind_its_record_is_fetched_and_never_written_to(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    await receive(tmp_path, version(2, files(("b", 70_000), ("big", LARGE))), LINKS)
    big = tmp_path / "v2" / "big"  # hashed by now, and so known by its record
    before = big.stat()
    with big.open("r+b") as file:
        file.seek(300_000)
        file.write(b"changed")
    os.utime(big, ns=(before.st_mtime_ns, before.st_mtime_ns))
    changed = big.read_bytes()
    fetched, _ = await receive(tmp_path, version(3, files(("b", 70_000), ("big", LARGE))), LINKS)
    assert 0 < fetched <= SHARD
    assert (tmp_path / "v3" / "big").read_bytes() != changed
    assert big.read_bytes() == changed


async def test_manifest_that_lies_of_digests_gives_no_name(tmp_path: Path) -> None:
    """The bytes of the pieces and of the payload are right; a shard's SHA-256 is another file's."""
    await receive(tmp_path, OLD)
    table = files(("a", 900), ("big", LARGE))
    manifest, payload = version(2, table, LARGE)
    other = version(2, table)[0]
    lies = parse(
        manifest.raw.replace(
            (manifest.shards[1].sha256 or "").encode(), (other.shards[1].sha256 or "").encode()
        )
    )
    with pytest.raises(IntegrityError, match="v2 shard 2: its bytes have another SHA-256"):
        await receive(tmp_path, (lies, payload), FolderOptions(verify=SHARDS))
    assert not (tmp_path / "v2").exists()


async def test_older_manifest_that_lied_of_a_file_gives_no_name(tmp_path: Path) -> None:
    """v1 said that its small file has the digest of another one, which v2 has."""
    honest, payload = version(1, files(("a", 900), ("b", 70_000)))
    wanted = version(2, files(("a", 900), ("b", 70_000)), 70_000)
    digests = [line for line in wanted[0].raw.splitlines() if b"file_digests" in line]
    lines = [line if b"file_digests" not in line else digests[0] for line in honest.raw.splitlines()]
    await receive(tmp_path, (parse(b"\n".join(lines) + b"\n"), payload))
    fetched, _ = await receive(tmp_path, wanted, LINKS)
    assert fetched > 0
    expected = by_size(files(("a", 900), ("b", 70_000)), frozenset({70_000}))(1, 0, 70_000)
    assert (tmp_path / "v2" / "b").read_bytes() == expected


async def test_record_that_lies_is_not_believed_without_its_manifest(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    states = kept_states(tmp_path / "v1")
    states.write_bytes(states.read_bytes().replace(b'"manifest": "', b'"manifest": "0'))
    assert not is_unchanged(tmp_path / "v1", OLD[0])
    states.write_bytes(b"\xff" * 100)
    assert not is_unchanged(tmp_path / "v1", OLD[0])
    later = replace(LINKS, seeds=(tmp_path / "v1",))
    assert await receive(tmp_path, version(2, files(("b", 70_000), ("big", LARGE))), later) == (0, False)


async def test_added_removed_or_touched_file_is_seen(tmp_path: Path) -> None:
    await receive(tmp_path, OLD)
    folder = tmp_path / "v1"
    assert is_unchanged(folder, OLD[0])
    (folder / "more").touch()
    assert not is_unchanged(folder, OLD[0])
    (folder / "more").unlink()
    assert is_unchanged(folder, OLD[0])
    (folder / "a").chmod(0o600)
    assert not is_unchanged(folder, OLD[0])
