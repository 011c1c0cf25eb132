"""The version folders of a data directory: how versions come, stay over restarts, and go."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardcast.constants import LONGEST_HOLD, RECENTLY_READ
from shardcast.errors import LocalDiskError
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse
from shardcast.store import completed as complete_versions
from shardcast.store import landing as landings
from shardcast.store.data_dir import DataDir
from shardcast.store.landing import WrongPiece
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.payloads import PIECE, SHARD, publish, random_bytes, read_shards, sha256

DATA = random_bytes(2 * SHARD + 100)
NAMES = {"manifest.jsonl", "shard_001.bin", "shard_002.bin", "shard_003.bin"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """A node's data directory over its restarts. What it finds at a start is in ``told``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.told: list[str] = []
        self.held: DataDir | None = None

    def start(self, role: str = "origin", keep: int = 15) -> VersionFolders:
        self.stop()
        self.held = DataDir(self.root, role)
        folders = VersionFolders(self.held, keep, self.clock)
        self.told = folders.load(resume=role == "middle")
        return folders

    def stop(self) -> None:
        if self.held:
            self.held.close()
            self.held = None

    def names(self, folder: str) -> set[str]:
        return {path.name for path in (self.root / folder).iterdir()}

    @property
    def list(self) -> list[str]:
        """The versions in ``distribution.txt``."""
        return [line.partition(":")[0] for line in (self.root / "distribution.txt").read_text().splitlines()]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    running = Node(tmp_path / "data")
    yield running
    running.stop()


async def receive(opened: OpenVersion, manifest: Manifest, data: bytes, shards: int | None = None) -> int:
    """Land what is missing of the first shards, as a transfer does; how many bytes were."""
    fetched = 0
    for shard in manifest.shards[:shards]:
        landing = await opened.landing(shard)
        try:
            for start, end in landing.missing():
                await landing.land(start, data[shard.offset + start : shard.offset + end])
                fetched += end - start
            await opened.commit_shard(landing)
        finally:
            landing.close()
    return fetched


def spans(folders: VersionFolders, version: str) -> list[bytes | None]:
    """What the first four shards' spans hold."""
    found = [folders.shard(version, number) for number in range(1, 5)]
    return [
        span.path.read_bytes()[span.offset : span.offset + span.length] if span else None for span in found
    ]


# Publishing


async def test_published_version_is_listed_and_served(node: Node) -> None:
    folders = node.start()
    assert await publish(folders, DATA) == "v1"
    assert folders.distribution() == f"v1: {sha256(DATA)}|3\n".encode()
    assert (node.root / "distribution.txt").read_bytes() == folders.distribution()
    assert folders.manifest("v1") == (node.root / "v1" / "manifest.jsonl").read_bytes()
    assert spans(folders, "v1") == [*payloads.cut(DATA, SHARD), None]
    span = folders.shard("v1", 3)
    assert span and span.digest == sha256(DATA[2 * SHARD :])
    assert node.names("v1") == NAMES
    assert folders.verified_counts("v1")[0] == 3


async def test_version_is_invisible_while_it_is_published(node: Node) -> None:
    folders = node.start()
    opened = folders.open(folders.data_dir.allot())
    opened.files.part(1).write_bytes(DATA[:SHARD])
    opened.files.commit_shard(1, sha256(DATA[:SHARD]))
    assert folders.distribution() == b""
    assert folders.manifest("v1") is None
    assert spans(folders, "v1") == [None] * 4
    assert folders.listings == ()


async def test_discarded_version_leaves_only_its_number(node: Node) -> None:
    folders = node.start()
    opened = folders.open(folders.data_dir.allot())
    opened.files.part(1).write_bytes(DATA[:SHARD])
    opened.files.commit_shard(1, sha256(DATA[:SHARD]))
    await folders.discard(opened.number)
    assert node.names(".") == {".shardcast", "distribution.txt"}
    assert node.names(".shardcast/verified") == set()
    assert await publish(folders, DATA) == "v2"


async def test_numbers_are_never_reused(node: Node) -> None:
    folders = node.start(keep=1)
    for _ in range(3):
        await publish(folders, DATA)
    await folders.retire(3)
    assert node.list == []
    assert await publish(node.start(), DATA) == "v4"


async def test_middle_turned_origin_continues_after_its_versions(node: Node) -> None:
    folders = node.start("middle")
    manifest = payloads.manifest(DATA, "v7")
    opened = folders.open(7, LiveManifest.of(manifest))
    await receive(opened, manifest, DATA)
    await opened.complete(manifest)
    folders = node.start("origin")
    await folders.retire(7)
    assert await publish(folders, DATA) == "v8"


async def test_versions_are_listed_by_number(node: Node) -> None:
    folders = node.start()
    for count in range(11):
        await publish(folders, b"payload %d" % count)
    versions = [f"v{number}" for number in range(1, 12)]
    assert node.list == versions
    folders = node.start()
    assert [one.version for one in folders.listings] == versions
    assert folders.distribution().splitlines()[-1].startswith(b"v11:")


async def test_equal_shard_is_hard_linked_and_stored_once(node: Node) -> None:
    folders = node.start()
    await publish(folders, DATA)
    await publish(folders, DATA[:SHARD] + b"other" + DATA[SHARD:])
    await publish(node.start(), DATA)  # also after a restart
    files = [
        [node.root / f"v{version}" / f"shard_00{shard}.bin" for shard in (1, 2, 3)] for version in (1, 2, 3)
    ]
    assert files[0][0].samefile(files[1][0]) and not files[0][1].samefile(files[1][1])
    assert all(first.samefile(third) for first, third in zip(files[0], files[2], strict=True))
    assert node.names("v3") == NAMES


async def test_version_survives_retirement_of_version_sharing_shards(node: Node) -> None:
    folders = node.start()
    await publish(folders, DATA)
    await publish(folders, DATA)
    await folders.retire(1)
    assert read_shards(node.root / "v2") == DATA
    await publish(folders, DATA)
    assert (node.root / "v2" / "shard_001.bin").samefile(node.root / "v3" / "shard_001.bin")


def damage(file: Path) -> None:
    """Change a byte of a file, as somebody's hand does."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize("restart", [False, True])
async def test_changed_shard_is_not_linked_into_published_version(restart: bool, node: Node) -> None:
    folders = node.start()
    await publish(folders, DATA)
    damage(node.root / "v1" / "shard_001.bin")
    if restart:
        folders = node.start()
    await publish(folders, DATA)
    assert read_shards(node.root / "v2") == DATA


@pytest.mark.parametrize("traceless", [False, True])
async def test_changed_shard_is_not_linked_into_received_version(traceless: bool, node: Node) -> None:
    folders = node.start("middle")
    await publish(folders, DATA)
    file = node.root / "v1" / "shard_001.bin"
    before = file.stat()
    damage(file)
    if traceless:  # as a disk does it
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    manifest = payloads.manifest(DATA, "v2")
    opened = folders.open(2, LiveManifest.of(manifest))
    await receive(opened, manifest, DATA)
    await opened.complete(manifest)
    assert read_shards(node.root / "v2") == DATA


async def test_version_is_not_offered_when_list_cannot_be_written(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = node.start()

    async def full(path: Path, data: bytes) -> None:
        raise LocalDiskError(f"could not write {path}: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(complete_versions, "replace_in_thread", full)
        with pytest.raises(LocalDiskError):
            await publish(folders, DATA)
    assert folders.distribution() == b""
    assert folders.listings == ()
    await folders.discard(1)
    assert "v1" not in node.names(".")
    assert await publish(folders, DATA) == "v2"
    assert node.list == ["v2"]


async def test_list_is_replaced_atomically(node: Node) -> None:
    folders = node.start()
    await publish(folders, b"one")
    reader = (node.root / "distribution.txt").open("rb")
    with reader:
        before = reader.read()
        await publish(folders, b"two")
        reader.seek(0)
        assert reader.read() == before  # what is open is not written into
    assert node.list == ["v1", "v2"]
    assert node.names(".") == {".shardcast", "distribution.txt", "v1", "v2"}


async def test_versions_completing_concurrently_are_all_listed(node: Node) -> None:
    folders = node.start()
    await asyncio.gather(*(publish(folders, b"payload %d" % count) for count in range(8)))
    assert node.list == [f"v{number}" for number in range(1, 9)]


# Receiving


async def test_shard_is_served_once_it_is_whole(node: Node) -> None:
    folders = node.start("middle")
    manifest = payloads.manifest(DATA)
    opened = folders.open(1, LiveManifest.of(manifest))
    landing = await opened.landing(manifest.shards[0])
    await landing.land(0, DATA[: 3 * PIECE])
    assert spans(folders, "v1") == [None] * 4
    await landing.land(3 * PIECE, DATA[3 * PIECE : SHARD])
    await opened.commit_shard(landing)
    landing.close()
    assert spans(folders, "v1") == [DATA[:SHARD], None, None, None]
    assert folders.manifest("v1") is None
    live = folders.live("v1")
    assert live and live.raw == manifest.raw
    assert folders.verified_counts("v1")[0] == 1
    assert folders.listings == ()
    await receive(opened, manifest, DATA)
    await opened.complete(manifest)
    assert node.list == ["v1"]
    assert node.names("v1") == NAMES
    assert read_shards(node.root / "v1") == DATA
    assert node.names(".shardcast/verified") == {"v1"}


async def test_shards_without_digests_stay_parts_until_version_is_verified(node: Node) -> None:
    folders = node.start("middle")
    whole = payloads.manifest(DATA)
    told = Manifest(
        whole.header, tuple(payloads.Shard(s.number, s.offset, s.size) for s in whole.shards), whole.digests
    )
    opened = folders.open(1, LiveManifest.of(told))
    await receive(opened, told, DATA)
    assert spans(folders, "v1") == [None] * 4
    assert folders.manifest("v1") is None
    assert all(name.endswith(".part") for name in node.names("v1"))
    await opened.complete(whole)  # the manifest that was made of what arrived
    assert node.names("v1") == NAMES
    assert spans(folders, "v1") == [*payloads.cut(DATA, SHARD), None]


async def test_existing_shard_is_not_fetched_again(node: Node) -> None:
    folders = node.start("middle")
    first, newer = payloads.manifest(DATA), DATA[: 2 * SHARD] + b"end"
    second = payloads.manifest(newer, "v2")
    for manifest, data, fetched in ((first, DATA, len(DATA)), (second, newer, len(b"end"))):
        opened = folders.open(int(manifest.version[1:]), LiveManifest.of(manifest))
        assert await receive(opened, manifest, data) == fetched
        await opened.complete(manifest)
    assert (node.root / "v1" / "shard_002.bin").samefile(node.root / "v2" / "shard_002.bin")


async def test_shorter_payload_removes_shards_of_longer_one(node: Node) -> None:
    """An origin that began anew has another v1."""
    folders = node.start("middle")
    longer = payloads.manifest(DATA)
    opened = folders.open(1, LiveManifest.of(longer))
    await receive(opened, longer, DATA, shards=2)
    (await opened.landing(longer.shards[2])).close()
    manifest = payloads.manifest(b"short")
    opened = folders.open(1, LiveManifest.of(manifest))
    await receive(opened, manifest, b"short")
    await opened.complete(manifest)
    assert node.names("v1") == {"manifest.jsonl", "shard_001.bin"}
    assert read_shards(node.root / "v1") == b"short"


@pytest.mark.parametrize("restart", [False, True])
async def test_linked_shard_is_never_written_to(restart: bool, node: Node) -> None:
    """v2 opens with v1's shard, then turns out to be something else."""
    folders = node.start("middle")
    await publish(folders, DATA)
    linked = payloads.manifest(DATA, "v2")
    await receive(folders.open(2, LiveManifest.of(linked)), linked, DATA, shards=1)
    assert (node.root / "v1" / "shard_001.bin").samefile(node.root / "v2" / "shard_001.bin")
    other = random_bytes(len(DATA), seed=2)
    manifest = payloads.manifest(other, "v2")
    if restart:
        folders = node.start("middle")
    opened = folders.open(2, LiveManifest.of(manifest))
    assert opened.verified_shards == set()
    assert await receive(opened, manifest, other) == len(other)
    await opened.complete(manifest)
    assert read_shards(node.root / "v1") == DATA
    assert read_shards(node.root / "v2") == other


# Restarts


async def test_origin_discards_open_version_at_start(node: Node) -> None:
    folders = node.start()
    await publish(folders, DATA)
    opened = folders.open(folders.data_dir.allot())
    opened.files.part(1).write_bytes(DATA[:SHARD])
    opened.files.commit_shard(1, sha256(DATA[:SHARD]))
    opened.files.part(2).write_bytes(DATA[:5])
    folders = node.start()
    assert "discarded v2" in node.told[0]
    assert node.names(".") == {".shardcast", "distribution.txt", "v1"}
    assert await publish(folders, DATA) == "v3"


async def test_middle_resumes_open_version_at_start(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = payloads.manifest(DATA)
    folders = node.start("middle")
    opened = folders.open(1, LiveManifest.of(manifest))
    await receive(opened, manifest, DATA, shards=2)
    landing = await opened.landing(manifest.shards[2])
    landing.close()
    folders = node.start("middle")
    assert not node.told
    assert folders.open_numbers == {1}
    assert spans(folders, "v1") == [DATA[:SHARD], DATA[SHARD : 2 * SHARD], None, None]
    resumed = folders.opened(1)
    assert resumed and resumed.verified_shards == {1, 2}
    with monkeypatch.context() as patch:
        patch.setattr(landings, "piece_digest", None)  # unchanged shards need no second look
        assert await receive(resumed, manifest, DATA, shards=2) == 0
    assert await receive(resumed, manifest, DATA) == 100
    await resumed.complete(manifest)
    assert node.list == ["v1"]
    assert read_shards(node.root / "v1") == DATA


async def test_pieces_of_unfinished_shard_survive_kill(node: Node) -> None:
    manifest = payloads.manifest(DATA)
    landing = await node.start("middle").open(1, LiveManifest.of(manifest)).landing(manifest.shards[0])
    await landing.land(PIECE, DATA[PIECE : 3 * PIECE])
    landing.close()
    resumed = node.start("middle").opened(1)
    assert resumed
    landing = await resumed.landing(manifest.shards[0])
    assert landing.missing() == [(0, PIECE), (3 * PIECE, SHARD)]
    with pytest.raises(WrongPiece):
        await landing.land(0, DATA[PIECE : 2 * PIECE])
    landing.close()


@pytest.mark.parametrize("way", ["written", "replaced", "cut", "gone"])
async def test_shard_changed_while_middle_was_stopped_is_verified_again(way: str, node: Node) -> None:
    manifest = payloads.manifest(DATA)
    await receive(node.start("middle").open(1, LiveManifest.of(manifest)), manifest, DATA, shards=2)
    file = node.root / "v1" / "shard_001.bin"
    if way == "written":
        with file.open("r+b") as shard:
            shard.seek(PIECE)
            shard.write(b"changed")
        os.utime(file, ns=(1, 1))
    elif way == "replaced":
        file.rename(node.root / "elsewhere")
        file.write_bytes(random_bytes(SHARD, seed=3))
    elif way == "cut":
        os.truncate(file, PIECE)
    else:
        file.unlink()
    folders = node.start("middle")
    resumed = folders.opened(1)
    assert resumed and resumed.verified_shards == {2}
    assert folders.shard("v1", 1) is None
    missing = {"written": PIECE, "replaced": SHARD, "cut": 3 * PIECE, "gone": SHARD}[way]
    assert await receive(resumed, manifest, DATA, shards=2) == missing
    assert spans(folders, "v1")[:2] == [DATA[:SHARD], DATA[SHARD : 2 * SHARD]]


async def test_shard_verified_for_another_payload_is_not_reused(node: Node) -> None:
    manifest, other = payloads.manifest(DATA), random_bytes(len(DATA), seed=2)
    folders = node.start("middle")
    await receive(folders.open(1, LiveManifest.of(manifest)), manifest, DATA)
    opened = folders.open(1, LiveManifest.of(payloads.manifest(other)))
    assert opened.verified_shards == set()
    assert spans(folders, "v1") == [None] * 4


async def test_complete_versions_survive_restart(node: Node) -> None:
    folders = node.start()
    await publish(folders, DATA)
    await publish(folders, b"")
    before = folders.distribution()
    for role in ("origin", "middle"):
        folders = node.start(role)
        assert node.told == []
        assert folders.distribution() == before == (node.root / "distribution.txt").read_bytes()
        assert spans(folders, "v1") == [*payloads.cut(DATA, SHARD), None]
        assert spans(folders, "v2") == [b"", None, None, None]


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda v1: (v1 / "shard_002.bin").unlink(), id="a shard is missing"),
        pytest.param(lambda v1: os.truncate(v1 / "shard_002.bin", 5), id="a shard is cut"),
        pytest.param(lambda v1: (v1 / "manifest.jsonl").write_bytes(b"{}\n"), id="the manifest is none"),
        pytest.param(
            lambda v1: (v1 / "manifest.jsonl").write_bytes(payloads.manifest(b"other").raw),
            id="the manifest is another's",
        ),
    ],
)
@pytest.mark.parametrize("role", ["origin", "middle"])
async def test_incomplete_version_is_not_offered_after_restart(
    role: str, harm: Callable[[Path], None], node: Node
) -> None:
    folders = node.start()
    await publish(folders, DATA)
    await publish(folders, random_bytes(len(DATA), seed=2))
    harm(node.root / "v1")
    folders = node.start(role)
    assert "v1 is not complete here any more" in node.told[0]
    assert node.list == ["v2"]
    assert [one.version for one in folders.listings] == ["v2"]
    assert await publish(folders, DATA) == "v3"


async def test_list_without_final_newline_is_read(node: Node) -> None:
    await publish(node.start(), DATA)
    file = node.root / "distribution.txt"
    file.write_bytes(file.read_bytes().rstrip(b"\n"))  # only this node writes it: there is no more to come
    assert [one.version for one in node.start().listings] == ["v1"]
    assert file.read_bytes().endswith(b"|3\n")


async def test_malformed_list_raises_error_naming_it(node: Node) -> None:
    node.start()
    (node.root / "distribution.txt").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(LocalDiskError, match=r"distribution\.txt"):
        node.start()


@pytest.mark.parametrize(
    "leftover",
    [
        "distribution.txt.part",
        ".shardcast/next.part",
        ".shardcast/retired/v9-1a2b/shard_001.bin",
        "v1/shard_002.bin.part",
        "v1/manifest.jsonl.part",
        "v9/shard_001.bin.part",
        "v9/shard_001.bin",
        "v9/manifest.jsonl.part",
    ],
)
@pytest.mark.parametrize("role", ["origin", "middle"])
async def test_crash_leftovers_are_removed_at_next_start(role: str, leftover: str, node: Node) -> None:
    await publish(node.start(), DATA)
    (node.root / leftover).parent.mkdir(exist_ok=True)
    (node.root / leftover).write_bytes(b"half")
    folders = node.start(role)
    assert not (node.root / leftover).exists()
    assert node.names(".") == {".shardcast", "distribution.txt", "v1"}
    assert node.names("v1") == NAMES
    assert read_shards(node.root / "v1") == DATA
    assert [one.version for one in folders.listings] == ["v1"]


@pytest.mark.parametrize("role", ["origin", "middle"])
async def test_foreign_files_are_left_alone(role: str, node: Node) -> None:
    node.start()
    for name in ("v3/notes.txt", "v4/shard_001.bin", "v4/notes.txt", "notes.txt", "v5"):
        (node.root / name).parent.mkdir(exist_ok=True)
        (node.root / name).write_text("mine")
    folders = node.start(role)
    assert sum("left alone" in line for line in node.told) == 2
    assert all(
        (node.root / name).read_text() == "mine" for name in ("v3/notes.txt", "v4/notes.txt", "notes.txt")
    )
    assert (node.root / "v4" / "shard_001.bin").exists()
    assert folders.listings == ()
    assert folders.shard("v4", 1) is None
    assert folders.data_dir.allot() > 4


async def test_discarding_a_version_keeps_foreign_files(node: Node) -> None:
    node.start()
    (node.root / "v3").mkdir()
    (node.root / "v3" / "notes.txt").write_text("mine")
    folders = node.start("middle")
    manifest = payloads.manifest(DATA, "v3")
    await receive(folders.open(3, LiveManifest.of(manifest)), manifest, DATA)
    await folders.discard(3)
    assert node.names("v3") == {"notes.txt"}


async def test_version_of_0_1_0_is_offered_by_origin_but_not_by_middle(node: Node) -> None:
    v1 = node.root / "v1"
    v1.mkdir(parents=True)
    for number, shard in enumerate(payloads.cut(DATA, SHARD), 1):
        (v1 / f"shard_{number:03}.bin").write_bytes(shard)
    listing = Listing("v1", sha256(DATA), 3)
    (node.root / "distribution.txt").write_text(f"v1: {sha256(DATA)}|3")
    folders = node.start("origin")
    assert folders.listings == (listing,)
    assert folders.unsurveyed == [listing]
    assert spans(folders, "v1") == [*payloads.cut(DATA, SHARD), None]
    assert folders.manifest("v1") is None
    folders = node.start("middle")
    assert folders.untrusted == [listing]
    assert folders.listings == ()
    assert spans(folders, "v1") == [None] * 4
    assert [span.path.name for span in folders.spans(listing)] == [
        f"shard_00{number}.bin" for number in (1, 2, 3)
    ]
    await folders.keep_survey(listing, payloads.manifest(DATA))
    assert folders.untrusted == []
    assert node.list == ["v1"]
    assert parse((v1 / "manifest.jsonl").read_bytes()) == payloads.manifest(DATA)
    assert spans(node.start("middle"), "v1") == [*payloads.cut(DATA, SHARD), None]


@pytest.mark.parametrize("role", ["origin", "middle"])
async def test_wrong_version_of_0_1_0_is_removed(role: str, node: Node) -> None:
    (node.root / "v1").mkdir(parents=True)
    (node.root / "v1" / "shard_001.bin").write_bytes(b"wrong")
    (node.root / "distribution.txt").write_text(f"v1: {sha256(DATA)}|1\n")
    folders = node.start(role)
    await folders.keep_survey(Listing("v1", sha256(DATA), 1), None)
    assert (folders.listings, folders.untrusted, node.list) == ((), [], [])
    assert "v1" not in node.names(".")


# Retention


async def test_only_newest_versions_are_kept(node: Node) -> None:
    folders = node.start(keep=2)
    for count in range(4):
        await publish(folders, b"payload %d" % count)
    assert node.list == ["v3", "v4"]
    assert node.names(".") == {".shardcast", "distribution.txt", "v3", "v4"}
    assert node.names(".shardcast/retired") == set()


async def test_lower_keep_after_restart_retires_the_oldest(node: Node) -> None:
    folders = node.start()
    for count in range(4):
        await publish(folders, b"payload %d" % count)
    folders = node.start(keep=1)
    await folders.tidy()
    assert node.list == ["v4"]


async def test_version_read_in_the_last_minute_is_kept(node: Node) -> None:
    folders = node.start(keep=1)
    await publish(folders, b"one")
    with folders.reading("v1", "a reader"):
        pass
    node.clock.now += RECENTLY_READ - 1
    await publish(folders, b"two")
    assert node.list == ["v1", "v2"]
    assert folders.shard("v1", 1)
    node.clock.now += 1
    await folders.tidy()
    assert node.list == ["v2"]
    assert folders.shard("v1", 1) is None


async def test_version_being_read_is_kept_ten_minutes_at_most(node: Node) -> None:
    folders = node.start(keep=1)
    await publish(folders, b"one")
    with folders.reading("v1", "a reader"), folders.reading("v1", "a reader"):
        await publish(folders, b"two")
        node.clock.now += LONGEST_HOLD - 1
        with folders.reading("v1", "a reader"):
            pass
        await folders.tidy()
        assert node.list == ["v1", "v2"]
        span = folders.shard("v1", 1)
        assert span
        with span.path.open("rb") as answer:
            node.clock.now += 1
            await folders.tidy()
            assert node.list == ["v2"]
            assert answer.read() == b"one"  # an answer that is running ends well


async def test_repeated_reads_do_not_extend_the_hold(node: Node) -> None:
    folders = node.start(keep=1)
    await publish(folders, b"one")
    await publish(folders, b"two")
    assert node.list == ["v2"]
    with folders.reading("v2", "a reader"):
        await publish(folders, b"three")
    for _ in range(int(LONGEST_HOLD // 30)):
        assert node.list == ["v2", "v3"]
        node.clock.now += 30
        with folders.reading("v2", "a reader"):
            pass
        await folders.tidy()
    assert node.list == ["v3"]


async def test_open_version_is_not_retired_and_retires_nothing(node: Node) -> None:
    folders = node.start("middle", keep=1)
    manifest = payloads.manifest(DATA, "v5")
    await publish(folders, b"one")
    opened = folders.open(5, LiveManifest.of(manifest))
    await folders.tidy()
    assert node.list == ["v1"]
    await receive(opened, manifest, DATA)
    await opened.complete(manifest)
    assert node.list == ["v5"]


async def test_failed_retirement_is_retried_without_failing_publish(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = node.start(keep=1)
    await publish(folders, b"one")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "v1":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        assert await publish(folders, b"two") == "v2"
    assert "v2" in node.list
    await folders.tidy()
    assert node.list == ["v2"]
    assert node.names(".") == {".shardcast", "distribution.txt", "v2"}


async def test_version_replaced_by_shorter_payload_survives_restart(node: Node) -> None:
    folders = node.start("middle")
    longer, shorter = payloads.manifest(DATA), payloads.manifest(DATA[: SHARD + 1])
    await receive(folders.open(1, LiveManifest.of(longer)), longer, DATA, shards=3)
    opened = folders.open(1, LiveManifest.of(shorter))
    await receive(opened, shorter, DATA[: SHARD + 1])
    await opened.complete(shorter)
    folders = node.start("middle")
    assert [one.version for one in folders.listings] == ["v1"]
    assert read_shards(node.root / "v1") == DATA[: SHARD + 1]


async def test_truncated_verified_record_does_not_lose_the_version(node: Node) -> None:
    await publish(node.start(), DATA)
    record = node.root / ".shardcast" / "verified" / "v1"
    record.write_bytes(record.read_bytes()[:-5])
    assert [one.version for one in node.start().listings] == ["v1"]
