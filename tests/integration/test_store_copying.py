"""Copying blobs between directories and servers: what counts as kept is kept, what is there is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardcast.blobs.client.hash_server import HashServerClient
from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.copy import CopyProgress, copy, remote_store
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.errors import BadAnswer
from shardcast.peer.session import open_session
from tests.support.archives import put_blobs
from tests.support.hash_servers import hashserver_command, listed, our_command, started, uploading, wait_until
from tests.support.legacy import DIRECTLY, installed_peer
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import random_bytes, sha256
from tests.support.processes import node, run
from tests.support.stores import blob_file, content, damage, fill

BLOB = random_bytes(300_000)
KEY = sha256(BLOB)


@dataclass(frozen=True)
class Server:
    """A hash server, and its directory."""

    url: str
    root: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    with node("store", "serve", str(root), "--writable", "--port-range", "49152", "65535") as running:
        yield Server(running.url, root)


# A push beside another upload of the same blob


class Seen:
    """The statuses of the uploads that a store made; ``at_first`` is called with the first of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_first: Callable[[], None]) -> None:
        self.statuses: list[int] = []
        put = HashServerClient._put

        async def look(client: HashServerClient, digest: str, file: object) -> int:
            self.statuses.append(await put(client, digest, file))  # type: ignore[arg-type]
            if len(self.statuses) == 1:
                asyncio.get_running_loop().call_later(0.05, at_first)
            return self.statuses[-1]

        monkeypatch.setattr(HashServerClient, "_put", look)


@pytest.mark.parametrize("whose", ["ours", pytest.param("theirs", marks=pytest.mark.legacy)])
@pytest.mark.parametrize("how", ["hangs up", "ends"])
async def test_push_beside_another_upload_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, how: str
) -> None:
    (tmp_path / "blobs").mkdir()
    words = [str(tmp_path / "blobs"), "--writable", "--port-range", "49152", "65535"]
    command = (
        our_command(*words) if whose == "ours" else hashserver_command(installed_peer("hashserver"), *words)
    )
    source = BlobsInMemory()
    await put_blobs(source, BLOB)
    with started(command, DIRECTLY) as server, uploading(server.port, KEY, len(BLOB)) as other:
        other.send(BLOB[:1000])
        wait_until(lambda: listed(server.port, "/has", [KEY]) == [True], "the other upload")

        def end() -> None:
            other.close() if how == "hangs up" else other.send(BLOB[1000:])

        seen, state = Seen(monkeypatch, end), CopyProgress()
        async with remote_store(f"http://127.0.0.1:{server.port}", "sha256") as target:
            if whose == "theirs":  # there it looks like a blob that is there, whose length is waited for
                asyncio.get_running_loop().call_later(0.3, end)
            await asyncio.wait_for(copy(source, target, [KEY], state), 30)
        assert (state.copied + state.present, state.failed) == (1, {})
        assert listed(server.port, "/buffer-length", [KEY]) == [len(BLOB)]
    assert content(tmp_path / "blobs")[KEY] == BLOB
    if whose == "ours":
        assert seen.statuses == ([202, 200] if how == "hangs up" else [202])


async def test_push_beside_endless_upload_fails_with_nothing_kept(
    tmp_path: Path,
) -> None:
    source = BlobsInMemory()
    await put_blobs(source, BLOB)
    with (
        started(our_command(str(tmp_path), "--writable", "--port-range", "49152", "65535")) as server,
        uploading(server.port, KEY, len(BLOB)) as other,
    ):
        other.send(BLOB[:1000])
        wait_until(lambda: listed(server.port, "/has", [KEY]) == [True], "the other upload")
        async with open_session() as session:
            target, state = (
                RemoteStore(f"http://127.0.0.1:{server.port}", session, patience=0.3),
                CopyProgress(),
            )
            await copy(source, target, [KEY], state)
        assert state.copied == 0
        assert isinstance(state.failed[KEY], BadAnswer)
        assert "was not stored" in str(state.failed[KEY])
    assert content(tmp_path) == {}


@pytest.mark.parametrize("whose", ["ours", pytest.param("theirs", marks=pytest.mark.legacy)])
@pytest.mark.parametrize(("how", "left"), [("cut", len(BLOB) - 1), ("empty", 0)])
async def test_push_onto_truncated_blob_repairs_or_fails(
    tmp_path: Path, whose: str, how: str, left: int
) -> None:
    """hashserver 1.0.2 says 201 of any file that has the name, and keeps that."""
    blobs = tmp_path / "blobs"
    fill(blobs, BLOB)
    spoil(blob_file(blobs, KEY), how)
    words = [str(blobs), "--writable", "--port-range", "49152", "65535"]
    command = (
        our_command(*words) if whose == "ours" else hashserver_command(installed_peer("hashserver"), *words)
    )
    source, state = BlobsInMemory(), CopyProgress()
    await put_blobs(source, BLOB)
    with started(command, DIRECTLY) as server:
        async with remote_store(f"http://127.0.0.1:{server.port}", "sha256") as target:
            await copy(source, target, [KEY], state)
    if whose == "ours":
        assert (state.copied, state.failed, content(blobs)) == (1, {}, {KEY: BLOB})
    else:
        assert content(blobs) == {KEY: BLOB[:left]}
        assert (state.copied, list(state.failed)) == (0, [KEY])
        assert f"was not stored: it has {left} bytes there, not {len(BLOB)}" in str(state.failed[KEY])


# What counts as there

HUGE = random_bytes(3 << 20)


def spoil(file: Path, how: str) -> None:
    file.chmod(0o644)
    if how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        damage(file)


async def copied(way: str, here: Path, server: Server, key: str) -> CopyProgress:
    """What ``store pull`` or ``push`` does."""
    state, store = CopyProgress(), BlobDirectory(here, writable=True)
    async with remote_store(server.url, "sha256") as there:
        source, target = (there, store) if way == "pull" else (store, there)
        await copy(source, target, [key], state)
    await store.close()
    return state


@pytest.mark.parametrize(
    ("way", "blob", "how"),
    [(way, blob, how) for way in ("pull", "push") for blob in (BLOB, HUGE) for how in ("empty", "cut")]
    + [("pull", BLOB, "other")],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
async def test_file_with_other_bytes_does_not_count_as_blob(
    tmp_path: Path, server: Server, way: str, blob: bytes, how: str
) -> None:
    here, key = tmp_path / "here", sha256(blob)
    fill(here, blob)
    fill(server.root, blob)
    spoil(blob_file(server.root if way == "push" else here, key), how)
    state = await copied(way, here, server, key)
    assert (state.copied, state.present, state.missing, state.failed) == (1, 0, [], {})
    assert content(here) == {key: blob}
    assert blob_file(server.root, key).read_bytes() == blob
    assert (await copied(way, here, server, key)).present == 1


async def test_pull_counts_right_local_blob_that_server_lacks(tmp_path: Path, server: Server) -> None:
    right, cut = fill(tmp_path, random_bytes(2 << 20, 7), random_bytes(2 << 20, 8))
    spoil(blob_file(tmp_path, cut), "cut")
    assert (await copied("pull", tmp_path, server, right)).present == 1
    assert (await copied("pull", tmp_path, server, cut)).missing == [cut]


def test_damaged_local_blob_is_not_counted_as_pushed(tmp_path: Path, server: Server) -> None:
    (key,) = fill(tmp_path, HUGE)
    fill(server.root, HUGE)
    spoil(blob_file(tmp_path, key), "cut")
    done = run("store", "push", server.url, key, "-d", str(tmp_path))
    assert done.returncode == 5, done.stderr
    assert blob_file(server.root, key).read_bytes() == HUGE
