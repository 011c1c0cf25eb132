"""Nodes that know no folders receive a folder as a tar, whose program gives it back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shardcast.api.open_folder import FolderWriter
from tests.compat.test_earlier_state import earlier_middle, earlier_run
from tests.support import legacy, processes
from tests.support.folder_trees import Node, read_tree
from tests.support.legacy import OldShardcast
from tests.support.processes import wait_until

# Fixtures of this module too.
old = legacy.old
newer_old = legacy.newer_old


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "weights.bin").write_bytes(os.urandom((1 << 20) + 5))
    (root / "sub" / "ü").write_bytes(b"small")
    (root / "sub" / "script").write_bytes(b"#!/bin/sh\n")
    (root / "sub" / "script").chmod(0o755)
    (root / "link").symlink_to("sub/script")
    (root / "same").hardlink_to(root / "weights.bin")
    (root / ("long" * 30)).write_bytes(b"")
    return root


def unpacked(tar: Path) -> dict[bytes, Node]:
    """Return what the program tar makes of a download."""
    out = tar.parent / "unpacked"
    out.mkdir()
    subprocess.run(["tar", "-xpf", str(tar), "-C", str(out)], check=True)
    return read_tree(out)


def broadcast(model: Path, data_dir: Path) -> None:
    done = processes.run("broadcast", str(model), "--data-dir", str(data_dir), "--shard-size", "300kB")
    assert done.stdout == "v1\n", done.stderr


@pytest.mark.legacy
@pytest.mark.parametrize("way", ["copied", "linked", "sent", "written"])
def test_old_client_receives_a_folder_as_a_tar(
    old: OldShardcast, model: Path, tmp_path: Path, way: str
) -> None:
    expected = read_tree(model)
    with processes.origin(tmp_path / "data", "--publish", "--shard-size", "300kB") as origin:
        if way == "written":
            expected = write_files(model, tmp_path / "data")
        else:
            options = {
                "linked": ("--data-dir", str(tmp_path / "data"), "--link"),
                "sent": ("--to", origin.url),
            }
            words = options.get(way, ("--data-dir", str(tmp_path / "data")))
            done = processes.run("broadcast", str(model), *words)
            assert done.stdout == "v1\n", done.stderr
        tar = tmp_path / "old.tar"
        done = old.client("--servers", origin.url, "--version", "v1", "--output-file", str(tar))
    assert done.returncode == 0, done.stderr
    assert unpacked(tar) == expected


def write_files(model: Path, data_dir: Path) -> dict[bytes, Node]:
    """Write the files of a folder one by one as a version; return what readers get."""
    (model / "same").unlink()
    with FolderWriter(data_dir, "model") as folder:
        for file in sorted(model.rglob("*")):
            if file.is_file() and not file.is_symlink():
                folder.add(file, str(file.relative_to(model)))
    found = read_tree(model)
    return {path: node for path, node in found.items() if path not in (b"link", b"sub/empty")}


def test_earlier_middle_and_client_receive_a_folder_as_a_tar(model: Path, tmp_path: Path) -> None:
    broadcast(model, tmp_path / "data")
    tar = tmp_path / "earlier.tar"
    with (
        processes.origin(tmp_path / "data") as origin,
        earlier_middle(origin.url, tmp_path / "middle") as middle,
    ):
        wait_until(lambda: legacy.listed(middle.url) == legacy.listed(origin.url), what="v1 at the middle")
        words = ("--servers", middle.url, "--version", "v1", "--output-file", str(tar))
        done = earlier_run("client", *words)
    assert done.returncode == 0, done.stderr
    assert unpacked(tar) == read_tree(model)
