"""What faults that were put in by hand changed, and nobody noticed (``scripts/mutate``)."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest

from shardcast.cli.exit_codes import USAGE
from shardcast.nodes.origin import Origin
from shardcast.server.application import application, serve_on_socket
from shardcast.store.data_dir_layout import own_folder
from shardcast.store.live_manifest import LiveManifest
from tests.support import payloads
from tests.support.archives import wait_until
from tests.support.folders import StoredNode, receive_shards, receive_version
from tests.support.payloads import random_bytes
from tests.support.processes import run


@pytest.mark.parametrize("words", [("--from", "v1"), ("--every",), ("--keep", "2"), ("--exec", "true")])
def test_follow_options_are_refused_without_follow(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run("client", "--servers", "127.0.0.1:9", "--version", "v1", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "belong to --follow" in done.stderr


@pytest.mark.parametrize("token", [b"", b"two words", b"gr\xc3\xbcn", b"\x1b[31m"])
def test_token_unfit_for_a_header_is_refused(token: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(token)
    done = run("archive", "serve", str(tmp_path / "blobs"), "--port", "0", "--token-file", str(file))
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "write one word of ASCII there" in done.stderr


async def test_ended_feed_counts_no_more(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "o", "127.0.0.1", 0) as origin, aiohttp.ClientSession() as web:
        async with web.get(f"{origin.url}/feed") as answer:
            await answer.content.readline()
            assert origin.folders.events.open_feeds == 1
        await wait_until(lambda: origin.folders.events.open_feeds == 0)


async def test_wrong_shard_of_another_version_is_not_written_into(tmp_path: Path) -> None:
    node = StoredNode(tmp_path / "data")
    folders, data = node.start(), random_bytes(3 * payloads.SHARD, seed=1)
    await receive_version(folders, data, "v1")
    manifest = payloads.manifest(data, "v2")
    opened = await folders.begin_version(2, LiveManifest.of(manifest))
    await asyncio.to_thread(opened.link_known)
    file = next(file for file in (node.root / "v1").iterdir() if "1.bin" in file.name)
    assert file.stat().st_nlink == 2
    wrong = bytes(byte ^ 1 for byte in file.read_bytes())
    inode = file.stat().st_ino
    file.chmod(0o600)
    file.write_bytes(wrong)
    await receive_shards(opened, manifest, data)
    await opened.complete(manifest)
    assert (file.read_bytes(), file.stat().st_ino) == (wrong, inode)
    assert payloads.read_shards(node.root / "v2") == data


async def test_socket_of_another_node_is_not_removed(tmp_path: Path) -> None:
    own = own_folder(tmp_path)
    own.mkdir()
    async with serve_on_socket(application("node"), tmp_path):
        (own / "socket").unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(own / "socket"))
    assert (own / "socket").is_socket()
    other.close()
