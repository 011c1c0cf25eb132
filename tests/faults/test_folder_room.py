"""Folders received on a disk with little more room than their files take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.support.commands import command
from tests.support.folder_trees import read_tree
from tests.support.processes import Node, origin, run, started, wait_until
from tests.support.small_disks import SmallDisk, small_disk

pytestmark = pytest.mark.root
LARGE, SMALL, BLOCK = 3 << 20, 20 << 10, 4096
SHARD = 700_000
"""Bytes of a shard: many lie between the large files, of 4 MB of small ones."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("source") / "model", Random(3)
    for place in range(4):
        folder = root / f"part-{place}"
        folder.mkdir(parents=True)
        (folder / "large.bin").write_bytes(random.randbytes(LARGE))
        for number in range(50):
            (folder / f"small-{number}").write_bytes(random.randbytes(SMALL))
    return root


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    data_dir = tmp_path_factory.mktemp("data")
    broadcast(model, data_dir)
    with origin(data_dir, "--upload-limit", "20MB") as node:
        yield node


@pytest.fixture
def disk(tmp_path: Path, model: Path) -> Iterator[SmallDisk]:
    """A disk with room for the folder and one shard, which is less than 1.1 × the folder."""
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    room = size + SHARD
    assert room < 1.1 * size
    with small_disk(tmp_path / "disk", str(room // BLOCK * BLOCK)) as mounted:
        yield mounted


def broadcast(folder: Path, data_dir: Path) -> None:
    done = run("broadcast", str(folder), "--data-dir", str(data_dir), "--shard-size", str(SHARD))
    assert done.returncode == 0, done.stderr


def download(node: Node, output: Path) -> list[str]:
    """Return the words of a client that downloads the newest version."""
    return ["client", "--servers", node.url, "--version", "latest", "--output-dir", str(output)]


@pytest.mark.parametrize("sharing", [(), ("--share", "--share-host", "127.0.0.1", "--port", "0")])
def test_folder_is_received_with_room_for_it_and_one_shard(
    served: Node, model: Path, disk: SmallDisk, sharing: tuple[str, ...]
) -> None:
    done = run(*download(served, disk.path), *sharing)
    assert done.returncode == 0, done.stderr
    assert read_tree(disk.path / "v1") == read_tree(model)


def test_killed_download_goes_on_in_the_same_room(served: Node, model: Path, disk: SmallDisk) -> None:
    with started(command(*download(served, disk.path)), timeout=0) as client:
        wait_until(lambda: disk.used > 2 * LARGE, what="a part of the folder")
        client.kill()
    assert not (disk.path / "v1").exists()
    done = run(*download(served, disk.path))
    assert done.returncode == 0, done.stderr
    assert read_tree(disk.path / "v1") == read_tree(model)


def test_folder_of_empty_files_needs_no_room_for_its_tar(tmp_path: Path) -> None:
    folder, count = tmp_path / "empty", 3000
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}").touch()
    broadcast(folder, tmp_path / "data")
    with origin(tmp_path / "data") as node, small_disk(tmp_path / "disk", "1m") as disk:
        done = run(*download(node, disk.path))
        assert done.returncode == 0, done.stderr
        assert len(list((disk.path / "v1").iterdir())) == count


def test_folder_without_room_is_refused_before_any_of_it_is_fetched(served: Node, disk: SmallDisk) -> None:
    disk.fill(leaving=4 * LARGE)
    used = disk.used
    done = run(*download(served, disk.path))
    assert (done.returncode, "No space left" in done.stderr) == (6, True), done.stderr
    assert disk.used - used < SHARD
