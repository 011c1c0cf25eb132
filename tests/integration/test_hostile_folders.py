"""Hostile lists and tars of folders: refused by the client, harmless to a middle, nothing written outside.

The examples are the published attacks on programs that unpack tars: paths with ``..`` and absolute ones,
links that lead outside and files behind them, links replaced by files, devices, names that are there twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardcast.digest import PieceDigests
from shardcast.errors import IntegrityError
from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.table import FolderTable
from shardcast.nodes.client import Client
from shardcast.protocol.manifest import Manifest, Shard, closing_line, shard_line
from shardcast.protocol.manifest_reader import parse
from tests.support.folder_manifests import encoded, folder_manifest
from tests.support.legacy import PlainServer, plain_server
from tests.support.processes import middle

TIME = 1_763_780_000
FILE = [0, 420, TIME]
LINK = [0, 511, TIME, "symlink"]
FOLDER = [0, 493, 0]
HOSTILE: dict[str, list[list[Any]]] = {
    "parent": [["../evil", *FILE]],
    "parent inside": [["a/", *FOLDER], ["a/../../evil", *FILE]],
    "absolute": [["/tmp/evil", *FILE]],
    "dot": [["./evil", *FILE]],
    "empty component": [["a/", *FOLDER], ["a//evil", *FILE]],
    "link out": [["a", *LINK, "../.."]],
    "absolute link": [["a", *LINK, "/etc/passwd"]],
    "link out behind a folder": [["a/", *FOLDER], ["a/b", *LINK, "../../outside"]],
    "link out behind another link": [["a", *LINK, "b"], ["b/", *FOLDER], ["c", *LINK, "a/../../outside"]],
    "file behind a link": [["a", *LINK, "b"], ["a/evil", *FILE], ["b/", *FOLDER]],
    "link and folder of one name": [["a", *LINK, "b"], ["a/", *FOLDER], ["a/evil", *FILE]],
    "file twice": [["a", *FILE], ["a", *FILE]],
    "out of order": [["b", *FILE], ["a", *FILE]],
    "hard link out": [["a", 0, 420, TIME, "link", "../outside"]],
    "hard link to a link": [["a", *LINK, "b"], ["b", 0, 420, TIME, "link", "a"]],
    "hard link to nothing": [["a", 0, 420, TIME, "link", "b"], ["b", *FILE]],
    "device": [["a", 0, 420, TIME, "device", "1:3"]],
    "setuid": [["a", 0, 0o4755, TIME]],
    "NUL": [["a\0b", *FILE]],
    "long name": [["a" * 256, *FILE]],
    "negative size": [["a", -1, 420, TIME]],
    "enormous size": [["a", 1 << 60, 420, TIME]],
    "link in base64": [["a", *LINK, encoded(b"/etc")]],
    "path in base64": [[encoded(b"../\xff"), *FILE]],
    "text for a size": [["a", "1", 420, TIME]],
    "no list": [{"a": 1}],  # type: ignore[list-item]
}


def innocent() -> tuple[Manifest, bytes]:
    table = FolderTable()
    table.append(FolderEntry(b"config", EntryKind.FILE, 640, 0o644, TIME))
    return folder_manifest(table)


def with_entries(entries: list[list[Any]]) -> tuple[bytes, bytes]:
    """Return a manifest with these entries around an innocent tar, and the tar."""
    manifest, payload = innocent()
    lines = manifest.raw.splitlines(keepends=True)
    header = json.loads(lines[0])
    header["folder"]["entries"] = len(entries)
    lines[0] = json.dumps(header).encode() + b"\n"
    lines[1] = json.dumps({"entries": entries}).encode() + b"\n"
    return b"".join(lines), payload


def with_tar(payload: bytes) -> tuple[bytes, bytes]:
    """Return the manifest of an innocent list around another tar of the same size."""
    manifest, _ = innocent()
    lines = manifest.raw.splitlines(keepends=True)
    pieces = PieceDigests(manifest.header.piece_size)
    pieces.update(payload)
    digest = hashlib.sha256(payload).hexdigest()
    shard = shard_line(Shard(1, 0, len(payload), digest, pieces.finish()))
    closing = closing_line(len(payload), 1, {"sha256": digest})
    return b"".join([*lines[:2], shard, closing]), payload


def renamed(payload: bytes, name: bytes, flag: bytes = b"0", link: bytes = b"") -> bytes:
    """Return a tar whose first entry has another name, kind and target, with a right checksum."""
    header = bytearray(payload[:512])
    header[:100], header[156:157], header[157:257] = name.ljust(100, b"\0"), flag, link.ljust(100, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + payload[512:]


@contextmanager
def serving(folder: Path, raw: bytes, payload: bytes) -> Iterator[PlainServer]:
    """Serve a version with a manifest as a web server would."""
    (folder / "v1").mkdir(parents=True)
    (folder / "v1" / "manifest.jsonl").write_bytes(raw)
    (folder / "v1" / "shard_001.bin").write_bytes(payload)
    digest = hashlib.sha256(payload).hexdigest()
    (folder / "distribution.txt").write_text(f"v1: {digest}|1\n")
    with plain_server(folder) as server:
        yield server


async def refused(tmp_path: Path, raw: bytes, payload: bytes) -> str:
    """Download a version in vain; return the error's text."""
    before = set(tmp_path.rglob("*"))
    with serving(tmp_path / "served", raw, payload) as server:
        async with Client([server.url], tmp_path / "out") as client:
            with pytest.raises(IntegrityError) as caught:
                await client.download("v1")
    left = set(tmp_path.rglob("*")) - before
    inside = (tmp_path / "served", tmp_path / "out")
    assert all(any(path.is_relative_to(folder) for folder in inside) for path in left)
    assert not (tmp_path / "out" / "v1").exists()
    assert not any(path.is_symlink() for path in left)
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_list_is_refused_and_writes_nothing(tmp_path: Path, name: str) -> None:
    message = await refused(tmp_path, *with_entries(HOSTILE[name]))
    assert "the manifest of v1 is not that of a folder" in message
    assert "is not the one that follows" not in message


@pytest.mark.parametrize(
    "tar",
    [
        (b"../evil",),
        (b"/tmp/evil",),
        (b"other",),
        (b"config", b"2", b"/etc/passwd"),
        (b"config", b"1", b"../outside"),
        (b"config", b"3"),
        (b"config", b"x"),
    ],
)
async def test_tar_that_is_not_that_of_the_list_is_refused(tmp_path: Path, tar: tuple[bytes, ...]) -> None:
    message = await refused(tmp_path, *with_tar(renamed(innocent()[1], *tar)))
    assert "v1 shard 1: the tar differs from the list of entries" in message


async def test_bytes_behind_the_end_of_a_file_are_refused(tmp_path: Path) -> None:
    payload = bytearray(innocent()[1])
    payload[512 + 640 + 3] = 1  # in the padding
    assert "the tar differs" in await refused(tmp_path, *with_tar(bytes(payload)))


def test_middle_passes_hostile_versions_on_and_writes_nothing_outside(tmp_path: Path) -> None:
    raw, payload = with_entries(HOSTILE["parent"])
    parse(raw)  # a node that only wants bytes takes it
    with (
        serving(tmp_path / "served", raw, payload) as server,
        middle(server.url, tmp_path / "middle") as node,
    ):
        node.wait_for_log("v1 is complete")
    assert (tmp_path / "middle" / "v1" / "shard_001.bin").read_bytes() == payload
    assert {path.name for path in tmp_path.iterdir()} == {"served", "middle"}
