"""What a power cut leaves of a store of blobs and of the registry; see ``test_power_cuts``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardcast.blobs.access_stats import AccessStats, archive_folder, stats_file
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import LENGTH_SUFFIX, OWN_FOLDER
from shardcast.blobs.directory.quarantine import Quarantine
from shardcast.blobs.maintenance.gc import GarbageCollection
from shardcast.blobs.maintenance.gc_policy import Rules
from shardcast.blobs.maintenance.scrub import Scrub
from shardcast.errors import MissingExternalFile
from shardcast.registry import gc
from tests.support.payloads import sha256
from tests.support.power import work
from tests.support.power.recording import Record, Unavailable, record
from tests.support.power.replaying import Said, replay
from tests.support.power.working import DAY, blob, registry

NAMES = ("put", "push", "digest_of_store", "collect", "scrub", "insert")

pytestmark = pytest.mark.xdist_group("power cuts of stores")


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


def said_numbers(said: Said, key: str) -> list[int]:
    return [one[key] for one in said if key in one]


def assert_names_right(root: Path, damaged: str = "", algorithm: str = "sha256") -> None:
    """No file has a blob's name and wrong bytes, but for one that the test itself damaged."""
    for folder, folders, files in os.walk(root):
        folders[:] = [one for one in folders if one != OWN_FOLDER]
        for name in files:
            if len(name) == 64 and name != damaged and algorithm == "sha256":
                data = Path(folder, name).read_bytes()
                assert sha256(data) == name, f"{name} has wrong bytes ({len(data)})"
            assert not name.endswith(LENGTH_SUFFIX)


async def read_blob(store: BlobDirectory, digest: str) -> bytes:
    async with store.open(digest) as reader:
        return await reader.read(1 << 20)


async def assert_blobs(root: Path, numbers: set[int], damaged: str = "") -> None:
    """A store that begins anew has these blobs, and takes others."""
    assert_names_right(root, damaged)
    store = BlobDirectory(root, "sha256", writable=True)
    await store.prepare()
    try:
        for number in sorted(numbers):
            assert await read_blob(store, sha256(blob(number))) == blob(number)
        async with store.put() as writer:
            await writer.write(blob(99))
            assert await writer.commit() == sha256(blob(99))
    finally:
        await store.close()


def test_hash_server_keeps_acknowledged_blobs(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    def check(place: Path, said: Said) -> None:
        if (place / "store").exists():
            run(assert_blobs(place / "store", set(said_numbers(said, "put"))))

    replay(records["put"], check)


def test_archive_keeps_acknowledged_blobs(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    async def look(root: Path, numbers: set[int]) -> None:
        await assert_blobs(root, numbers)
        own = archive_folder(root)
        own.mkdir(parents=True, exist_ok=True)
        ledger = AccessStats(stats_file(own))
        await ledger.record_put([sha256(blob(1))], ledger.now())
        await ledger.close()

    def check(place: Path, said: Said) -> None:
        root = place / "new" / "archive"
        if not root.exists():
            assert not said_numbers(said, "put")
            return
        run(look(root, set(said_numbers(said, "put"))))

    replay(records["push"], check)


def test_store_keeps_its_digest(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    """A store whose digest is not said anew has its blobs under the one that the first of them had."""

    def check(place: Path, said: Said) -> None:
        if not (place / "store").exists():
            return
        store = BlobDirectory(place / "store", writable=True)
        for one in said:
            if "put" in one:
                assert run(read_blob(store, one["digest"])) == blob(1)
        assert_names_right(place / "store", algorithm=store.algorithm)

    replay(records["digest_of_store"], check)


def test_gc_keeps_blobs_that_were_put_again(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    def check(place: Path, said: Said) -> None:
        root = place / "store"
        if not root.exists():
            return
        store = BlobDirectory(root, "sha256", writable=True)
        now = root.stat().st_mtime + 30 * DAY
        referenced = {bytes.fromhex(sha256(blob(number))) for number in (1, 2, 4)}
        for _ in GarbageCollection(store.folder, referenced, Rules(DAY, DAY), now=now, delete=True).run():
            pass
        kept = set(said_numbers(said, "put"))
        letting_go = [one for one in said if "letting_go" in one]
        if letting_go:
            kept = {1, 4} | {one["put"] for one in said[said.index(letting_go[0]) :] if "put" in one}
        run(assert_blobs(root, kept))

    replay(records["collect"], check)


def test_scrub_loses_no_good_blob(
    records: dict[str, Record], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    async def look(root: Path, said: Said) -> None:
        store = BlobDirectory(root, "sha256", writable=True)
        quarantine = Quarantine(store.folder)
        async for _ in Scrub(store.folder, "sha256", quarantine=quarantine).run():
            pass
        kept = set(said_numbers(said, "put"))
        damaging = [index for index, one in enumerate(said) if "damaging" in one]
        if damaging:
            kept = {2} | {one["put"] for one in said[damaging[0] :] if "put" in one}
        await assert_blobs(root, kept)

    def check(place: Path, said: Said) -> None:
        if (place / "store").exists():
            run(look(place / "store", said))

    replay(records["scrub"], check)


def test_registry_keeps_inserted_hashes(records: dict[str, Record]) -> None:
    def check(place: Path, said: Said) -> None:
        if not (place / "store").exists():
            return
        kept = registry(place)
        gone = {number for one in said for number in one.get("letting_go", [])}
        gone -= set(said_numbers(said, "inserted_again"))
        known = {one["inserted"]: one["metadata"] for one in said if "inserted" in one}
        for number, metadata in known.items():
            if number in gone:
                continue
            assert kept.get_hash(metadata) == blob(number)
        for number in said_numbers(said, "deleted"):
            with pytest.raises(MissingExternalFile):
                kept.get_hash(known[number])
        references = [one for number, one in known.items() if number not in gone]
        done = gc.collect("lab", "other", references=references, dry_run=False, registry=kept)
        assert done["errors"] == 0

    replay(records["insert"], check)
