"""Comparing a folder with its version: each kind of difference is told, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.folders.contents import folder_layout
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.table import FolderTable
from shardcast.folders.verification import FolderVerification
from shardcast.protocol.manifest import Manifest
from tests.support.folder_manifests import counted, folder_manifest
from tests.support.other_user import as_nobody, place_for_all

TIME = 1_763_780_000
LARGE = (1 << 20) + 5


def some_table() -> FolderTable:
    table = FolderTable()
    table.append(FolderEntry(b"config", EntryKind.FILE, 640, 0o644, TIME))
    table.append(FolderEntry(b"copy", EntryKind.HARD_LINK, 0, 0o644, TIME, b"config"))
    table.append(FolderEntry(b"large", EntryKind.FILE, LARGE, 0o600, TIME))
    table.append(FolderEntry(b"w/", EntryKind.FOLDER, mode=0o755))
    table.append(FolderEntry(b"w/\xff", EntryKind.FILE, 3, 0o644, TIME))
    table.append(FolderEntry(b"x", EntryKind.SYMLINK, 0, 0o777, TIME, b"w"))
    return table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def write_folder(root: Path) -> Path:
    """Write a folder with these entries, and return its path."""
    root.mkdir()
    for index, entry in enumerate(some_table()):
        path = root / entry.text
        if entry.kind is EntryKind.FOLDER:
            path.mkdir()
        elif entry.kind is EntryKind.SYMLINK:
            path.symlink_to(os.fsdecode(entry.link))
        elif entry.kind is EntryKind.HARD_LINK:
            path.hardlink_to(root / os.fsdecode(entry.link))
        else:
            path.write_bytes(counted(index, 0, entry.size))
            path.chmod(entry.mode)
            os.utime(path, (TIME, TIME + 0.5))
    return root


def differences(folder: Path, manifest: Manifest | None = None) -> dict[str, str]:
    manifest = manifest or folder_manifest(some_table(), shard_size=600_000)[0]
    layout = folder_layout(manifest)
    assert layout
    return {found.path: found.what for found in FolderVerification(folder, layout, manifest).run()}


def write_at(path: Path, offset: int) -> None:
    """Change a byte and keep the time of the last write."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_folder_as_published_has_no_differences(folder: Path) -> None:
    assert differences(folder) == {}


def replace_link(folder: Path) -> None:
    (folder / "x").unlink()
    (folder / "x").symlink_to("config")


def break_hard_link(folder: Path) -> None:
    (folder / "copy").unlink()
    (folder / "copy").write_bytes(b"")


def turn_into_link(folder: Path) -> None:
    (folder / "large").rename(folder.parent / "large")
    (folder / "large").symlink_to("../large")


CHANGES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "byte of a small file": (
        lambda folder: write_at(folder / "w" / "\udcff", 1),
        {"w/\udcff": "wrong bytes"},
    ),
    "byte of a large file": (
        lambda folder: write_at(folder / "large", 700_000),
        {"large": "wrong bytes in shard 3"},
    ),
    "missing file": (lambda folder: (folder / "large").unlink(), {"large": "missing"}),
    "missing folder": (
        lambda folder: ((folder / "w" / "\udcff").unlink(), (folder / "w").rmdir()),
        {"w/": "missing", "w/\udcff": "missing"},
    ),
    "size": (lambda folder: os.truncate(folder / "config", 600), {"config": "has 600 bytes, not 640"}),
    "mode": (lambda folder: (folder / "large").chmod(0o644), {"large": "mode 644, not 600"}),
    "mode of a folder": (lambda folder: (folder / "w").chmod(0o700), {"w/": "mode 700, not 755"}),
    "time": (lambda folder: os.utime(folder / "large", (1, 1)), {"large": "written to at 1, not"}),
    "target": (replace_link, {"x": "leads to 'config'"}),
    "hard link": (break_hard_link, {"copy": "another file than 'config'"}),
    "link in place of a file": (turn_into_link, {"large": "is no file"}),
    "file that does not belong": (
        lambda folder: (folder / "w" / "more").write_bytes(b""),
        {"w/more": "does not belong"},
    ),
    "folder that does not belong": (lambda folder: (folder / "more").mkdir(), {"more": "does not belong"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_is_told_and_nothing_else(folder: Path, change: str) -> None:
    work, expected = CHANGES[change]
    work(folder)
    if change == "size":
        os.utime(folder / "config", (TIME, TIME))
    found = differences(folder)
    assert found.keys() == expected.keys()
    assert all(words in found[path] for path, words in expected.items())


def test_what_this_user_may_not_read_is_told_by_name() -> None:
    def compare(root: Path) -> dict[str, str]:
        write_folder(root)
        for path in ("large", "config", "w"):
            (root / path).chmod(0)
        try:
            return differences(root)
        finally:
            (root / "w").chmod(0o700)

    with place_for_all() as top:
        told = as_nobody(lambda: compare(top / "model"))
    assert told.pop("copy") == "has the mode 000, not 644"  # its bytes are those of config
    assert told == dict.fromkeys(("config", "large", "w/", "w/\udcff"), "can't be read: no permission")


def test_folder_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="could not read"):
        differences(tmp_path / "nowhere")


def test_link_in_place_of_a_folder_is_not_followed(folder: Path) -> None:
    (folder / "w").rename(folder.parent / "elsewhere")
    (folder / "w").symlink_to("../elsewhere")
    assert stat.S_ISLNK((folder / "w").lstat().st_mode)
    assert differences(folder) == {"w/": "is no folder", "w/\udcff": "is missing"}
