"""The layout of a directory is the one in which its blobs lie, whatever else is in it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import (
    FLAT,
    LAYOUTS,
    MARKER,
    PREFIX,
    Folder,
    check_layout,
    inspect_layout,
    prepare,
)
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, read_settings
from shardcast.errors import UsageError
from tests.support.archives import http
from tests.support.payloads import sha256
from tests.support.processes import run
from tests.support.stores import blob_file, content, fill

HELLO, WORLD = b"Hello!", b"World!"


def fill_flat(root: Path, *blobs: bytes) -> list[str]:
    """Blobs as they lie in a store of the flat layout; their digests."""
    root.mkdir(exist_ok=True)
    for blob in blobs:
        (root / sha256(blob)).write_bytes(blob)
    return [sha256(blob) for blob in blobs]


def foreign(root: Path) -> None:
    """What a fresh volume, or a desktop, has."""
    (root / "lost+found").mkdir()
    for name in (".DS_Store", "._" + sha256(HELLO), "README", sha256(HELLO) + ".txt"):
        (root / name).write_text("x")
    for name in ("ab", "cd"):
        (root / name).mkdir()
    (root / "ab" / sha256(b"elsewhere")).write_text("not in its place")
    (root / ("0" * 64)).mkdir()


async def served(root: Path, key: str, **environ: str) -> bool:
    """Whether a hash server with these settings, and an archive, serve a blob."""
    settings = read_settings({"HASHSERVER_DIRECTORY": str(root), "HASHSERVER_WRITABLE": "1", **environ})
    statuses = []
    async with http() as session:
        async with StoreServer.running(settings) as server, session.get(f"{server.url}/{key}") as answer:
            statuses.append(answer.status)
        archive = ArchiveNode.on_directory(root, host="127.0.0.1", port=0)
        async with archive as node, session.get(f"{node.url}/{key}") as answer:
            statuses.append(answer.status)
    return statuses == [200, 200]


async def test_fresh_volume_gets_prefix_layout_from_put_and_server(tmp_path: Path) -> None:
    file, root = tmp_path / "file", tmp_path / "root"
    file.write_bytes(HELLO)
    root.mkdir()
    foreign(root)
    done = run("store", "put", "-d", str(root), str(file))
    assert done.returncode == 0, done.stderr
    assert blob_file(root, sha256(HELLO)).read_bytes() == HELLO
    assert await served(root, sha256(HELLO))
    assert (root / MARKER).exists()


async def test_flat_blobs_are_served_and_never_marked(tmp_path: Path) -> None:
    (key,) = fill_flat(tmp_path, HELLO)
    foreign(tmp_path)
    assert await served(tmp_path, key)
    assert await served(tmp_path, key, HASHSERVER_LAYOUT="")
    with pytest.raises(UsageError, match=f"is flat, not prefix: {key}"):
        await served(tmp_path, key, HASHSERVER_LAYOUT="prefix")
    done = run("store", "serve", str(tmp_path), "--layout", "prefix", "--port-range", "49152", "65535")
    assert done.returncode == 1
    assert "is flat, not prefix" in done.stderr
    assert not (tmp_path / MARKER).exists()
    assert content(tmp_path)[key] == HELLO


@pytest.mark.parametrize(
    ("flat", "prefix", "marked", "used", "layout"),
    [
        (False, False, False, False, None),
        (False, False, True, False, PREFIX),
        (False, False, True, True, PREFIX),
        (False, False, False, True, FLAT),  # opened to put blobs, and not marked
        (True, False, False, False, FLAT),
        (True, False, True, True, FLAT),  # marked by mistake, as 0.4.0 did
        (False, True, False, True, PREFIX),  # where the marker couldn't be made
        (False, True, True, True, PREFIX),
        (True, True, True, False, PREFIX),
        (True, True, False, False, FLAT),
    ],
)
def test_layout_of_directory_is_detected(
    tmp_path: Path, flat: bool, prefix: bool, marked: bool, used: bool, layout: str | None
) -> None:
    foreign(tmp_path)
    if flat:
        fill_flat(tmp_path, HELLO)
    if prefix:
        fill(tmp_path, WORLD)
        (tmp_path / MARKER).unlink()
    if marked:
        (tmp_path / MARKER).write_text("1\n")
    if used:
        (tmp_path / ".shardcast-store").mkdir()
        (tmp_path / ".shardcast-store" / "digest").write_text("sha256\n")
    assert inspect_layout(str(tmp_path)).layout == layout
    for said in (PREFIX, FLAT):
        if said == (layout or said):
            check_layout(str(tmp_path), said)
        else:
            with pytest.raises(UsageError, match=f"is {layout}, not {said}"):
                check_layout(str(tmp_path), said)


async def test_blobs_of_both_layouts_are_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill_flat(tmp_path, HELLO)
    fill(tmp_path, WORLD)
    with caplog.at_level(logging.WARNING):
        store = BlobDirectory(tmp_path)
    assert "both layouts" in caplog.text
    assert store.folder.layout == PREFIX
    assert sorted([key async for key in store.digests()]) == sorted([sha256(HELLO), sha256(WORLD)])
    assert await store.read_small([sha256(HELLO)], 10) == {sha256(HELLO): HELLO}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_directory_with_undetectable_layout_is_searched_in_both(layout: str, tmp_path: Path) -> None:
    own, extra = tmp_path / "own", tmp_path / "extra"
    own.mkdir()
    extra.mkdir()
    (fill if layout == PREFIX else fill_flat)(extra, HELLO)
    (extra / MARKER).unlink(missing_ok=True)
    circle = next(f"{first:02x}" for first in range(256) if not (extra / f"{first:02x}").exists())
    (extra / circle).symlink_to(circle)
    store = BlobDirectory(own, extra=[extra], writable=True)
    assert await store.read_small([sha256(HELLO)], 10) == {sha256(HELLO): HELLO}


def test_marker_is_not_written_over_blobs_of_other_layout(tmp_path: Path) -> None:
    fill_flat(tmp_path, HELLO)
    prepare(Folder(str(tmp_path), PREFIX))
    assert not (tmp_path / MARKER).exists()


def test_removed_working_directory_is_not_an_empty_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``store verify .`` said there that all is right."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="is no directory"):
        BlobDirectory(".")
