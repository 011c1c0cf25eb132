"""What this machine can't do is never told as a blob's absence; a file that can't be opened is as good as a
corrupt one."""

from __future__ import annotations

import errno
import http.client
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import OWN_FOLDER, Folder
from shardcast.blobs.directory.quarantine import Quarantine
from shardcast.blobs.maintenance import gc_roots as roots
from shardcast.blobs.maintenance.scrub import Outcome, Scrub
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.blobs.version_blobs import VersionBlobs
from shardcast.errors import BlobCorrupt, LocalDiskError, StoreInaccessible
from shardcast.registry.directory import DirectoryBackend
from shardcast.registry.stores import StoreSpec
from shardcast.store.data_dir import DataDir
from shardcast.store.versions import VersionFolders
from tests.support.archives import http as http_session
from tests.support.archives import parse_answer, pull_body, push_body, put_blobs, running_archive
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import publish, random_bytes, sha256
from tests.support.processes import Node, node, origin, run
from tests.support.stores import blob_file, fill
from tests.support.union_store import BlobUnion

ANYWHERE: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "authorized_port": 0}
SMALL, LARGE = b"Hello!", random_bytes(300_000)
LENGTHS = {sha256(SMALL): len(SMALL), sha256(LARGE): len(LARGE)}


# Descriptors run out, in real processes


class Kept:
    """A connection that is kept open, over which a node can be asked when it has no descriptors left."""

    def __init__(self, running: Node) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        self.ask("GET", "/healthcheck")

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body."""
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def kept(running: Node) -> Iterator[Kept]:
    connection = Kept(running)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def without_descriptors(running: Node) -> Iterator[None]:
    """Meanwhile a process can open no file."""
    pid = running.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))  # what is open stays open
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_archive_answers_503_without_descriptors_and_recovers(tmp_path: Path) -> None:
    fill(tmp_path, SMALL, LARGE)
    words = ("--host", "127.0.0.1", "--port", "0")
    with node("archive", "serve", str(tmp_path), *words) as running, kept(running) as connection:
        requests = [("GET", f"/{key}", None) for key in LENGTHS]
        requests += [("GET", f"/v1/metadata/{sha256(SMALL)}", None), ("GET", f"/meta/{sha256(SMALL)}", None)]
        requests += [("POST", "/v1/pull", pull_body([blob])) for blob in (SMALL, LARGE)]
        for request in requests:
            with without_descriptors(running):
                assert connection.ask(*request)[:2] == (503, "5"), request
            assert connection.ask(*request)[0] == 200, request


def test_hash_server_answers_503_without_descriptors_and_recovers(tmp_path: Path) -> None:
    fill(tmp_path, SMALL, LARGE)
    words = ("--port-range", "49152", "65535", "--writable")
    with node("store", "serve", str(tmp_path), *words) as running, kept(running) as connection:
        requests = [(method, f"/{key}", None) for key in LENGTHS for method in ("GET", "HEAD")]
        requests += [("PUT", f"/{sha256(SMALL)}", SMALL), ("PUT", f"/{sha256(LARGE)}", LARGE)]
        for request in requests:
            with without_descriptors(running):
                assert connection.ask(*request)[:2] == (503, "5"), request
            assert connection.ask(*request)[0] in (200, 201), request


def test_origin_answers_503_for_shards_without_descriptors_and_recovers(tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(LARGE)
    with origin(tmp_path / "data") as running, kept(running) as connection:
        assert run("broadcast", "--data-dir", str(tmp_path / "data"), str(payload)).returncode == 0
        for path in ("/v1/shard_001.bin", f"/{sha256(LARGE)}"):
            with without_descriptors(running):
                assert connection.ask("GET", path)[:2] == (503, "5"), path
            assert connection.ask("GET", path)[0] == 200, path


# A file that can't be opened

Spoil = Callable[[Path, pytest.MonkeyPatch], None]


def as_socket(file: Path, _: pytest.MonkeyPatch) -> None:
    """Even root can't open it (ENXIO)."""
    file.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(file.parent)  # the path of a socket has 107 bytes at the most
        try:
            bound.bind(file.name)
        finally:
            os.chdir(here)


def fails(code: int) -> Spoil:
    def spoil(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        open_, inode = os.open, file.stat().st_ino

        def fail(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            reading = str(path) == str(file) and flags & os.O_ACCMODE == os.O_RDONLY
            if reading and file.stat().st_ino == inode:  # what takes its place can be read
                raise OSError(code, os.strerror(code), str(path))
            return open_(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", fail)

    return spoil


UNREADABLE_FILES = [
    pytest.param(as_socket, id="ENXIO"),
    pytest.param(fails(errno.EACCES), id="EACCES"),
    pytest.param(fails(errno.EIO), id="EIO"),
]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with http_session() as opened:
        yield opened


@pytest.mark.parametrize("blob", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("spoil", UNREADABLE_FILES)
async def test_archive_omits_unreadable_blob_until_a_push_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: aiohttp.ClientSession, spoil: Spoil, blob: bytes
) -> None:
    fill(tmp_path, SMALL, LARGE)
    spoil(blob_file(tmp_path, sha256(blob)), monkeypatch)
    other = LARGE if blob == SMALL else SMALL
    async with ArchiveNode.on_directory(tmp_path, **ANYWHERE) as running:
        for expected in ([other], [LARGE, SMALL]):
            async with session.post(f"{running.url}/v1/pull", data=pull_body([SMALL, LARGE])) as answer:
                found = parse_answer(await answer.read(), LENGTHS)
            assert sorted(one for _, one in found) == sorted(expected)
            async with session.get(f"{running.url}/{sha256(blob)}") as answer:
                assert answer.status == (200 if blob in expected else 404)
            async with session.post(f"{running.push_url}/v1/push", data=push_body([blob])) as answer:
                assert answer.status == 200


@asynccontextmanager
async def hash_server(root: Path, *extra: Path) -> AsyncIterator[str]:
    settings = StoreSettings(root, "sha256", "prefix", tuple(map(str, extra)), writable=True)
    async with StoreServer.running(settings) as running:
        yield running.url


@pytest.mark.parametrize("blob", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("spoil", UNREADABLE_FILES)
async def test_hash_server_reads_unreadable_blob_from_another_directory_until_a_put_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: aiohttp.ClientSession, spoil: Spoil, blob: bytes
) -> None:
    root, extra, key = tmp_path / "root", tmp_path / "extra", sha256(blob)
    fill(root, blob)
    fill(extra, blob)
    spoil(blob_file(root, key), monkeypatch)
    async with hash_server(root, extra) as url:
        async with session.get(f"{url}/{key}") as answer:
            assert (answer.status, await answer.read()) == (200, blob)
        blob_file(extra, key).unlink()
        async with session.get(f"{url}/{key}") as answer:
            assert answer.status == 400, "as of what is corrupt"
            assert str(blob_file(root, key)) in (await answer.json())["message"]
        async with session.put(f"{url}/{key}", data=blob) as answer:
            assert answer.status == 200
        async with session.get(f"{url}/{key}") as answer:
            assert (answer.status, await answer.read()) == (200, blob)


async def test_blob_in_unreadable_folder_is_503_and_not_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: aiohttp.ClientSession
) -> None:
    """A folder that may not be entered says nothing of its blobs; one file that the disk lost does."""
    fill(tmp_path, SMALL)
    key, look, code = sha256(SMALL), os.stat, errno.EACCES

    def fail(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        if str(path).endswith(key):
            raise OSError(code, os.strerror(code), str(path))
        return look(path, *rest, **more)

    async with hash_server(tmp_path) as url:
        monkeypatch.setattr(os, "stat", fail)
        asked = {"data": json.dumps([key])}
        for path in ("has-now", "has", "buffer-length"):
            async with session.get(f"{url}/{path}", **asked) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        code = errno.EIO
        async with session.get(f"{url}/has-now", **asked) as answer:
            assert await answer.json() == [False], "so it is put again"
    with pytest.raises(LocalDiskError, match=key):
        code = errno.EMFILE
        BlobDirectory(tmp_path).lookup.present([key])


@pytest.mark.parametrize("repairs", [True, False])
async def test_verify_repairs_unreadable_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repairs: bool
) -> None:
    (key,) = fill(tmp_path, SMALL)
    store = BlobDirectory(tmp_path, writable=True)
    fails(errno.EACCES)(blob_file(tmp_path, key), monkeypatch)

    async def repair(digest: str) -> str | None:
        if not repairs:
            return None
        await put_blobs(store, SMALL)
        return "a server"

    found = [one async for one in Scrub(store.folder, "sha256", repair=repair).run()]
    assert [one.outcome for one in found] == [Outcome.REPAIRED if repairs else Outcome.UNREADABLE]
    if repairs:
        async with store.open(key) as reader:
            assert await reader.read(100) == SMALL
    await store.close()


# Several stores, and where others ask


class Unable(BlobsInMemory):
    """A store whose machine has no descriptors left."""

    async def size(self, digest: str) -> int | None:
        raise LocalDiskError("no descriptors")

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[Any]:
        raise LocalDiskError("no descriptors")
        yield

    async def read_small(self, digests: Any, most: int) -> dict[str, bytes]:
        raise LocalDiskError("no descriptors")


async def test_union_reads_from_its_other_stores_before_it_fails() -> None:
    right = BlobsInMemory()
    (key,) = await put_blobs(right, SMALL)
    union = BlobUnion([Unable(), right])
    assert await union.size(key) == len(SMALL)
    assert await union.read_small([key, key], 100) == {key: SMALL}
    async with union.open(key) as reader:
        assert await reader.read(100) == SMALL
    absent = sha256(b"absent")
    with pytest.raises(LocalDiskError, match="no descriptors"):
        await union.size(absent)
    with pytest.raises(LocalDiskError, match="no descriptors"):
        await union.read_small([key, absent], 100)
    with pytest.raises(LocalDiskError, match="no descriptors"):
        async with union.open(absent):
            pass


async def test_unreadable_shard_is_served_from_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = DataDir(tmp_path, "origin")
    folders = VersionFolders(data_dir, keep=15)
    await publish(folders, LARGE, 100_000)
    await publish(folders, LARGE[:100_000] + b"else", 100_000)
    store, key = VersionBlobs(folders), sha256(LARGE[:100_000])
    inode_shared = data_dir.shard(1, 1).stat().st_ino == data_dir.shard(2, 1).stat().st_ino
    path_open, broken = Path.open, {data_dir.shard(2, 1)}

    def fail(self: Path, *rest: Any, **more: Any) -> Any:
        if self in broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return path_open(self, *rest, **more)

    monkeypatch.setattr(Path, "open", fail)
    async with store.open(key) as reader:
        assert await reader.read(200_000) == LARGE[:100_000], inode_shared
    broken.add(data_dir.shard(1, 1))
    with pytest.raises(BlobCorrupt):
        async with store.open(key):
            pass
    data_dir.close()


class Full(BlobsInMemory):
    """Nothing can be kept here."""

    @asynccontextmanager
    async def put(self, digest: str | None = None) -> AsyncIterator[Any]:
        raise LocalDiskError("the disk is full")
        yield


async def test_mirror_without_room_cuts_its_answer(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    theirs = BlobsInMemory()
    await put_blobs(theirs, SMALL)
    async with (
        running_archive(tmp_path / "a", theirs) as there,
        running_archive(tmp_path / "b", Full(), mirror=[there.url]) as mirror,
    ):
        async with session.post(f"{mirror.url}/v1/pull", data=pull_body([SMALL])) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        async with session.get(f"{mirror.url}/{sha256(SMALL)}") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


# Lists that can't be read


def unlistable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("scandir", "listdir"):
        true = getattr(os, name)

        def fail(path: Any = ".", true: Any = true) -> Any:
            if str(path) == str(folder):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return true(path)

        monkeypatch.setattr(os, name, fail)


async def test_gc_fails_when_set_aside_versions_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = DataDir(tmp_path, "origin")
    await publish(VersionFolders(data_dir), LARGE, 100_000)
    data_dir.close()
    line = tmp_path / ".shardcast" / "lines" / "none"
    line.mkdir(parents=True)
    (tmp_path / "v1").rename(line / "v1-0123456789abcdef")
    (tmp_path / "distribution.txt").write_text("")
    root = roots.data_dir(tmp_path)
    assert bytes.fromhex(sha256(LARGE[:100_000])) in roots.read_all([root], "sha256")
    for folder in (line, line.parent):
        with monkeypatch.context() as patch:
            unlistable(patch, folder)
            with pytest.raises(LocalDiskError, match="denied"):
                roots.read_all([root], "sha256")


def test_unlistable_quarantine_is_an_error_and_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, SMALL)
    quarantine = Quarantine(Folder(str(tmp_path), "prefix"))
    assert list(quarantine.entries()) == []
    place = tmp_path / OWN_FOLDER / "quarantine"
    place.mkdir(parents=True)
    unlistable(monkeypatch, place)
    with pytest.raises(LocalDiskError, match="denied"):
        list(quarantine.entries())


def test_registry_raises_when_its_store_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = DirectoryBackend(StoreSpec("x", "file", str(tmp_path), None, "_hash", {}))
    assert not backend.exists("a/b")
    look = Path.stat

    def fail(self: Path, **more: Any) -> os.stat_result:
        if self.name == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return look(self, **more)

    monkeypatch.setattr(Path, "stat", fail)
    for ask in (backend.exists, backend.isdir, backend.files):
        with pytest.raises(StoreInaccessible, match="Input/output"):
            ask("a/b")
