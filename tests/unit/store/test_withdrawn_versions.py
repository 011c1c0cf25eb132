"""Versions that their publisher took back: off every list at once, and never back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError, VersionAborted, VersionNotOffered, VersionWithdrawn
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.store import completed as complete_versions
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.folders import StoredNode, events_since, receive_shards, receive_version, snapshot
from tests.support.payloads import PIECE, SHARD, publish, random_bytes, read_shards, sha256

DATA = random_bytes(2 * SHARD + 100)
OTHER = random_bytes(2 * SHARD + 100, seed=2)
TAKEN_BACK = Withdrawal("v2", sha256(DATA), "loss was NaN")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoredNode]:
    running = StoredNode(tmp_path / "data")
    yield running
    running.stop()


@pytest.fixture
async def folders(node: StoredNode) -> VersionFolders:
    """A middle's, with v1 and v2 complete."""
    found = node.start()
    await found.record_listed([Listing("v1", sha256(OTHER), 3), Listing("v2", sha256(DATA), 3)], 2)
    await receive_version(found, OTHER, "v1")
    await receive_version(found, DATA, "v2")
    return found


async def test_withdrawn_version_is_unlisted_and_announced(folders: VersionFolders, node: StoredNode) -> None:
    seq = folders.events.seq
    await folders.withdraw(TAKEN_BACK)
    assert node.listed == ["v1"]
    assert events_since(folders, seq) == ["retired v2", "withdrawn v2"]
    event = folders.versions_now()[-1]
    assert event.listing and (event.listing.digest, event.reason) == (sha256(DATA), "loss was NaN")
    assert snapshot(folders) == ["complete v1", "withdrawn v2"]


@pytest.mark.parametrize("restart", [False, True])
async def test_withdrawn_version_is_not_served_but_keeps_its_files(
    restart: bool, folders: VersionFolders, node: StoredNode
) -> None:
    span = folders.shard("v2", 1)
    assert span
    with span.path.open("rb") as reader:
        await folders.withdraw(TAKEN_BACK)
        if restart:
            folders = node.start()
            assert node.warnings == []
        assert folders.shard("v2", 1) is None and folders.manifest("v2") is None and not folders.has("v2")
        assert folders.live("v2") is None
        with folders.leased("v2", "a reader") as leased:
            assert not leased
        assert read_shards(node.root / "v2") == DATA
        assert reader.read() == DATA[:SHARD]  # whoever has a file open reads on
    assert snapshot(folders) == ["complete v1", "withdrawn v2"]


async def test_second_withdrawal_changes_and_announces_nothing(folders: VersionFolders) -> None:
    await folders.withdraw(TAKEN_BACK)
    seq = folders.events.seq
    await folders.withdraw(Withdrawal("v2", sha256(DATA), "another reason"))
    assert folders.events.seq == seq
    assert folders.line.withdrawn == {2: TAKEN_BACK}


async def test_withdrawal_of_another_digest_is_recorded_and_removes_nothing(
    folders: VersionFolders, node: StoredNode
) -> None:
    await folders.withdraw(Withdrawal("v2", sha256(OTHER), ""))
    assert node.listed == ["v1", "v2"] and folders.shard("v2", 1)
    folders = node.start()
    assert node.listed == ["v1", "v2"]
    assert folders.line.withdrawn[2].digest == sha256(OTHER)


async def test_withdrawal_of_missing_version_is_recorded_and_announced(node: StoredNode) -> None:
    folders = node.start()
    folders.set_known({2: Listing("v2", sha256(DATA), 3)})
    await folders.withdraw(TAKEN_BACK)
    assert events_since(folders, 0) == ["known v2", "retired v2", "withdrawn v2"]
    folders.set_known({2: Listing("v2", sha256(DATA), 3)})
    folders = node.start()
    assert snapshot(folders) == ["withdrawn v2"]
    with pytest.raises(VersionWithdrawn):
        await receive_version(folders, DATA, "v2")
    assert node.listed == [] and not (node.root / "v2").exists()


@pytest.mark.parametrize("whole", [True, False], ids=["its manifest is whole", "it is being made"])
async def test_withdrawn_open_version_is_aborted(whole: bool, node: StoredNode) -> None:
    folders = node.start()
    manifest = payloads.manifest(DATA, "v2")
    live = LiveManifest("v2")
    live.add(manifest.raw if whole else b"".join(manifest.raw.splitlines(keepends=True)[:2]))
    opened = await folders.begin_version(2, live)
    await receive_shards(opened, manifest, DATA, shards=1)
    await folders.withdraw(TAKEN_BACK)
    assert events_since(folders, 0) == ["open v2", "withdrawn v2", "aborted v2"]
    assert not (node.root / "v2").exists() and folders.opened(2) is None
    with pytest.raises(VersionWithdrawn):  # what a transfer that still runs meets
        await opened.landing(manifest.shards[1])
    if not whole:
        assert isinstance(live.error, VersionAborted) and live.aborted == "withdrawn: loss was NaN"


async def test_open_version_continues_when_another_digest_is_withdrawn(node: StoredNode) -> None:
    folders = node.start()
    await folders.begin_version(2, LiveManifest.of(payloads.manifest(OTHER, "v2")))
    await folders.withdraw(TAKEN_BACK)
    assert folders.open_numbers == {2}


async def test_withdrawal_during_completion_wins(node: StoredNode) -> None:
    folders = node.start()
    manifest = payloads.manifest(DATA, "v2")
    opened = await folders.begin_version(2, LiveManifest.of(manifest))
    await receive_shards(opened, manifest, DATA)
    done = await asyncio.gather(
        folders.withdraw(TAKEN_BACK), opened.complete(manifest), return_exceptions=True
    )
    assert done[0] is None
    assert node.listed == []
    assert "withdrawn v2" in snapshot(folders) and not folders.has("v2")


# Kills


async def test_version_stays_withdrawn_after_kill_between_record_and_list(
    folders: VersionFolders, node: StoredNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(path: Path, data: bytes) -> None:
        raise LocalDiskError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(complete_versions, "replace_in_thread", killed)
        with pytest.raises(LocalDiskError):
            await folders.withdraw(TAKEN_BACK)
    assert node.listed == ["v1", "v2"]
    folders = node.start()
    assert node.listed == ["v1"] and snapshot(folders) == ["complete v1", "withdrawn v2"]
    assert read_shards(node.root / "v2") == DATA


async def test_failed_withdrawal_can_be_retried(
    folders: VersionFolders, node: StoredNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(path: Path, data: bytes) -> None:
        raise LocalDiskError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(complete_versions, "replace_in_thread", full)
        with pytest.raises(LocalDiskError):
            await folders.withdraw(TAKEN_BACK)
    seq = folders.events.seq
    await folders.withdraw(TAKEN_BACK)
    assert events_since(folders, seq) == ["retired v2", "withdrawn v2"] and node.listed == ["v1"]


async def test_open_version_withdrawn_before_kill_is_not_resumed(node: StoredNode) -> None:
    folders = node.start()
    manifest = payloads.manifest(DATA, "v2")
    await receive_shards(await folders.begin_version(2, LiveManifest.of(manifest)), manifest, DATA, shards=1)
    record = folders.line.withdrawing(TAKEN_BACK)
    (node.root / ".shardcast" / "line").write_bytes(record.to_bytes())
    folders = node.start()
    assert folders.open_numbers == set() and not (node.root / "v2").exists()


# How long the files stay


@pytest.mark.parametrize("is_pinned", [False, True])
async def test_withdrawn_files_are_removed_once_newer_versions_replace_them(
    is_pinned: bool, node: StoredNode
) -> None:
    folders = node.start("origin", keep=2)
    await publish(folders, b"one")
    await publish(folders, DATA)
    if is_pinned:
        await folders.pin("v2")
    await folders.withdraw_own("v2", "bad")
    assert node.listed == ["v1"]
    await publish(folders, b"three")
    assert node.listed == ["v1", "v3"]  # it takes no place of a good one
    assert (node.root / "v2").exists()
    folders = node.start("origin", keep=2)
    assert folders.holds.pinned == set()
    await publish(folders, b"four")
    assert node.listed == ["v3", "v4"] and not (node.root / "v2").exists()
    assert list((node.root / ".shardcast" / "pinned").iterdir()) == []


async def test_withdrawn_files_are_evicted_before_good_versions(node: StoredNode) -> None:
    folders = node.start(max_bytes=3 * PIECE)
    data = [random_bytes(100, seed=number) for number in range(1, 5)]
    await folders.record_listed([Listing(f"v{number}", sha256(one), 1) for number, one in enumerate(data, 1)])
    for number in (1, 2, 3):
        await receive_version(folders, data[number - 1], f"v{number}")
    await folders.withdraw(Withdrawal("v2", sha256(data[1]), ""))
    assert folders.quota.used == 3 * PIECE
    await receive_version(folders, data[3], "v4")
    assert node.listed == ["v1", "v3", "v4"] and not (node.root / "v2").exists()
    assert folders.quota.used == 3 * PIECE


# At an origin


async def test_origin_withdraws_published_and_retired_versions(node: StoredNode) -> None:
    folders = node.start("origin", keep=1)
    await publish(folders, DATA)
    await publish(folders, OTHER)
    assert await folders.withdraw_own("v1", "bad") == Withdrawal("v1", sha256(DATA), "bad")
    assert await folders.withdraw_own("v2") == Withdrawal("v2", sha256(OTHER))
    assert await folders.withdraw_own("v2", "again") == Withdrawal("v2", sha256(OTHER))
    assert node.listed == []
    folders = node.start("origin")
    assert node.listed == []
    assert await folders.withdraw_own("v1") == Withdrawal("v1", sha256(DATA), "bad")
    assert await publish(folders, DATA) == "v3"


@pytest.mark.parametrize("version", ["v2", "v", "../v1"])
async def test_origin_cannot_withdraw_unpublished_version(version: str, node: StoredNode) -> None:
    folders = node.start("origin")
    await publish(folders, DATA)
    with pytest.raises(VersionNotOffered, match="v1"):
        await folders.withdraw_own(version)
    assert folders.line.withdrawn == {}
