"""Bytes of a folder on the wire, all of them counted: of a part, of the next version, of files that moved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.counting_links import CountingLink, counting_link
from tests.support.folder_trees import read_tree
from tests.support.processes import origin, run

SIZE = 3 << 20
"""Bytes of each of ten files, so that what is told beside them is small in comparison."""
TOLD = 64 << 10
"""Bytes of answers without payload: the feed, the list, the manifest."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root, random = tmp_path / "model", Random(5)
    (root / "weights").mkdir(parents=True)
    for number in range(10):
        (root / "weights" / f"{number}.bin").write_bytes(random.randbytes(SIZE))
    (root / "config.json").write_bytes(b"{}")
    return root


@pytest.fixture
def link(tmp_path: Path, model: Path) -> Iterator[CountingLink]:
    """A link to an origin that has the folder as v1."""
    broadcast(tmp_path, model)
    with origin(tmp_path / "data") as node, counting_link(node.port) as link:
        yield link


def broadcast(tmp_path: Path, model: Path) -> None:
    done = run("broadcast", str(model), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr


def download(link: CountingLink, output: Path, *words: str) -> tuple[dict[str, Any], int]:
    """Download the newest version; return what is told of it, and all bytes that came."""
    before = link.sent
    done = run(
        "client", "--servers", link.url, "--version", "latest", "--output-dir", str(output), "--json", *words
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), link.sent - before


def change_one(model: Path) -> None:
    (model / "weights" / "4.bin").write_bytes(Random(9).randbytes(SIZE))


def rename_and_move(model: Path) -> None:
    (model / "weights" / "0.bin").rename(model / "weights" / "newest.bin")
    (model / "old").mkdir()
    (model / "weights" / "1.bin").rename(model / "old" / "1.bin")


def test_one_file_of_ten_costs_little_more_than_it_has(tmp_path: Path, link: CountingLink) -> None:
    _, came = download(link, tmp_path / "part", "--only", "weights/3.bin")
    assert SIZE < came <= 1.02 * SIZE
    assert [path.name for path in (tmp_path / "part" / "v1").rglob("*.bin")] == ["3.bin"]


@pytest.mark.parametrize(
    ("change", "payload", "most"),
    [(change_one, SIZE, 1.01 * SIZE), (rename_and_move, 0, TOLD)],
    ids=["changed", "moved"],
)
def test_next_version_costs_what_changed(
    change: Callable[[Path], None],
    payload: int,
    most: float,
    *,
    tmp_path: Path,
    model: Path,
    link: CountingLink,
) -> None:
    download(link, tmp_path / "out")
    change(model)
    broadcast(tmp_path, model)
    told, came = download(link, tmp_path / "out")
    assert told["version"] == "v2" and read_tree(tmp_path / "out" / "v2") == read_tree(model)
    assert sum(told["received"].values()) == payload
    assert payload < came <= most
