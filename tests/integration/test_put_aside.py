"""Lines of versions that are put aside for another one: nothing is lost, and nothing wrong is listed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from shardcast.blobs.version_blobs import VersionBlobs
from shardcast.errors import (
    BlobMissing,
    LocalDiskError,
    NoRoom,
    TransferFailed,
    UsageError,
    VersionAborted,
    VersionWithdrawn,
)
from shardcast.nodes.client import Client
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.server.application import application, serve
from shardcast.server.routes.versions import add_version_routes
from shardcast.store import landing as landings
from shardcast.store import shard_files
from shardcast.store.aside import MAX_ASIDE_SECONDS
from shardcast.store.aside_place import line_name
from shardcast.store.disk_usage import DiskSpace, disk_space
from shardcast.store.line_change import parse_change_plan
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.folders import StoredNode, receive_shards, receive_version, snapshot
from tests.support.payloads import PIECE, SHARD, random_bytes, read_shards, sha256

A, B, C = "0a" * 16, "0b" * 16, "0c" * 16
SIZE = 2 * SHARD + 100

Payloads = Mapping[int, bytes]


def line(seed: int, *numbers: int) -> dict[int, bytes]:
    """The payloads of a line's versions."""
    return {number: random_bytes(SIZE, seed=100 * seed + number) for number in numbers}


OLD, NEW = line(1, 1, 2, 3), line(2, 1, 2)


def digests(versions: Payloads) -> dict[int, str]:
    return {number: sha256(data) for number, data in versions.items()}


async def fill(folders: VersionFolders, origin: str | None, versions: Payloads) -> int:
    """Receive the versions of a line that the authority lists; how many bytes were missing."""
    listings = [Listing(f"v{number}", sha256(data), 3) for number, data in versions.items()]
    await folders.record_listed(listings)
    return sum(
        [await receive_version(folders, data, f"v{number}", origin) for number, data in versions.items()]
    )


async def change(folders: VersionFolders, origin: str | None, versions: Payloads) -> None:
    await folders.change_line(origin, digests(versions), max(versions, default=0))


async def started_with(node: StoredNode, origin: str | None, versions: Payloads) -> VersionFolders:
    """A middle with the versions of a line."""
    folders = node.start()
    await change(folders, origin, versions)
    await fill(folders, origin, versions)
    return folders


def served(folders: VersionFolders) -> dict[int, bytes]:
    """The payloads of what is listed, by way of the shards that are served."""
    found = {}
    for listing in folders.listings:
        spans = [folders.shard(listing.version, shard) for shard in range(1, (listing.shards or 0) + 1)]
        assert all(spans)
        found[listing.number] = b"".join(
            span.path.read_bytes()[span.offset : span.offset + span.length] for span in spans if span
        )
        assert sha256(found[listing.number]) == listing.digest
    return found


def aside(folders: VersionFolders, origin: str | None = A) -> set[int]:
    """The numbers of the versions of a line that lie aside, whole."""
    return {one.number for one in folders.aside.of_line(origin) if one.finished}


def folder_of(node: StoredNode, origin: str | None, number: int, data: bytes) -> Path:
    return node.root / ".shardcast" / "lines" / line_name(origin) / f"v{number}-{sha256(data)[:16]}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoredNode]:
    running = StoredNode(tmp_path / "data")
    yield running
    running.stop()


# There and back


async def test_old_line_is_put_aside_by_renames(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    inodes = {number: (node.root / f"v{number}").stat().st_ino for number in OLD}
    set_time(node.root / "v1", 1e6)  # when its last shard came
    await folders.pin("v2")
    feed = folders.events.feed
    await change(folders, B, NEW)
    assert (folders.line.origin, folders.line.highest, folders.line.digests) == (B, 2, digests(NEW))
    assert node.listed == [] and snapshot(folders) == [] and folders.events.feed != feed
    assert folders.holds.pinned == set()
    for number, data in OLD.items():
        folder = folder_of(node, A, number, data)
        assert folder.stat().st_ino == inodes[number] and read_shards(folder) == data
        assert folder.with_name(f"{folder.name}.verified").exists()
        assert abs(folder.stat().st_mtime - time.time()) < 60
    assert folder_of(node, A, 2, OLD[2]).with_name(f"v2-{sha256(OLD[2])[:16]}.pinned").exists()
    assert await fill(folders, B, NEW) == len(NEW) * SIZE
    assert served(folders) == NEW


@pytest.mark.parametrize("restart", [False, True])
async def test_returning_line_keeps_pins_and_withdrawals_unfetched(restart: bool, node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await folders.pin("v1")
    await folders.withdraw(Withdrawal("v2", sha256(OLD[2]), "bad"))
    await change(folders, B, NEW)
    await fill(folders, B, NEW)
    await folders.pin("v2")
    if restart:
        folders = node.start()
        assert folders.line.origin == B and served(folders) == NEW
    good = {number: data for number, data in OLD.items() if number != 2}
    await change(folders, A, good)
    assert served(folders) == good and folders.holds.pinned == {1}
    assert folders.line.withdrawn == {2: Withdrawal("v2", sha256(OLD[2]), "bad")}
    assert snapshot(folders) == ["complete v1", "complete v3", "withdrawn v2"]
    folders = node.start()
    assert node.warnings == [] and served(folders) == good and folders.holds.pinned == {1}
    await change(folders, B, NEW)
    assert served(folders) == NEW and folders.holds.pinned == {2} and folders.line.withdrawn == {}


async def test_shards_put_aside_stay_verified(node: StoredNode, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, {})
    with monkeypatch.context() as patch:
        patch.setattr(landings, "piece_digest", None)
        patch.setattr("shardcast.store.recovery.identity_if_right", None)
        folders = node.start()
        await change(folders, A, OLD)
    assert served(folders) == OLD


async def test_versions_retired_by_authority_return_too(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, NEW)
    await change(folders, A, {3: OLD[3]})
    assert served(folders) == OLD


async def test_versions_of_both_lines_stay_in_place(node: StoredNode) -> None:
    """A directory was restored to v2 after v3, and published another v3."""
    folders = await started_with(node, A, OLD)
    await folders.pin("v2")
    restored = {1: OLD[1], 2: OLD[2], 3: random_bytes(SIZE, seed=7)}
    await change(folders, A, restored)
    assert served(folders) == {1: OLD[1], 2: OLD[2]} and folders.holds.pinned == {2}
    assert aside(folders) == {3}
    assert folders.line.digests == digests(restored)
    await fill(folders, A, {3: restored[3]})
    await change(folders, A, OLD)  # and back
    assert served(folders) == OLD and aside(folders) == {3}


async def test_versions_after_the_restored_number_are_forgotten(
    node: StoredNode,
) -> None:
    """Else the line's next v5 would seem to be a wrong one; and the old v5 must not come back as its v5."""
    old = line(1, 3, 4, 5)
    folders = await started_with(node, A, old)
    restored = {3: old[3], 4: random_bytes(SIZE, seed=7)}
    await change(folders, A, restored)
    assert set(folders.line.digests) == {3, 4} and folders.line.highest == 4
    await change(folders, B, NEW)
    await change(folders, A, restored)
    assert set(served(folders)) == {3} and aside(folders) >= {4, 5}


async def test_versions_without_origin_id_stay_when_they_get_one(node: StoredNode) -> None:
    folders = await started_with(node, None, OLD)
    await change(folders, A, OLD)
    assert served(folders) == OLD and folders.line.origin == A
    await change(folders, B, {1: NEW[1]})
    await change(folders, None, OLD)
    assert folders.line.origin is None


async def test_rewritten_list_of_0_1_0_is_another_line(node: StoredNode) -> None:
    folders = await started_with(node, None, OLD)
    await change(folders, None, NEW)
    assert served(folders) == {} and aside(folders, None) == {1, 2, 3}
    await fill(folders, None, NEW)
    await change(folders, None, OLD)
    assert served(folders) == OLD and aside(folders, None) == {1, 2}


@pytest.mark.parametrize("origin", ["none", "../../x", "A" * 20, "ä", "x" * 100, "\ud800"], ids=ascii)
async def test_origin_id_cannot_choose_a_path(origin: str, node: StoredNode) -> None:
    assert line_name(origin) not in ("none", line_name(origin.lower() + "?"))
    folders = await started_with(node, A, OLD)
    await folders.change_line(origin, digests(NEW), 2)
    await folders.change_line(B, {}, 0)
    names = {entry.name for entry in (node.root / ".shardcast" / "lines").iterdir()}
    assert names == {A, line_name(origin)}
    assert all(name.isascii() and "/" not in name for name in names)
    assert {one.origin for one in node.start().aside} == {A}


async def test_open_versions_of_old_line_are_discarded(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    manifest = payloads.manifest(NEW[1], "v4", origin=A)
    opened = await folders.begin_version(4, LiveManifest.of(manifest))
    await receive_shards(opened, manifest, NEW[1], shards=1)
    await change(folders, B, NEW)
    assert folders.open_numbers == set() and not (node.root / "v4").exists()
    with pytest.raises(VersionAborted, match="aborted"):
        await opened.landing(manifest.shards[1])
    assert not (node.root / "v4").exists()


async def test_version_put_aside_twice_is_stored_once(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await folders.pin("v3")
    await change(folders, B, NEW)
    await change(folders, A, {1: OLD[1], 2: OLD[2], 3: NEW[1]})  # v3 stays aside
    await change(folders, A, {1: OLD[1], 2: OLD[2]})
    await folders.record_listed([Listing("v3", sha256(OLD[3]), 3)])
    assert await receive_version(folders, OLD[3], "v3", A) == 0  # linked
    await change(folders, B, NEW)
    assert aside(folders) == {1, 2, 3}
    (one,) = [one for one in folders.aside.of_line(A) if one.number == 3]
    assert one.pinned  # as it was before


async def test_foreign_files_in_the_way_are_left_alone(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, {})
    (node.root / "v2").mkdir()
    (node.root / "v2" / "notes.txt").write_text("mine")
    (node.root / "v3").mkdir()
    (node.root / "v3" / "shard_004.bin").write_text("left of something")
    await change(folders, A, OLD)
    assert served(folders) == {1: OLD[1], 3: OLD[3]}
    assert (node.root / "v2" / "notes.txt").read_text() == "mine"
    assert not (node.root / "v3" / "shard_004.bin").exists()
    assert await receive_version(folders, OLD[2], "v2", A) == 0


async def test_version_damaged_aside_does_not_return_as_complete(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, NEW)
    (folder_of(node, A, 2, OLD[2]) / "shard_002.bin").unlink()
    await change(folders, A, OLD)
    assert set(served(folders)) == {1, 3}
    assert folders.open_numbers == {2}
    assert await receive_version(folders, OLD[2], "v2", A) == SHARD
    assert served(folders) == OLD


# Beside the current line


async def beside(
    folders: VersionFolders, origin: str, number: int, data: bytes, shards: int | None = None
) -> int:
    """Receive a version of another line; how many bytes were missing."""
    manifest = payloads.manifest(data, f"v{number}", origin=origin)
    opened = await folders.begin_beside(origin, LiveManifest.of(manifest))
    fetched = await receive_shards(opened, manifest, data, shards)
    if shards is None:
        await opened.complete(manifest)
    return fetched


async def test_version_received_beside_is_hidden_until_renamed(
    node: StoredNode,
) -> None:
    folders = await started_with(node, A, OLD)
    seq, before = folders.events.seq, snapshot(folders)
    assert await beside(folders, B, 2, NEW[2]) == SIZE
    assert (folders.events.seq, snapshot(folders), folders.open_numbers) == (seq, before, set())
    assert served(folders) == OLD
    inode = folder_of(node, B, 2, NEW[2]).stat().st_ino
    await change(folders, B, NEW)
    assert served(folders) == {2: NEW[2]} and (node.root / "v2").stat().st_ino == inode
    assert served(node.start()) == {2: NEW[2]}


@pytest.mark.parametrize("restart", [False, True])
async def test_partial_version_beside_is_resumed(restart: bool, node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await beside(folders, B, 2, NEW[2], shards=2)
    if restart:
        folders = node.start()
        assert served(folders) == OLD and node.warnings == []
    assert await beside(folders, B, 2, NEW[2]) == 100
    assert aside(folders, B) == {2}
    assert await beside(folders, B, 2, NEW[2]) == 0


@pytest.mark.parametrize("restart", [False, True])
async def test_version_with_unverified_payload_is_not_whole(restart: bool, node: StoredNode) -> None:
    """All its shards are here, but a kill came before the digest of the whole."""
    folders = await started_with(node, A, OLD)
    manifest = payloads.manifest(NEW[2], "v2", origin=B)
    opened = await folders.begin_beside(B, LiveManifest.of(manifest))
    await receive_shards(opened, manifest, NEW[2])
    if restart:
        folders = node.start()
    await change(folders, B, NEW)
    assert node.listed == [] and folders.open_numbers == {2}
    assert await receive_version(folders, NEW[2], "v2", B) == 0
    assert served(folders) == {2: NEW[2]}


async def test_partial_version_beside_is_resumed_after_change(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    manifest = payloads.manifest(NEW[2], "v2", origin=B)
    opened = await folders.begin_beside(B, LiveManifest.of(manifest))
    await receive_shards(opened, manifest, NEW[2], shards=2)
    await change(folders, B, NEW)
    assert snapshot(folders) == ["open v2"]
    with pytest.raises(TransferFailed, match="no longer received"):
        await opened.landing(manifest.shards[2])
    assert await receive_version(folders, NEW[2], "v2", B) == 100
    assert served(folders) == {2: NEW[2]}


async def test_shards_of_any_line_are_linked_not_fetched(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    mixed = OLD[1][:SHARD] + NEW[1][SHARD:]
    assert await beside(folders, B, 5, mixed) == SIZE - SHARD
    await change(folders, C, {})
    again = mixed[: 2 * SHARD] + b"end"
    assert await receive_version(folders, again, "v1", C) == 3


async def test_withdrawn_version_of_other_line_is_not_received(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await folders.withdraw(Withdrawal("v3", sha256(OLD[3]), "bad"))
    await change(folders, B, NEW)
    for _ in range(2):
        with pytest.raises(VersionWithdrawn, match="bad"):
            await beside(folders, A, 3, OLD[3])
        folders = node.start()


async def test_only_complete_manifests_are_received_beside(node: StoredNode) -> None:
    with pytest.raises(UsageError):
        await node.start().begin_beside(B, LiveManifest("v1"))


# What is served of other lines


async def test_shards_put_aside_are_found_by_digest_and_if_match(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await folders.withdraw(Withdrawal("v3", sha256(OLD[3]), ""))
    await change(folders, B, NEW)
    await fill(folders, B, NEW)
    blobs = VersionBlobs(folders)
    for number, data in OLD.items():
        shard = data[SHARD : 2 * SHARD]
        tag = f'"{sha256(shard)}"'
        span = folders.shard_of_another_line(f"v{number}", 2, tag)
        if number == 3:  # withdrawn, so that nobody is served
            assert span is None
            with pytest.raises(BlobMissing):
                async with blobs.open(sha256(shard)):
                    pass
            continue
        assert span and span.path.read_bytes() == shard
        assert folders.shard_of_another_line(f"v{number}", 1, tag) is None
        assert folders.shard_of_another_line("v9", 2, tag) is None
        assert folders.shard_of_another_line(f"v{number}", 2, "*") is None
        async with blobs.open(sha256(shard)) as reader:
            assert await reader.read(SIZE) == shard


async def test_shard_received_beside_is_served_only_when_verified(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await beside(folders, B, 2, NEW[2], shards=1)
    folders = node.start()
    tags = [f'"{sha256(part)}"' for part in payloads.cut(NEW[2], SHARD)]
    found = [folders.shard_of_another_line("v2", shard, tag) for shard, tag in enumerate(tags, 1)]
    assert [one is not None for one in found] == [True, False, False]


async def test_download_continues_across_change_of_line(node: StoredNode, tmp_path: Path) -> None:
    data, other = random_bytes(40 * SHARD, seed=1), random_bytes(40 * SHARD, seed=2)
    folders = await started_with(node, A, {1: data})
    asked: list[str] = []

    def add_change(app: web.Application) -> None:
        @web.middleware
        async def change_at_the_fifth(request: web.Request, handler: Handler) -> web.StreamResponse:
            if "shard_" in request.path:
                asked.append(request.path)
                if len(asked) == 5:
                    await change(folders, B, {1: other})
                    await fill(folders, B, {1: other})
            return await handler(request)

        app.middlewares.append(change_at_the_fifth)

    doors = (partial(add_version_routes, shelf=folders), add_change)
    async with (
        serve(application("81ab", *doors), "127.0.0.1", 0) as url,
        Client([url], tmp_path / "out") as client,
    ):
        release = await client.download("v1", tmp_path / "v1")
        assert release.path.read_bytes() == data
        assert (await client.download("v1", tmp_path / "new")).path.read_bytes() == other


# How long it stays


def set_time(folder: Path, seconds_ago: float) -> None:
    os.utime(folder, (time.time() - seconds_ago,) * 2)


async def test_line_put_aside_expires_after_a_day_unless_pinned(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await folders.pin("v1")
    await change(folders, B, NEW)
    await fill(folders, B, NEW)
    node.clock.now += MAX_ASIDE_SECONDS - 1
    await folders.tidy()
    assert aside(folders) == {1, 2, 3}
    node.clock.now += 1
    await folders.tidy()
    assert aside(folders) == {1}
    assert {entry.name.partition(".")[0] for entry in folder_of(node, A, 1, OLD[1]).parent.iterdir()} == {
        "line",
        f"v1-{sha256(OLD[1])[:16]}",
    }
    assert aside(node.start()) == {1}


async def test_expiry_survives_restarts_and_clock_changes(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, NEW)
    await fill(folders, B, NEW)
    set_time(folder_of(node, A, 1, OLD[1]), MAX_ASIDE_SECONDS - 100)
    set_time(folder_of(node, A, 2, OLD[2]), -1e9)  # a clock that was wrong
    folders = node.start()
    ages = {one.number: folders.aside.age(one) for one in folders.aside}
    assert ages[1] == pytest.approx(MAX_ASIDE_SECONDS - 100, abs=50) and ages[2] == 0
    node.clock.now += 200
    await folders.tidy()
    assert aside(folders) == {2, 3}
    node.clock.now += MAX_ASIDE_SECONDS
    await folders.tidy()
    assert aside(folders) == set()


async def test_newest_of_old_line_stays_until_new_line_has_one(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, NEW)
    node.clock.now += 2 * MAX_ASIDE_SECONDS
    await folders.tidy()
    assert aside(folders) == {3}
    folders = node.start()
    node.clock.now += 2 * MAX_ASIDE_SECONDS
    await folders.tidy()
    assert aside(folders) == {3}
    await fill(folders, B, NEW)
    await folders.tidy()
    assert aside(folders) == set()


async def test_partial_version_beside_expires_a_day_after_last_shard(node: StoredNode) -> None:
    folders = await started_with(node, A, OLD)
    await beside(folders, B, 2, NEW[2], shards=1)
    node.clock.now += MAX_ASIDE_SECONDS - 1
    await beside(folders, B, 2, NEW[2], shards=2)
    node.clock.now += MAX_ASIDE_SECONDS - 1
    await folders.tidy()
    assert folder_of(node, B, 2, NEW[2]).exists() and folders.aside.beside
    node.clock.now += 1
    await folders.tidy()
    assert not folders.aside.beside
    assert not folder_of(node, B, 2, NEW[2]).exists()


async def test_old_lines_beyond_the_latest_are_forgotten(node: StoredNode) -> None:
    folders = node.start()
    for number in range(25):
        await folders.change_line(f"{number:032x}", {}, 1)
    node.start()
    assert len(list((node.root / ".shardcast" / "lines").iterdir())) == 20


# Room


def small(seed: int, *numbers: int) -> dict[int, bytes]:
    return {number: random_bytes(4 * PIECE, seed=100 * seed + number) for number in numbers}


async def test_versions_aside_make_room_oldest_first(node: StoredNode) -> None:
    kib = 4 * PIECE
    folders = await started_with(node, A, small(1, 1, 2, 3))
    await change(folders, B, {})
    await fill(folders, B, small(2, 1))
    node.clock.now += 1
    await change(folders, C, {})
    await fill(folders, C, small(3, 1))
    folders = node.start(max_bytes=7 * kib)  # five are here
    assert folders.quota.used == 5 * kib
    data = random_bytes(4 * kib, seed=9)
    manifest = payloads.manifest(data, "v2", shard_size=kib, origin=C)
    opened = await folders.begin_version(2, LiveManifest.of(manifest))
    assert aside(folders) == {1, 2, 3}  # nothing goes for a size that a manifest claims
    await receive_shards(opened, manifest, data, shards=2)
    assert aside(folders) == {1, 2, 3}
    await receive_shards(opened, manifest, data, shards=3)
    assert aside(folders) == {2, 3}
    await receive_shards(opened, manifest, data, shards=4)
    assert aside(folders) == {3} and aside(folders, B) == {1}
    await opened.complete(manifest)
    assert folders.quota.used == 7 * kib


async def test_pinned_and_last_good_versions_are_not_evicted(node: StoredNode) -> None:
    kib = 4 * PIECE
    folders = await started_with(node, A, small(1, 1, 2, 3))
    await folders.pin("v1")
    await change(folders, B, {})
    folders = node.start(max_bytes=3 * kib)
    big = random_bytes(kib + 1, seed=9)
    with pytest.raises(NoRoom):
        await receive_version(folders, big, "v5", B)
    await folders.discard(5)
    assert aside(folders) == {1, 2, 3}
    await receive_version(folders, big[:kib], "v5", B)
    assert aside(folders) == {1, 3}
    await folders.record_listed([Listing("v6", sha256(big[:kib]), 1)])
    await receive_version(folders, big[:kib], "v6", B)
    assert set(served(folders)) == {5, 6}


async def test_version_received_beside_takes_no_room_of_current_line(node: StoredNode) -> None:
    kib = 4 * PIECE
    folders = await started_with(node, A, small(1, 1, 2))
    await change(folders, B, {})
    await fill(folders, B, small(2, 1, 2))
    folders = node.start(max_bytes=5 * kib)
    data = random_bytes(4 * kib, seed=9)
    manifest = payloads.manifest(data, "v7", shard_size=kib, origin=C)
    opened = await folders.begin_beside(C, LiveManifest.of(manifest))
    await receive_shards(opened, manifest, data, shards=1)
    assert aside(folders) == {1, 2}
    await receive_shards(opened, manifest, data, shards=3)
    assert aside(folders) == set()
    with pytest.raises(NoRoom):
        await receive_shards(opened, manifest, data, shards=4)
    assert set(served(folders)) == {1, 2}
    await folders.change_line(C, {7: sha256(data)}, 7)
    opened_again = folders.opened(7)
    assert opened_again and len(opened_again.verified_shards) == 3
    await receive_shards(opened_again, manifest, data)
    await opened_again.complete(manifest)
    assert served(folders) == {7: data} and aside(folders, B) == {2}


@pytest.mark.parametrize("failing", ["reserve", "pwrite"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_full_disk_drops_one_version_and_retries(
    failing: str, code: int, node: StoredNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, {})
    await fill(folders, B, NEW)
    where, works = (shard_files, shard_files.reserve) if failing == "reserve" else (landings.os, os.pwrite)

    oldest = folder_of(node, A, 1, OLD[1])

    def full(*words: object) -> object:
        if oldest.exists():
            raise OSError(code, os.strerror(code))
        return works(*words)  # type: ignore[operator]

    def space(root: Path) -> DiskSpace:
        found = disk_space(root)
        return replace_fields(found, takes_files=not oldest.exists())

    with monkeypatch.context() as patch:
        patch.setattr(where, failing, full)
        patch.setattr("shardcast.store.quota.disk_space", space)
        await receive_version(folders, random_bytes(SIZE, seed=9), "v3", B)
    assert 3 in served(folders) and aside(folders) == {2, 3}


async def test_nothing_is_evicted_for_version_that_cannot_fit(
    node: StoredNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = await started_with(node, A, OLD)
    await change(folders, B, {})
    await fill(folders, B, NEW)

    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shard_files, "reserve", full)
        data = random_bytes(6 * SIZE, seed=9)
        with pytest.raises(LocalDiskError):
            manifest = payloads.manifest(data, "v3", shard_size=6 * SIZE, origin=B)
            await receive_shards(await folders.begin_version(3, LiveManifest.of(manifest)), manifest, data)
    assert aside(folders) == {1, 2, 3}


# Kills, at every step


class Killed(BaseException):
    """The node was killed here."""


def kill_at(step: int) -> tuple[Callable[[str], None], list[str]]:
    """What kills a node after so many steps, and the steps that it came through."""
    passed: list[str] = []

    def after(name: str) -> None:
        passed.append(name)
        if len(passed) == step:
            raise Killed(name)

    return after, passed


async def prepared(node: StoredNode) -> VersionFolders:
    """A node on line A that has been on B: pinned versions on both, an open one, one that came beside."""
    folders = await started_with(node, A, OLD)
    await folders.pin("v2")
    await change(folders, B, NEW)
    await fill(folders, B, NEW)
    await folders.pin("v1")
    await change(folders, A, OLD)
    manifest = payloads.manifest(NEW[1], "v5", origin=A)
    await receive_shards(
        await folders.begin_version(5, LiveManifest.of(manifest)), manifest, NEW[1], shards=1
    )
    await beside(folders, B, 3, LATER, shards=2)
    return folders


LATER = random_bytes(SIZE, seed=999)
WANTED = {**NEW, 3: LATER}


def assert_nothing_lost(folders: VersionFolders, told: list[str]) -> None:
    """Whichever line is here, its versions and pins are its own, and the other one's lie aside."""
    if folders.line.origin == A:
        assert served(folders) == OLD and folders.holds.pinned == {2} and aside(folders, B) == {1, 2}
        pins = {one.number for one in folders.aside.of_line(B) if one.pinned}
        assert pins == {1}
    else:
        assert folders.line.origin == B
        assert served(folders) == NEW and folders.holds.pinned == {1} and aside(folders) == {1, 2, 3}
        pins = {one.number for one in folders.aside.of_line(A) if one.pinned}
        assert pins == {2}
        assert folders.open_numbers == {3}


@pytest.mark.parametrize("killed_again", [False, True])
async def test_kill_after_any_step_of_change_loses_nothing(killed_again: bool, tmp_path: Path) -> None:
    step = 0
    while True:
        step += 1
        node = StoredNode(tmp_path / f"data{step}")
        folders = await prepared(node)
        folders.after_step, passed = kill_at(step)
        try:
            await change(folders, B, WANTED)
        except Killed:
            pass
        else:
            break
        if killed_again:  # while the change is finished
            again = 0
            while True:
                again += 1
                try:
                    node.start(after_step=kill_at(again)[0])
                    break
                except Killed:
                    continue
        folders = node.start()
        assert_nothing_lost(folders, passed)
        assert folders.line.origin == (A if "planned" not in passed else B)
        await change(folders, B, WANTED)
        assert_nothing_lost(folders, passed)
        assert await receive_version(folders, LATER, "v3", B) == 100
        await change(folders, A, OLD)
        assert served(folders) == OLD and folders.holds.pinned == {2}
        assert not (node.root / ".shardcast" / "changing").exists()
        node.stop()
    assert step > 15
    assert_nothing_lost(folders, passed)
    node.stop()


async def test_failed_change_is_finished_before_other_writes(node: StoredNode) -> None:
    step = 0
    while True:
        step += 1
        one = StoredNode(node.root.with_name(f"data{step}"))
        folders = await prepared(one)
        count = 0

        def fail(name: str, at: int = step) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise LocalDiskError(f"the disk failed after {name}")

        folders.after_step = fail
        try:
            await change(folders, B, WANTED)
        except LocalDiskError:
            for number, data in served(folders).items():  # what is served meanwhile is right
                assert data == OLD[number]
            await folders.pin("v1")
            if (one.root / "v3" / "shard_003.bin").exists() or folders.line.origin == A:
                await folders.unpin("v1")  # it failed before the plan
                await change(folders, B, WANTED)
            assert_nothing_lost(folders, [])
            assert not (one.root / ".shardcast" / "changing").exists()
            one.stop()
        else:
            break
    one.stop()


async def test_requested_version_is_served_during_change_of_line(node: StoredNode) -> None:
    folders = await prepared(node)
    looked = 0

    def look(step: str) -> None:
        nonlocal looked
        for listing in folders.listings:
            for shard in (1, 2, 3):
                span = folders.shard(listing.version, shard)
                if span and span.path.exists():
                    looked += 1
                    assert sha256(span.path.read_bytes()) == span.digest, step

    folders.after_step = look
    await change(folders, B, WANTED)
    assert looked > 50


async def test_damaged_plan_fails_the_start_and_is_named(node: StoredNode) -> None:
    await started_with(node, A, OLD)
    for data in (b"", b"{}", b"[]", b'{"aside": [["/etc", "x"]]}', b"\xff"):
        (node.root / ".shardcast" / "changing").write_bytes(data)
        with pytest.raises(LocalDiskError, match="changing is damaged"):
            node.start()
    (node.root / ".shardcast" / "changing").unlink()
    assert served(node.start()) == OLD


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../b", ""])
def test_plan_cannot_name_paths_outside(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        parse_change_plan(json.dumps({"aside": [["v1", path]], "back": [], "time": 1}).encode())


async def test_concurrent_changes_and_retirements_keep_listed_versions(node: StoredNode) -> None:
    folders = await prepared(node)
    for _ in range(5):
        await asyncio.gather(
            change(folders, B, NEW),
            folders.retire(2),
            folders.tidy(),
            folders.tidy(),
            return_exceptions=False,
        )
        assert served(folders) == NEW
        await asyncio.gather(change(folders, A, OLD), folders.tidy())
        found = served(folders)
        assert found == {number: OLD[number] for number in found}
