"""Directories that are moved, removed or replaced under a node, which then offers and writes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support import payloads, processes
from tests.support.folders import StoredNode, receive_shards, receive_version, snapshot
from tests.support.payloads import SHARD, random_bytes, read_shards, sha256
from tests.support.processes import wait_until
from tests.support.watching import get, listed

LOST = "was moved, removed or replaced"
LOCAL_DISK = 6
SOON = 6.0
"""Seconds within which a node has noticed; it looks every 2."""

Lose = Callable[[Path, Path], None]


def remove(data_dir: Path, backup: Path) -> None:
    shutil.rmtree(data_dir)


def move_away(data_dir: Path, backup: Path) -> None:
    data_dir.rename(data_dir.with_name("elsewhere"))


def replace(data_dir: Path, backup: Path) -> None:
    move_away(data_dir, backup)
    copy(backup, data_dir)


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


WAYS = pytest.mark.parametrize("lose", [remove, move_away, replace], ids=["rm -rf", "mv", "a backup"])


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with what changes when somebody writes there."""
    if not root.exists():
        return {}
    found = [root, *root.rglob("*")]
    return {str(one): (one.lstat().st_mtime_ns, one.lstat().st_size) for one in found}


# In one process


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoredNode]:
    running = StoredNode(tmp_path / "data")
    yield running
    running.stop()


DATA, OTHER = random_bytes(2 * SHARD, seed=1), random_bytes(2 * SHARD, seed=2)


async def prepared(node: StoredNode) -> VersionFolders:
    """A middle's with v1 and v2, v3 under way, something aside, and a backup of it all."""
    folders = node.start()
    await receive_version(folders, OTHER, "v9", origin="0a" * 16)
    await folders.change_line("0b" * 16, {}, 0)
    await receive_version(folders, DATA, "v1")
    await receive_version(folders, OTHER, "v2")
    manifest = payloads.manifest(DATA + OTHER, "v3")
    await receive_shards(
        await folders.begin_version(3, LiveManifest.of(manifest)), manifest, DATA + OTHER, shards=3
    )
    copy(node.root, node.root.with_name("backup"))
    return folders


async def _complete_open(folders: VersionFolders) -> None:
    opened = folders.opened(3)
    assert opened
    manifest = payloads.manifest(DATA + OTHER, "v3")
    await receive_shards(opened, manifest, DATA + OTHER)
    await opened.complete(manifest)


async def _begin_beside(folders: VersionFolders) -> None:
    await folders.begin_beside("0c" * 16, LiveManifest.of(payloads.manifest(DATA, "v5")))


async def _allot(folders: VersionFolders) -> None:
    folders.data_dir.allot()


async def _begin(folders: VersionFolders) -> None:
    await folders.begin_version(4, LiveManifest.of(payloads.manifest(DATA, "v4")))


WRITES: list[Callable[[VersionFolders], Awaitable[object]]] = [
    _allot,
    _begin,
    _begin_beside,
    _complete_open,
    lambda folders: folders.retire(1),
    lambda folders: folders.unlist(1),
    lambda folders: folders.pin("v1"),
    lambda folders: folders.record_listed([Listing("v8", sha256(DATA), 2)]),
    lambda folders: folders.withdraw(Withdrawal("v1", sha256(DATA))),
    lambda folders: folders.change_line("0c" * 16, {}, 0),
    lambda folders: folders.drop_aside(next(iter(folders.aside)), "it is tried"),
]


@WAYS
@pytest.mark.parametrize("write", WRITES, ids=range(len(WRITES)))
async def test_replacement_directory_is_not_written(
    write: Callable[[VersionFolders], Awaitable[object]], lose: Lose, node: StoredNode
) -> None:
    folders = await prepared(node)
    lose(node.root, node.root.with_name("backup"))
    before = tree(node.root)
    with pytest.raises(LocalDiskError, match=LOST):
        await write(folders)
    await folders.tidy()
    assert tree(node.root) == before


@WAYS
async def test_aborting_open_version_leaves_replacement_untouched(lose: Lose, node: StoredNode) -> None:
    folders = await prepared(node)
    lose(node.root, node.root.with_name("backup"))
    before = tree(node.root)
    await folders.discard(3)
    assert folders.opened(3) is None and tree(node.root) == before


async def test_returning_directory_is_served_and_written_again(
    node: StoredNode, caplog: pytest.LogCaptureFixture
) -> None:
    folders = await prepared(node)
    told, feed = snapshot(folders), folders.events.feed
    move_away(node.root, node.root)
    assert (
        folders.unready_reason and LOST in folders.unready_reason and str(node.root) in folders.unready_reason
    )
    assert (folders.distribution(), snapshot(folders), folders.manifest("v1")) == (b"", [], None)
    assert folders.shard("v1", 1) is None and folders.shard("v3", 1) is None
    assert folders.events.feed != feed  # whoever follows is told anew
    assert sum(LOST in record.message for record in caplog.records) == 1
    assert "stop the node and start it again" in caplog.text
    feed = folders.events.feed
    node.root.with_name("elsewhere").rename(node.root)
    assert folders.unready_reason is None and snapshot(folders) == told and folders.events.feed != feed
    await _complete_open(folders)
    assert node.listed == ["v1", "v2", "v3"] and read_shards(node.root / "v3") == DATA + OTHER


# Real nodes


def ready(url: str) -> tuple[int, str]:
    try:
        return 200, get(f"{url}/ready").decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def is_lost(url: str) -> bool:
    status, said = ready(url)
    return status == 503 and LOST in said


def feed_of(url: str) -> list[dict[str, object]]:
    """What a new follower is told at once."""
    heard = []
    with urllib.request.urlopen(f"{url}/feed", timeout=10) as answer:
        for raw in answer:
            heard.append(json.loads(raw))
            if set(heard[-1]) == {"seq"}:
                return heard
    raise AssertionError("the feed ended")


def assert_offers_nothing(url: str) -> None:
    assert listed(url) == {}
    assert [line for line in feed_of(url) if "event" in line] == []
    for path in ("v1/shard_001.bin", "v1/manifest.jsonl"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(f"{url}/{path}")
        assert caught.value.code == 404
        caught.value.close()


def broadcast(data_dir: Path, payload: bytes) -> subprocess.CompletedProcess[str]:
    file = data_dir.with_name("payload.bin")
    file.write_bytes(payload)
    return processes.run("broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", "100000")


MB = 1_000_000
FIRST, SECOND, THIRD = (random_bytes(MB // 2, seed=seed) for seed in (1, 2, 3))


@WAYS
def test_origin_with_lost_directory_publishes_and_offers_nothing(lose: Lose, tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with processes.origin(data) as node:
        assert broadcast(data, FIRST).stdout == "v1\n"
        copy(data, backup)
        assert broadcast(data, SECOND).stdout == "v2\n"
        reader = urllib.request.urlopen(f"{node.url}/v2/shard_001.bin", timeout=10)
        with reader:
            began = reader.read(10)
            lose(data, backup)
            assert_offers_nothing(node.url)
            assert began + reader.read() == SECOND[:100_000]  # what is open is served on
        wait_until(lambda: is_lost(node.url), SOON, "the origin to say so")
        assert get(f"{node.url}/healthcheck") and json.loads(get(f"{node.url}/status"))
        if lose is not remove:  # through its own socket, which went along
            elsewhere = tmp_path / "elsewhere"
            before = tree(elsewhere)
            refused = broadcast(elsewhere, THIRD)
            assert refused.returncode == LOCAL_DISK and LOST in refused.stderr
            assert tree(elsewhere) == before
        # A directory that is new at the path has no origin, so that it is published there at once.
        again = broadcast(data, THIRD)
        assert again.stdout == ("v2\n" if lose is replace else "v1\n")
        assert_offers_nothing(node.url)
        with processes.origin(data) as other:
            assert len(listed(other.url)) == (2 if lose is replace else 1)
            before = tree(data)
            assert node.stop() == 0
            assert tree(data) == before  # the socket of the new one among them
            assert broadcast(data, SECOND).returncode == 0
        assert node.log.count(LOST) == 1


def test_origin_continues_when_directory_returns(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    with processes.origin(data) as node:
        assert broadcast(data, FIRST).stdout == "v1\n"
        data.rename(elsewhere)
        wait_until(lambda: is_lost(node.url), SOON, "the origin to say so")
        elsewhere.rename(data)
        wait_until(lambda: ready(node.url)[0] == 200, SOON, "the origin to be ready")
        assert [line["version"] for line in feed_of(node.url) if "event" in line] == ["v1"]
        assert broadcast(data, SECOND).stdout == "v2\n"
        assert set(listed(node.url)) == {1, 2}


@WAYS
def test_middle_with_lost_directory_fetches_nothing(lose: Lose, tmp_path: Path) -> None:
    origins, data, backup = tmp_path / "origin", tmp_path / "data", tmp_path / "backup"
    with processes.origin(origins) as origin, processes.middle(origin.url, data) as node:
        assert broadcast(origins, FIRST).stdout == "v1\n"
        wait_until(lambda: set(listed(node.url)) == {1}, what="v1 at the middle")
        copy(data, backup)
        lose(data, backup)
        assert_offers_nothing(node.url)
        wait_until(lambda: is_lost(node.url), SOON, "the middle to say so")
        before = tree(data)
        assert broadcast(origins, SECOND).stdout == "v2\n"
        threading.Event().wait(3)  # longer than it waits between two looks
        assert tree(data) == before
        assert_offers_nothing(node.url)
        assert "v2" not in node.log  # it is not even tried
        if lose is move_away:
            (tmp_path / "elsewhere").rename(data)
            wait_until(lambda: set(listed(node.url)) == {1, 2}, what="v2 at the middle")
            wait_until(lambda: ready(node.url)[0] == 200, SOON, "the middle to be ready")
        else:
            assert node.stop() == 0
            assert tree(data) == before
            with processes.middle(origin.url, data) as other:
                wait_until(lambda: set(listed(other.url)) == {1, 2}, what="both at the middle")
