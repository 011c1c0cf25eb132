"""Recorded work on blobs and content: put, collected and looked through."""

from __future__ import annotations

import os
from pathlib import Path

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import MARKER, PREFIX
from shardcast.blobs.directory.marks import is_marked
from shardcast.blobs.directory.quarantine import Quarantine, put_back, take_out
from shardcast.blobs.maintenance.gc import GarbageCollection
from shardcast.blobs.maintenance.gc_policy import Rules
from shardcast.blobs.maintenance.scrub import Scrub
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.registry import gc
from tests.support.archives import http, push_body, put_blobs
from tests.support.payloads import sha256
from tests.support.power.working import DAY, blob, make_folder, mark, registry, work
from tests.support.stores import blob_file, damage


@work
async def put(base: Path) -> None:
    """Put blobs, each in a request to a hash server, one just after another process was killed."""
    store = make_folder(base / "store")
    settings = StoreSettings(store, "sha256", writable=True)
    async with StoreServer.running(settings) as server, http() as session:
        for number in range(1, 5):
            if number == 4:
                (store / sha256(blob(number))[:2]).mkdir()
            async with session.put(f"{server.url}/{sha256(blob(number))}", data=blob(number)) as answer:
                assert answer.status in (200, 201), answer.status
            mark(put=number)


@work
async def push(base: Path) -> None:
    """Push blobs, several in each request to an archive."""
    async with (
        ArchiveNode.on_directory(
            base / "new" / "archive", authorized_port=0, host="127.0.0.1", port=0
        ) as archive,
        http() as session,
    ):
        for numbers in ((1, 2, 3), (4, 5)):
            if numbers[0] == 4:
                (base / "new" / "archive" / sha256(blob(4))[:2]).mkdir()
            body = push_body(map(blob, numbers))
            async with session.post(f"{archive.push_url}/v1/push", data=body) as answer:
                assert answer.status == 200, await answer.text()
            for number in numbers:
                mark(put=number)


@work
async def digest_of_store(base: Path) -> None:
    """Put the first blob of a store of SHA3-256, whose digest only the store itself tells later."""
    store = BlobDirectory(make_folder(base / "store"), "sha3-256", PREFIX, writable=True)
    async with store.put() as writer:
        await writer.write(blob(1))
        digest = await writer.commit()
    mark(put=1, digest=digest)
    await store.close()


@work
async def collect(base: Path) -> None:
    """Mark blobs and remove them; one is put again in between, one at the very moment of its removal."""
    root = make_folder(base / "store")
    store = BlobDirectory(root, "sha256", PREFIX, writable=True)
    for number in (1, 2, 3, 4):
        await put_blobs(store, blob(number))
        mark(put=number)
    referenced = {bytes.fromhex(sha256(blob(number))) for number in (1, 4)}
    mark(letting_go=[2, 3])
    for later in (10 * DAY, 20 * DAY):
        now = (root / MARKER).stat().st_mtime + later
        for _ in GarbageCollection(store.folder, referenced, Rules(DAY, DAY), now=now, delete=True).run():
            pass
        mark(collected=later)
        if later == 10 * DAY:
            await put_blobs(store, blob(2))
            mark(put=2)
    file = blob_file(root, sha256(blob(4)))
    assert not take_out(file, root / ".shardcast-store" / "gc" / "trash" / file.name, is_marked)
    mark(put_back=4)
    await store.close()


@work
async def scrub(base: Path) -> None:
    """Damage a blob, move it to quarantine and put it again, after a kill in the middle of another one."""
    root = make_folder(base / "store")
    store = BlobDirectory(root, "sha256", PREFIX, writable=True)
    for number in (1, 2):
        await put_blobs(store, blob(number))
        mark(put=number)
    file = blob_file(root, sha256(blob(1)))
    mark(damaging=1)
    damage(file)
    quarantine = Quarantine(store.folder)
    found = [damaged async for damaged in Scrub(store.folder, "sha256", quarantine=quarantine).run()]
    assert [damaged.digest for damaged in found] == [file.name]
    mark(set_aside=1)
    await put_blobs(store, blob(1))
    mark(put=1)
    good = blob_file(root, sha256(blob(2)))
    place = root / ".shardcast-store" / "quarantine" / f"{good.name}-0123abcd"
    good.rename(place)
    assert put_back(place, good)
    mark(put_back=2)
    await store.close()


@work
async def insert(base: Path) -> None:
    """Insert content into the registry, collect it, and bring it back.

    The schemas are new, and one whose folder another process just made.
    """
    make_folder(base / "store")
    kept = registry(base)
    for number in (1, 2, 3):
        if number == 3:
            (base / "store" / "_hash" / "other").mkdir(parents=True)
        found = kept.put_hash(blob(number), "other" if number == 3 else "lab")
        mark(inserted=number, metadata=found)
        if number == 1:
            first = found
    clock = lambda: os.stat(base / "store").st_mtime + 2 * DAY  # noqa: E731, PTH116
    mark(letting_go=[2])
    gc.collect("lab", references=[first], dry_run=False, registry=kept, clock=clock)
    mark(collected=1)
    kept.put_hash(blob(2), "lab")
    mark(inserted_again=2)
    mark(letting_go=[1])
    kept.delete_path(first["path"])
    mark(deleted=1)
