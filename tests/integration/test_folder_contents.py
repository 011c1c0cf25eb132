"""``--list --files`` and ``--verify``: what a folder holds, and what of a copy of it differs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.table import FolderTable
from shardcast.protocol.manifest import Manifest
from tests.support import processes
from tests.support.folder_manifests import counted, folder_manifest

TIME = 1_763_780_000


@pytest.fixture
def manifest() -> Manifest:
    table = FolderTable()
    table.append(FolderEntry(b"config.json", EntryKind.FILE, 640, 0o644, TIME))
    table.append(FolderEntry(b"weights/", EntryKind.FOLDER, mode=0o755))
    table.append(FolderEntry(b"weights/a\n", EntryKind.FILE, 3, 0o600, TIME))
    table.append(FolderEntry(b"weights/newest", EntryKind.SYMLINK, 0, 0o777, TIME, b"a\n"))
    return folder_manifest(table)[0]


@pytest.fixture
def folder(tmp_path: Path, manifest: Manifest) -> Path:
    """Return the folder as a download leaves it, with its manifest beside it."""
    root = tmp_path / "v1"
    (root / "weights").mkdir(parents=True)
    (root / "weights").chmod(0o755)
    (root / "weights" / "newest").symlink_to("a\n")
    for index, name, mode, size in ((0, "config.json", 0o644, 640), (2, "weights/a\n", 0o600, 3)):
        (root / name).write_bytes(counted(index, 0, size))
        (root / name).chmod(mode)
        os.utime(root / name, (TIME, TIME))
    (tmp_path / ".v1.manifest").write_bytes(manifest.raw)
    return root


def test_folder_as_published_verifies(folder: Path) -> None:
    done = processes.run("client", "--verify", str(folder))
    assert (done.returncode, done.stdout) == (0, "")
    assert "is v1 as it was published: 643 B in its files" in done.stderr


def test_changed_folder_is_an_integrity_error_that_names_each_file(folder: Path) -> None:
    (folder / "config.json").chmod(0o600)
    (folder / "weights" / "a\n").unlink()
    done = processes.run("client", "--verify", str(folder))
    assert done.returncode == 5
    assert done.stdout.splitlines() == ["config.json: has the mode 600, not 644", "weights/a\\n: is missing"]
    assert "is not v1 as it was published: 2 differences" in done.stderr
    told = json.loads(processes.run("client", "--verify", str(folder), "--json").stdout)
    assert told["version"] == "v1"
    assert told["differences"][1] == {"path": "weights/a\n", "what": "is missing"}


def test_part_of_a_folder_is_compared_with_that_part(tmp_path: Path) -> None:
    source, part = tmp_path / "model", tmp_path / "part"
    (source / "weights").mkdir(parents=True)
    for name in ("config.json", "weights/a", "weights/b"):
        (source / name).write_bytes(name.encode() * 1000)
    (source / "weights" / "z").hardlink_to(source / "config.json")
    with processes.origin(tmp_path / "data") as origin:
        processes.run("broadcast", str(source), "--data-dir", str(tmp_path / "data"))
        words = ("--version", "v1", "--only", "weights/", "--exclude", "*b", "--output-file", str(part))
        done = processes.run("client", "--servers", origin.url, *words)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in part.rglob("*")) == ["a", "weights", "z"]
    right = processes.run("client", "--verify", str(part))
    assert (right.returncode, right.stdout) == (0, "")
    assert "is a part of v1 as it was published: 20.0 kB in its files" in right.stderr
    (part / "config.json").write_bytes(b"more")
    found = (part / "weights" / "z").stat()
    (part / "weights" / "z").write_bytes(b"config.jso!" * 1000)
    os.utime(part / "weights" / "z", ns=(found.st_atime_ns, found.st_mtime_ns))
    wrong = processes.run("client", "--verify", str(part))
    assert wrong.returncode == 5
    assert wrong.stdout.splitlines() == [
        "config.json: does not belong to the version",
        "weights/z: has wrong bytes in shard 1",
    ]


def test_verify_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    def error_of(path: Path) -> tuple[int, str]:
        done = processes.run("client", "--verify", str(path))
        return done.returncode, done.stderr

    code, text = error_of(tmp_path / "nowhere")
    assert code == 2 and "there is no such folder" in text
    (tmp_path / ".v1.manifest").write_bytes(b"{}\n")
    code, text = error_of(folder)
    assert code == 6 and "download the version again" in text
    (tmp_path / ".v1.manifest").unlink()
    code, text = error_of(folder)
    assert code == 2 and ".v1.manifest is not beside it" in text
    assert "Traceback" not in text


def test_files_of_a_version_are_listed(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "weights").mkdir(parents=True)
    (source / "weights").chmod(0o755)
    (source / "config.json").write_bytes(b"{}")
    (source / "config.json").chmod(0o644)
    (source / "weights" / "newest").symlink_to("../config.json")
    os.utime(source / "config.json", (TIME, TIME))
    with processes.origin(tmp_path / "data") as origin:
        sent = processes.run("broadcast", str(source), "--data-dir", str(tmp_path / "data"))
        assert sent.returncode == 0, sent.stderr
        versions = processes.run("client", "--servers", origin.url, "--list")
        listed = processes.run("client", "--servers", origin.url, "--list", "--files", "latest")
        as_json = processes.run("client", "--servers", origin.url, "--list", "--files", "v1", "--json")
        unknown = processes.run("client", "--servers", origin.url, "--list", "--files", "v7")
    assert versions.stdout.split()[-2:] == ["model/", "-"]
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("-rw-r--r--", "2", "config.json"),
        ("drwxr-xr-x", "0", "weights/"),
        ("lrwxrwxrwx", "0", "../config.json"),
    ]
    assert [entry["path"] for entry in json.loads(as_json.stdout)] == [
        "config.json",
        "weights/",
        "weights/newest",
    ]
    assert unknown.returncode == 3 and "v7" in unknown.stderr


def test_files_of_a_version_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"bytes")
    with processes.origin(tmp_path / "data") as origin:
        processes.run("broadcast", str(tmp_path / "model.bin"), "--data-dir", str(tmp_path / "data"))
        done = processes.run("client", "--servers", origin.url, "--list", "--files", "v1")
    assert done.returncode == 2 and "v1 is a file, 'model.bin', not a folder" in done.stderr


def test_files_without_list_is_a_usage_error() -> None:
    done = processes.run("client", "--files", "v1", "--version", "v1")
    assert done.returncode == 2 and "--files goes with --list" in done.stderr
