"""Folders that are published from elsewhere: list and tar are sent, compared, and become the same version."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web

import shardcast
from shardcast.errors import IntegrityError, PayloadChanged, UploadRefused
from shardcast.folders import tar_publishing
from shardcast.folders.contents import contained_files
from shardcast.folders.layout import LEAST_LARGE
from shardcast.folders.survey import SurveyRules
from shardcast.nodes.client import Client
from shardcast.nodes.folder_source import FolderSource, announcement
from shardcast.nodes.origin import Origin
from shardcast.nodes.remote_broadcast import broadcast_to
from shardcast.peer.uploads import UploadClient
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.uploads import UploadRequest
from tests.support import processes
from tests.support.folder_trees import read_tree
from tests.support.processes import wait_until

SHARD = 700_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root, random = tmp_path / "model", Random(3)
    (root / "weights" / "empty").mkdir(parents=True)
    (root / "weights" / "a.bin").write_bytes(random.randbytes(2 * LEAST_LARGE + 5))
    (root / "weights" / "newest").symlink_to("a.bin")
    (root / "same").hardlink_to(root / "weights" / "a.bin")
    (root / ("long" * 30)).write_bytes(b"")
    for number in range(40):
        (root / f"part-{number:02}").write_bytes(random.randbytes(number * 500))
    return root


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[Origin]:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0, takes_uploads=True, shard_size=SHARD) as one:
        yield one


async def send(url: str, source: FolderSource, *, live: bool = False) -> str:
    return await broadcast_to(url, source, announcement(source, None, {}, live=live), timeout=5)


def opened(model: Path) -> FolderSource:
    return FolderSource(model, rules=SurveyRules())


@pytest.mark.parametrize("live", [False, True])
async def test_folder_becomes_the_version_that_its_own_machine_would_publish(
    origin: Origin, model: Path, tmp_path: Path, live: bool
) -> None:
    with opened(model) as source:
        assert await send(origin.url, source, live=live) == "v1"
    broadcast = await origin.publish(model, SHARD)
    await broadcast.result()
    sent, local = (origin.folders.manifest_of(version) for version in ("v1", "v2"))
    assert sent and local
    assert (sent.digests, list(sent.shards)) == (local.digests, list(local.shards))
    assert list(contained_files(sent)) == list(contained_files(local))
    assert (sent.header.name, sent.header.folder) == ("model.tar", local.header.folder)
    async with Client([origin.url]) as client:
        release = await client.download("v1", tmp_path / "got")
    assert read_tree(release.path) == read_tree(model)
    assert not list((tmp_path / "data" / ".shardcast" / "uploads").iterdir())


async def test_live_folder_waits_for_the_end_that_its_sender_tells(
    origin: Origin, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = tar_publishing.cut
    loop, is_cut = asyncio.get_running_loop(), asyncio.Event()
    finish = UploadClient.finish

    def note(*words: Any, **options: Any) -> Manifest:
        manifest = cut(*words, **options)
        loop.call_soon_threadsafe(is_cut.set)
        return manifest

    async def finish_late(*words: Any) -> AsyncGenerator[Mapping[str, Any], None]:
        await is_cut.wait()
        await asyncio.sleep(0)
        async for line in finish(*words):
            yield line

    monkeypatch.setattr(tar_publishing, "cut", note)
    monkeypatch.setattr(UploadClient, "finish", finish_late)
    with opened(model) as source:
        async with asyncio.timeout(20):
            assert await send(origin.url, source, live=True) == "v1"


async def test_tar_that_differs_from_its_list_is_not_published(origin: Origin, model: Path) -> None:
    for live in (False, True):
        with opened(model) as source:
            source._list = source._list.replace(b"part-09", b"part-0x")
            with pytest.raises(IntegrityError, match="differs from the list of its entries"):
                await send(origin.url, source, live=live)
    assert origin.folders.listings == ()


@pytest.mark.parametrize("lie", [b'["../evil", 0, 420, 0]', b"not JSON", b'["part-00", 0, 420, 0]'])
async def test_list_of_no_folder_is_not_published(origin: Origin, model: Path, lie: bytes) -> None:
    with opened(model) as source:
        source._list = (b'{"entries": [' + lie + b"]}\n").ljust(len(source._list), b"\n")
        with pytest.raises(IntegrityError, match="not that of a folder"):
            await send(origin.url, source)
    assert origin.folders.listings == ()


async def test_digests_in_a_list_count_for_nothing(origin: Origin, model: Path) -> None:
    lie = json.dumps({"file_digests": 0, "sha256": base64.b64encode(bytes(range(32))).decode()}).encode()
    with opened(model) as source:
        source._list += lie + b"\n"
        grown = len(source._list) - source.folder.list_size
        source.folder = dataclasses.replace(source.folder, list_size=len(source._list))
        source.size, source._hashed = source.size + grown, len(source._list)
        assert await send(origin.url, source) == "v1"
    manifest = origin.folders.manifest_of("v1")
    assert manifest
    digests = {file.path: file.sha256 for file in contained_files(manifest)}
    expected = hashlib.sha256((model / "part-01").read_bytes()).hexdigest()
    assert digests["part-01"] == expected and bytes(range(32)).hex() not in digests.values()


async def test_folder_that_changes_while_it_is_sent_is_not_published(origin: Origin, model: Path) -> None:
    with opened(model) as source:
        (model / "part-39").write_bytes(b"other")
        with pytest.raises(PayloadChanged, match="part-39"):
            await send(origin.url, source)
    assert origin.folders.listings == ()


async def test_origin_that_knows_no_folders_is_not_sent_one(model: Path) -> None:
    asked: list[str] = []
    status = {"upload": "0" * 32, "offset": 0, "state": "receiving", "version": None}

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.json_response(status, status=201) if request.method == "POST" else web.Response(status=204)

    app = web.Application()
    app.router.add_route("*", "/uploads", answer)
    app.router.add_route("*", "/uploads/{upload}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        with opened(model) as source, pytest.raises(UploadRefused, match=r"can't take folders.*tar -C"):
            await send(url, source)
    finally:
        await runner.cleanup()
    assert asked == ["POST", "DELETE"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"}, {"name": ".."}, {"entries": -1}, {"entries": 10**9}, {"list_size": 10**10},
        {"list_size": None}, {"entries": True}, {"list_size": 101},
    ],
)  # fmt: skip
def test_wrong_announcement_of_a_folder_is_refused(wrong: dict[str, object]) -> None:
    folder = {"name": "model", "entries": 1, "list_size": 100}
    parsed = UploadRequest.parse({"name": "model.tar", "size": 100, "folder": folder})
    assert UploadRequest.parse(parsed.as_json()) == parsed and parsed.list_size == 100
    with pytest.raises(ValueError, match=r"folder|number|list|entries"):
        UploadRequest.parse({"name": "model.tar", "size": 100, "folder": {**folder, **wrong}})


def start(model: Path, url: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    words = processes.command("broadcast", str(model), "--to", url, "--upload-limit", "20MB")
    return processes.Popen(words, env=processes.environment(), stdout=pipe, stderr=pipe, text=True)


def test_killed_sender_and_origin_go_on_and_publish_once(model: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    (model / "big").write_bytes(os.urandom(30 << 20))
    payloads = data_dir / ".shardcast" / "uploads"
    with processes.reserved_port() as port:
        options = ("--publish", "--port", str(port))
        with processes.origin(data_dir, *options) as node:
            sender = start(model, node.url)
            wait_until(lambda: any(file.stat().st_size > 8 << 20 for file in payloads.glob("*/payload")))
            sender.send_signal(signal.SIGKILL)
            sender.communicate()
            (record,) = payloads.glob("*/record")
            wait_until(lambda: json.loads(record.read_bytes())["durable"] > 4 << 20)
            sender = start(model, node.url)
            wait_until(lambda: any(file.stat().st_size > 16 << 20 for file in payloads.glob("*/payload")))
            assert len(list(payloads.glob("*/record"))) == 1
            node.kill()
        with processes.origin(data_dir, *options) as node:
            out, errors = sender.communicate(timeout=120)
            assert (out, sender.returncode) == ("v1\n", 0), errors
            out_dir = str(tmp_path / "out")
            done = processes.run("client", "--servers", node.url, "--output-dir", out_dir, "--version", "v1")
            assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path / "out" / "v1") == read_tree(model)


async def test_library_sends_a_folder_without_what_is_excluded(origin: Origin, model: Path) -> None:
    version = await asyncio.to_thread(
        shardcast.broadcast, model, to=origin.url, exclude=["part-*"], mtimes=False
    )
    manifest = origin.folders.manifest_of(version)
    assert manifest
    found = {file.path: file.mtime for file in contained_files(manifest)}
    assert "part-01" not in found and found["weights/a.bin"] == 0
    assert dataclasses.replace(manifest.header, created=None).metadata == {}
