"""Directories that a group shares (2775): each of its members does all that the others do."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardcast.blobs.access_stats import AccessStats, archive_folder, stats_file
from shardcast.blobs.directory import marks
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import make_own_folder
from shardcast.blobs.directory.marks import unmark
from shardcast.blobs.directory.quarantine import Quarantine
from shardcast.blobs.maintenance import gc_roots as roots
from shardcast.blobs.maintenance.gc import remember_roots
from shardcast.directories import make_folder
from shardcast.file_locks import open_lock_file
from shardcast.filesystem import append
from shardcast.nodes.origin import publishing
from shardcast.nodes.outputs import OutputFolder
from shardcast.registry import Registry
from shardcast.registry import gc as registry_gc
from shardcast.store import holds, pins
from tests.support import payloads
from tests.support.folders import StoredNode, receive_version

GROUP = 54_321
USERS = (54_001, 54_002)
Work = Callable[[Path, int], None]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that its group may write, as an administrator makes it."""
    if os.geteuid() or not hasattr(os, "setgroups"):
        pytest.skip("only root can be several users")
    place = Path(tempfile.mkdtemp(prefix="shared-", dir="/tmp"))  # below pytest's folder only root may go
    try:
        os.chown(place, 0, GROUP)
        place.chmod(0o2775)
        yield place
    finally:
        shutil.rmtree(place)


def as_user(user: int, work: Callable[[], None]) -> None:
    """Do something in a process of another user, who is in the group."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([GROUP])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.umask(0o022)
            work()
            code = 0
        except BaseException:  # noqa: BLE001  it is told below
            os.write(writing, traceback.format_exc()[-3000:].encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, said


def put_blobs(place: Path, turn: int) -> None:
    """The same blob, and one of each turn's own."""

    async def put() -> None:
        store = BlobDirectory(place, "sha256", "prefix", writable=True)
        for blob in (b"the same", b"%d" % turn):
            async with store.put() as writer:
                await writer.write(blob)
                await writer.commit()
        await store.close()
        unmark(store.folder, hashlib.sha256(b"the same").hexdigest())

    asyncio.run(put())


def pin_blobs(place: Path, turn: int) -> None:
    store = BlobDirectory(place, "sha256", "prefix", writable=True)
    digest = hashlib.sha256(b"the same").hexdigest()
    roots.pin(store.folder, digest)
    roots.pin(store.folder, digest)
    if turn:
        assert roots.unpin(store.folder, digest)


def collect_blobs(place: Path, turn: int) -> None:
    store = BlobDirectory(place, "sha256", "prefix", writable=True)
    remember_roots(store.folder, [f"root {turn}"])
    assert marks.note_put(store.folder, hashlib.sha256(b"the same").hexdigest()) is False
    seen = marks.put_time(store.folder, hashlib.sha256(b"the same").hexdigest())
    assert seen is not None
    assert time.time() - seen < 60
    marks.Marks(store.folder).save(whole=False)


def set_aside(place: Path, turn: int) -> None:
    store = BlobDirectory(place, "sha256", "prefix", writable=True)
    digest = hashlib.sha256(b"%d" % turn).hexdigest()
    put_blobs(place, turn)
    file = Path(store.folder.path(digest))
    assert Quarantine(store.folder).set_aside(str(file), digest, file.stat(), "a test")
    assert len(list(Quarantine(store.folder).entries())) == turn + 1


def count_pulls(place: Path, turn: int) -> None:
    own = archive_folder(place)
    make_own_folder(own)

    async def count() -> None:
        ledger = AccessStats(stats_file(own))
        await ledger.record_put([hashlib.sha256(b"%d" % turn).hexdigest()], 1.0)
        assert len(await ledger.newest(10)) == turn + 1
        await ledger.close()

    asyncio.run(count())


def publish_and_retire(place: Path, turn: int) -> None:
    """Three versions, of which one stays, and a pin."""
    vars(holds)["RECENTLY_READ"] = 0.0
    payload = place / f"payload-{turn}"
    payload.write_bytes(b"%d" % turn * 1000)

    async def publish() -> None:
        async with publishing(place / "data") as publisher:
            for _ in range(2):
                broadcast = await publisher.publish(payload)
                await broadcast.result()

    asyncio.run(publish())
    node = StoredNode(place / "data")
    asyncio.run(node.start("origin", keep=1).try_tidy())
    node.stop()
    assert node.listed == [f"v{2 * turn + 2}"]


def relay(place: Path, turn: int) -> None:
    """A version that the others left open goes on, and one of its own."""
    node = StoredNode(place / "middle")

    async def receive() -> None:
        folders = node.start(keep=1)
        await receive_version(folders, payloads.random_bytes(5000, turn), f"v{turn + 1}")
        pins.pin(folders.data_dir, f"v{turn + 1}")
        pins.unpin(folders.data_dir, f"v{turn + 1}")
        await folders.try_tidy()

    asyncio.run(receive())
    node.stop()
    assert node.listed[-1] == f"v{turn + 1}"


def use_registry(place: Path, turn: int) -> None:
    registry = Registry({"default": "main", "main": {"protocol": "file", "location": str(place)}})
    kept = registry.put_hash(b"the same", "lab")
    registry.put_hash(b"%d" % turn, "lab")
    done = registry_gc.collect(
        "lab", references=[kept], registry=registry, dry_run=False, min_age=0, quarantine=3600
    )
    assert done["errors"] == 0
    assert registry.get_hash(kept) == b"the same"
    assert registry.put_hash(b"%d" % max(0, turn - 1), "lab")


def follow(place: Path, turn: int) -> None:
    outputs = OutputFolder(place / "followed")
    outputs.lines.note_listed("0123", {turn + 1: hashlib.sha256(b"%d" % turn).hexdigest()})
    assert len(outputs.lines.listed("0123")) == turn + 1


@pytest.mark.root
@pytest.mark.parametrize(
    "work",
    [
        put_blobs,
        pin_blobs,
        collect_blobs,
        set_aside,
        count_pulls,
        publish_and_retire,
        relay,
        use_registry,
        follow,
    ],
)
def test_group_members_can_change_files_of_each_other(shared: Path, work: Work) -> None:
    for turn, user in enumerate((*USERS, USERS[0])):
        as_user(user, lambda turn=turn: work(shared, turn))  # type: ignore[misc]
    for path in shared.rglob("*"):
        found = path.stat()
        assert found.st_gid == GROUP, path
        if path.name == "lock" and path.parent.name != "incoming":
            assert stat.S_IMODE(found.st_mode) & 0o007 == 0, path


def test_new_folders_inherit_sharing_of_the_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    before = os.umask(0o022)
    try:
        make_folder(tmp_path / "a" / "b")
        append(tmp_path / "a" / "file", b"1")
        os.close(open_lock_file(tmp_path / "a" / "lock"))
        tmp_path.chmod(0o755)
        make_folder(tmp_path / "own")
        append(tmp_path / "own" / "file", b"1")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")
    }
    assert modes == {
        "a": 0o2775,
        "a/b": 0o2775,
        "a/file": 0o664,
        "a/lock": 0o660,
        "own": 0o755,
        "own/file": 0o644,
    }
