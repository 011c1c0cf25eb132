"""Folders from an origin through middles to clients: equal, resumed after kills, and a tar to old ones."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from shardcast.folders.layout import LEAST_LARGE
from tests.support import legacy, processes
from tests.support.commands import command
from tests.support.folder_trees import read_tree
from tests.support.legacy import OldShardcast
from tests.support.processes import middle, origin, run

LARGE = LEAST_LARGE + 1000
old = legacy.old


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root, random = tmp_path / "model", Random(7)
    (root / "weights").mkdir(parents=True)
    (root / "empty").mkdir()
    for name, size in (("config.json", 700), ("weights/a.bin", LARGE), ("weights/b.bin", 2 * LARGE)):
        (root / name).write_bytes(random.randbytes(size))
    for number in range(40):
        (root / "weights" / f"part-{number}").write_bytes(random.randbytes(9000))
    (root / "latest").symlink_to("weights/a.bin")
    (root / "weights" / "again").hardlink_to(root / "config.json")
    (root / "weights" / os.fsdecode(b"odd\n\xff")).write_bytes(b"odd")
    (root / "config.json").chmod(0o640)
    return root


@pytest.fixture
def data_dir(tmp_path: Path, model: Path) -> Iterator[Path]:
    broadcast(tmp_path / "data", model)
    yield tmp_path / "data"


def broadcast(data_dir: Path, folder: Path) -> None:
    done = run("broadcast", str(folder), "--data-dir", str(data_dir), "--shard-size", "700000")
    assert done.returncode == 0, done.stderr


def download(url: str, output: Path, *words: str) -> dict[str, Any]:
    done = run(
        "client", "--servers", url, "--version", "latest", "--output-dir", str(output), "--json", *words
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_folder_comes_back_equal_through_two_middles(tmp_path: Path, model: Path, data_dir: Path) -> None:
    with (
        origin(data_dir) as first,
        middle(first.url, tmp_path / "middle1") as second,
        middle(second.url, tmp_path / "middle2") as third,
    ):
        third.wait_for_log("v1 is complete")
        found = download(third.url, tmp_path / "out")
    assert found["path"] == str(tmp_path / "out" / "v1")
    assert read_tree(tmp_path / "out" / "v1") == read_tree(model)
    done = run("client", "--verify", str(tmp_path / "out" / "v1"))
    assert done.returncode == 0, done.stderr


def test_next_version_fetches_changes_and_the_same_one_nothing(
    tmp_path: Path, model: Path, data_dir: Path
) -> None:
    with origin(data_dir) as node:
        first = download(node.url, tmp_path / "out")
        again = download(node.url, tmp_path / "out")
        assert sum(first["received"].values()) > 3 * LARGE
        assert again["received"] == {}
        (model / "weights" / "b.bin").rename(model / "renamed.bin")
        (model / "weights" / "a.bin").write_bytes(Random(8).randbytes(LARGE))
        broadcast(data_dir, model)
        second = download(node.url, tmp_path / "out", "--link")
        assert second["version"] == "v2"
        assert sum(second["received"].values()) == LARGE
        part = download(
            node.url, tmp_path / "part", "--only", "*.json", "--seed", str(tmp_path / "out" / "v1")
        )
    assert sum(part["received"].values()) == 0
    assert read_tree(tmp_path / "out" / "v2") == read_tree(model)
    assert (tmp_path / "out" / "v2" / "renamed.bin").samefile(tmp_path / "out" / "v1" / "weights" / "b.bin")
    assert {path.name for path in (tmp_path / "part" / "v2").iterdir()} == {"config.json"}


def test_killed_clients_go_on_and_leave_an_equal_folder(tmp_path: Path, model: Path, data_dir: Path) -> None:
    output, random = tmp_path / "out", Random(3)
    words = ("--version", "latest", "--output-dir", str(output), "--download-limit", "20MB")
    with origin(data_dir) as node:
        for _ in range(4):
            process = processes.Popen(command("client", "--servers", node.url, *words))
            time.sleep(0.05 + random.random() / 4)
            process.kill()
            process.wait(30)
            left = {entry.name for entry in output.iterdir()} if output.exists() else set()
            assert "v1" not in left or read_tree(output / "v1") == read_tree(model)
        download(node.url, output)
    assert read_tree(output / "v1") == read_tree(model)
    assert {entry.name for entry in output.iterdir()} == {"v1", ".v1.manifest", ".v1.files"}


def test_followed_folders_are_announced_kept_and_removed(tmp_path: Path, model: Path, data_dir: Path) -> None:
    output = tmp_path / "out"
    hook = f"test -d {{path}} && echo {{version}} >> {tmp_path}/hooks"
    words = ("--follow", "--output-dir", str(output), "--keep", "1", "--exec", hook)
    with (
        origin(data_dir) as node,
        processes.started(command("client", "--servers", node.url, *words), timeout=0),
    ):
        hooks = tmp_path / "hooks"
        processes.wait_until(lambda: hooks.exists() and hooks.read_text() == "v1\n")
        assert (output / "latest").readlink() == Path("v1")
        (model / "config.json").write_bytes(b"new")
        broadcast(data_dir, model)
        processes.wait_until(lambda: hooks.read_text() == "v1\nv2\n")
        names = {"v2", ".v2.manifest", ".v2.files", ".v2.record", "latest"}
        processes.wait_until(lambda: kept_in(output) == names, timeout=60, what=f"{names} alone")
    assert read_tree(output / "latest") == read_tree(model)


def kept_in(output: Path) -> set[str]:
    """Return the names in the folder of a follower, without those of its own records."""
    names = {entry.name for entry in output.iterdir() if not entry.name.startswith(".shardcast")}
    return names - {".latest-under-way"}


@pytest.mark.legacy
def test_old_client_receives_a_tar(tmp_path: Path, model: Path, data_dir: Path, old: OldShardcast) -> None:
    with origin(data_dir) as node, middle(node.url, tmp_path / "middle") as between:
        between.wait_for_log("v1 is complete")
        received = tmp_path / "download_v1.bin"
        servers = between.url.removeprefix("http://")
        done = old.client("--servers", servers, "--version", "v1", "--output-file", str(received))
        assert received.exists(), done.stderr
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "xpf", received], cwd=tmp_path / "unpacked", check=True, timeout=60)
    assert read_tree(tmp_path / "unpacked") == read_tree(model)
