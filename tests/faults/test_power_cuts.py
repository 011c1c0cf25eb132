"""What a power cut leaves, at any moment: what was acknowledged is there and right, and a restart goes well.

Kills of processes can't show a missing fsync, since what the system has in memory survives them. So what
work asks of the system is recorded, and what a disk may hold after a cut is computed from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardcast.filesystem import replace_in_thread
from shardcast.nodes.output_names import output_name
from shardcast.nodes.outputs import OutputFolder
from shardcast.nodes.publisher import Publisher
from shardcast.nodes.upload_table import UploadTable
from shardcast.protocol.uploads import UploadState, WholePayload
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.folders import StoredNode
from tests.support.payloads import sha256
from tests.support.power import work
from tests.support.power.recording import Record, Unavailable, record
from tests.support.power.replaying import Said, replay
from tests.support.power.working import DAY, LINES, SHARD, payload

NAMES = (
    "publish", "publish_links", "publish_pipe", "retire", "withdraw", "relay", "change", "download", "follow",
    "upload",
)  # fmt: skip

pytestmark = pytest.mark.xdist_group("power cuts")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    try:
        return record(work.__name__, tmp_path_factory.mktemp("power"), NAMES)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_default_executor())
    made.close()


@pytest.fixture
def run(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    return loop.run_until_complete


@pytest.mark.parametrize("name", NAMES)
def test_recorder_misses_no_call(records: dict[str, Record], name: str) -> None:
    records[name].check()


# Data directories


def said_numbers(said: Said, key: str) -> list[int]:
    return [one[key] for one in said if key in one]


def assert_right(folders: VersionFolders, number_of: Callable[[str, int], int]) -> None:
    """Everything that is listed is whole and right; ``number_of`` tells which payload it must have."""
    for listing in folders.listings:
        expected = payload(number_of(listing.version, listing.number))
        assert listing.digest == sha256(expected), f"{listing.version} is another version's"
        assert read(folders, listing.version) == expected, f"{listing.version} is wrong"


def read(folders: VersionFolders, version: str) -> bytes:
    manifest = folders.manifest_of(version)
    assert manifest, f"{version} has no manifest"
    parts: list[bytes] = []
    for shard in manifest.shards:
        span = folders.shard(version, shard.number)
        assert span, f"shard {shard.number} of {version} is not here"
        with span.path.open("rb") as file:
            file.seek(span.offset)
            parts.append(file.read(span.length))
    return b"".join(parts)


def numbers_listed(root: Path) -> set[int]:
    """Return the versions that a distribution list tells of, as a static server would serve it."""
    file = root / "distribution.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return {int(line.removeprefix("v").partition(":")[0]) for line in lines}


def assert_kept(root: Path, said: Said, role: str, times: int = 1) -> VersionFolders:
    """The directory is taken up so many times, with all that was acknowledged in it."""
    kept = next((one["keep"] for one in said if "keep" in one), 1000)
    published = sorted(set(said_numbers(said, "published")))
    withdrawn, withdrawing = said_numbers(said, "withdrawn"), said_numbers(said, "withdrawing")
    pinned = set(said_numbers(said, "pinned")) - set(said_numbers(said, "unpinning"))
    listed = numbers_listed(root) & set(published) - set(withdrawing)
    node = StoredNode(root)
    for _ in range(times):
        folders = node.start(role, keep=1000)
        assert_right(folders, lambda version, number: number)
        # What came last takes the place of an older one before its publisher is told.
        newest = sorted({*published, *folders.complete_numbers})[-kept:]
        expected = (set(newest) & set(published) - set(withdrawing)) | pinned | listed
        assert folders.complete_numbers >= expected, f"lost: {expected - folders.complete_numbers}"
        assert folders.complete_numbers.isdisjoint(withdrawn), "a withdrawn version is listed"
        assert set(withdrawn) <= set(folders.line.withdrawn), "a withdrawal is forgotten"
        assert folders.holds.pinned >= pinned, "a pin is forgotten"
        assert folders.holds.pinned.isdisjoint(said_numbers(said, "unpinned")), "a pin came back"
        for number in list(folders.inventory.open):
            assert_open_right(folders, number, payload(number))
        used = [*said_numbers(said, "numbered"), *published]
        assert folders.data_dir.next > max(used, default=0), "a number can be given again"
    return folders


def assert_open_right(folders: VersionFolders, number: int, expected: bytes) -> None:
    """What counts as verified of a version that goes on is right."""
    opened = folders.opened(number)
    assert opened
    for shard in opened.verified_shards:
        span, one = opened.shard(shard), opened.live.shards[shard - 1]
        assert span
        assert span.path.read_bytes() == expected[one.offset : one.end], f"v{number} has wrong bytes"


@pytest.mark.parametrize("name", ["publish", "publish_links", "publish_pipe", "retire", "withdraw"])
def test_origin_keeps_what_it_acknowledged(records: dict[str, Record], name: str) -> None:
    inside = "new/data" if name == "publish" else "data"

    def check(place: Path, said: Said) -> None:
        (place / inside).parent.mkdir(exist_ok=True)
        assert_kept(place / inside, said, "origin", 2 if name == "publish" else 1).data_dir.close()

    replay(records[name], check)


def test_origin_keeps_the_uploads_it_acknowledged(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    def check(place: Path, said: Said) -> None:
        folders = assert_kept(place / "data", said, "origin")
        unconfirmed = folders.complete_numbers - set(said_numbers(said, "confirming"))
        assert not unconfirmed, f"published without a confirmation: {unconfirmed}"
        run(assert_uploads_kept(folders, said))
        folders.data_dir.close()

    replay(records["upload"], check)


async def assert_uploads_kept(folders: VersionFolders, said: Said) -> None:
    """Each upload has all bytes that an answer told of, or tells its version, and can go on."""
    begun = {one["upload"]: one["number"] for one in said if "number" in one}
    live = {one["upload"] for one in said if one.get("live")}
    durable = {one["upload"]: one["durable"] for one in said if "upload" in one}
    published, forgotten = said_numbers(said, "published"), said_values(said, "forgetting")
    publisher = Publisher(folders)
    table = UploadTable(folders, publisher)
    async with table.running():
        for upload in durable.keys() - set(forgotten):
            number = begun[upload]
            if upload in live and number not in published:
                continue  # its version ended with the origin
            status, data = table.status(upload), payload(number)
            if number in folders.complete_numbers:
                assert (status.state, status.version) == (UploadState.COMPLETE, f"v{number}")
                continue
            assert number not in published and status.offset >= durable[upload], "acknowledged bytes are lost"
            await table.append(upload, status.offset, chunks_of(data[status.offset :]))
            whole = WholePayload(len(data), sha256(data))
            lines = [line async for line in table.finish(upload, whole)]
            assert lines[-1] == {"ready": True}, "wrong bytes were kept"
    await publisher.close()


async def chunks_of(data: bytes) -> AsyncIterator[bytes]:
    """Yield bytes as the body of a request."""
    yield data


def test_middle_keeps_what_it_lists(records: dict[str, Record]) -> None:
    def check(place: Path, said: Said) -> None:
        assert_kept(place / "data", said, "middle").data_dir.close()

    replay(records["relay"], check)


def test_change_of_line_loses_no_version(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    def check(place: Path, said: Said) -> None:
        node = StoredNode(place / "data")
        folders = node.start(keep=1000)
        had = {(origin, number): index for origin, number, index in said_values(said, "had")}
        beside = {(origin, number): index for origin, number, index in said_values(said, "beside")}
        told = [index for index, one in enumerate(said) if "line" in one or "changing" in one]
        if told and "line" in said[told[-1]]:
            assert folders.line.origin == said[told[-1]]["line"], "the line went back"
        contents = {(LINES[0], 1): 1, (LINES[0], 2): 2, (LINES[1], 1): 7}
        assert_right(folders, lambda version, number: contents[str(folders.line.origin), number])
        here = {(folders.line.origin, number) for number in folders.complete_numbers}
        withdrawn = {(LINES[0], number) for number in said_numbers(said, "withdrawn")}
        assert here.isdisjoint(withdrawn), "a withdrawn version is listed"
        for one in folders.aside:
            assert folders.aside.age(one) < DAY, f"{one.place.folder.name} goes though it came just now"
            if one.finished:
                here.add((one.origin, one.number))
                data = b"".join(
                    (one.place.folder / f"shard_{shard.number:03}.bin").read_bytes()
                    for shard in one.complete.manifest.shards  # type: ignore[union-attr]
                )
                assert data == payload(contents[str(one.origin), one.number]), "a version aside is wrong"
        withdrawing = {(LINES[0], number) for number in said_numbers(said, "withdrawing")}
        missing = (had.keys() | beside.keys()) - here - withdrawing
        assert not missing, f"lost: {missing}"
        if folders.line.origin == LINES[0]:
            assert set(said_numbers(said, "withdrawn")) <= set(folders.line.withdrawn)
        pins = {(folders.line.origin, number) for number in folders.holds.pinned}
        pins |= {(one.origin, one.number) for one in folders.aside if one.pinned}
        assert pins >= set(map(tuple, said_values(said, "pinned"))), "a pin is forgotten"
        run(folders.tidy())
        node.stop()

    replay(records["change"], check)


def said_values(said: Said, key: str) -> list[Any]:
    return [one[key] for one in said if key in one]


# Outputs


def test_client_keeps_the_file_it_reported(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    def check(place: Path, said: Said) -> None:
        file, downloaded = place / "new" / "folder" / "model.bin", said_numbers(said, "downloaded")
        right = {number: payload(number) for number in (1, 2)}
        found = file.read_bytes() if file.exists() else None
        assert found in (None, *right.values()), "a wrong byte has its final name"
        if downloaded:
            newer = [right[number] for number in right if number >= downloaded[-1]]
            assert found in newer, f"v{downloaded[-1]} was reported, and is not there"
        run(resumed(file, payload(2)))
        assert file.read_bytes() == payload(2)

    replay(records["download"], check)


async def resumed(file: Path, data: bytes) -> None:
    """Go on with whatever lies in the folder, as the next run does."""
    manifest = payloads.manifest(data, "v2", SHARD)
    output = OutputFile(file, LiveManifest.of(manifest))
    try:
        for shard in manifest.shards:
            landing = await output.landing(shard)
            try:
                for start, end in landing.missing():
                    await landing.land(start, data[shard.offset + start : shard.offset + end])
                await output.commit_shard(landing)
            finally:
                landing.close()
        await output.complete(manifest)
    finally:
        output.close()


def test_follower_keeps_what_it_announced(records: dict[str, Record]) -> None:
    def check(place: Path, said: Said) -> None:
        folder = place / "new" / "versions"
        received, latest = said_numbers(said, "received"), said_numbers(said, "latest")
        announced = said_numbers(said, "announced")
        outputs = OutputFolder(folder)
        for path, found in outputs.scan().items():
            number = int(path.name.removeprefix("download_v").removesuffix(".bin"))
            assert path.read_bytes() == payload(number), f"{path.name} has a wrong byte"
            assert found is None or found.number in (None, number)
        for number in received[-2:]:
            assert (folder / output_name(f"v{number}")).exists(), f"v{number} was received, and is not there"
            origin = next(one["origin"] for one in said if one.get("received") == number)
            assert outputs.digests(origin).get(number) == sha256(payload(number)), f"v{number} has no record"
        if latest:
            named = (folder / "latest").readlink().name
            assert named in [output_name(f"v{number}") for number in range(latest[-1], 5)], "latest went back"
        if (folder / "latest").is_symlink():
            assert (folder / "latest").exists(), "latest names a file that is not there"
        for number in announced[-1:]:
            assert number in outputs.lines.announced(said[0]["origin"]), f"v{number} is announced again"
        outputs.tidy()

    replay(records["follow"], check)


# A list that is cancelled


async def test_cancelled_replacement_still_completes(tmp_path: Path) -> None:
    for turns in range(1, 8):
        file = tmp_path / str(turns)
        file.write_bytes(b"before")
        writing = asyncio.ensure_future(replace_in_thread(file, b"after"))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        assert file.read_bytes() == b"after"
        assert [one.name for one in tmp_path.iterdir() if one.suffix == ".part"] == []
