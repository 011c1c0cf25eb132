"""Pushes into an archive on a real directory: all of one, or nothing, whatever the disk does."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.framing import write_length
from shardcast.blobs.server.archive_server import ArchiveNode
from tests.support.archives import http, push_body, put_blobs, wait_until
from tests.support.payloads import random_bytes, sha256

HTTP: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "authorized_port": 0}
BLOBS = [b"one", b"two", random_bytes(3 << 20), b"four", random_bytes(200_000)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ArchiveNode]:
    async with ArchiveNode.on_directory(tmp_path / "blobs", **HTTP) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with http() as opened:
        yield opened


async def push(session: aiohttp.ClientSession, node: ArchiveNode, blobs: list[bytes]) -> int:
    async with session.post(f"{node.push_url}/v1/push", data=io.BytesIO(push_body(blobs))) as answer:
        return answer.status


async def here(session: aiohttp.ClientSession, node: ArchiveNode, blobs: list[bytes]) -> list[bytes]:
    """Those of these that the archive gives; none is anything else than it was."""
    found = []
    for blob in blobs:
        async with session.get(f"{node.url}/{sha256(blob)}") as answer:
            assert answer.status in (200, 404)
            if answer.status == 200:
                assert await answer.read() == blob
                found.append(blob)
    return found


def staged(root: Path) -> list[Path]:
    """What is left of blobs that have no name."""
    place = root / ".shardcast-store" / "archive" / ".shardcast-store" / "incoming"
    return [file for file in place.glob("*/**/*") if file.is_file() and file.name != "lock"]


def failing(call: Callable[..., Any], number: int, error: int, counts: Callable[..., bool]) -> Any:
    """A call of the system's that fails the n-th time, of those that count."""
    left = number

    def fail(*said: Any, **more: Any) -> Any:
        nonlocal left
        left -= counts(*said)
        if left == 0:
            left = -1
            raise OSError(error, os.strerror(error))
        return call(*said, **more)

    return fail


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize(("error", "status"), [(errno.ENOSPC, 507), (errno.EIO, 500)])
@pytest.mark.parametrize("number", [1, 3, len(BLOBS)])
async def test_disk_error_at_any_blob_keeps_none_of_the_push(
    node: ArchiveNode,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: int,
    status: int,
    number: int,
) -> None:
    assert await push(session, node, [b"before"]) == 200

    def counts(descriptor: int, *_: object) -> bool:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)  # neither folders nor sockets

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), number, error, counts))
        assert await push(session, node, [b"before", *BLOBS]) == status
    assert await here(session, node, [b"before", *BLOBS]) == [b"before"]
    assert staged(tmp_path / "blobs") == []
    assert await push(session, node, [b"before", *BLOBS]) == 200
    assert await here(session, node, BLOBS) == BLOBS


async def test_failed_renames_leave_right_blobs_and_next_push_repairs(
    node: ArchiveNode, session: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "blobs"

    def counts(staged: str, name: str) -> bool:
        return ".shardcast-store" not in str(Path(name).relative_to(root))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing(os.rename, 3, errno.EIO, counts))
        assert await push(session, node, BLOBS) == 500
    assert len(await here(session, node, BLOBS)) == 2
    assert staged(root) == []
    assert await push(session, node, BLOBS) == 200
    assert await here(session, node, BLOBS) == BLOBS


async def test_push_is_invisible_until_complete(
    node: ArchiveNode, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    root, rest = tmp_path / "blobs", asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield push_body(BLOBS) + write_length(4)
        await rest.wait()
        yield b"last"

    pushing = asyncio.ensure_future(session.post(f"{node.push_url}/v1/push", data=body()))
    await wait_until(lambda: {sha256(blob) for blob in BLOBS} <= {file.name for file in staged(root)})
    assert await here(session, node, BLOBS) == []
    store = BlobDirectory(root)
    assert [digest async for digest in store.digests()] == []
    rest.set()
    async with await pushing as answer:
        assert answer.status == 200
    assert await here(session, node, [*BLOBS, b"last"]) == [*BLOBS, b"last"]
    assert staged(root) == []


async def test_push_repairs_damaged_blobs(
    node: ArchiveNode, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    assert await push(session, node, BLOBS) == 200
    for blob in BLOBS[1:3]:
        (file,) = (tmp_path / "blobs").rglob(sha256(blob))
        file.chmod(0o644)
        file.write_bytes(bytes(len(blob)))
    assert await push(session, node, BLOBS) == 200
    assert await here(session, node, BLOBS) == BLOBS


async def test_restart_removes_leftovers_of_killed_push(tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    async with ArchiveNode.on_directory(root, **HTTP):
        (running,) = (root / ".shardcast-store/archive/.shardcast-store/incoming").glob("*/lock")
        dead = running.parent.with_name("dead") / "1.part"
        dead.mkdir(parents=True)
        await put_blobs(BlobDirectory(dead, writable=True), b"one")
    assert [file.name for file in staged(root) if len(file.name) == 64] == [sha256(b"one")]
    async with ArchiveNode.on_directory(root, **HTTP):
        assert staged(root) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("can't mount a small disk here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.root
async def test_push_without_room_is_refused_and_frees_its_room(
    small_disk: Path, session: aiohttp.ClientSession
) -> None:
    fits, more = [random_bytes(3 << 20)], [random_bytes(2 << 20, seed) for seed in range(1, 5)]
    async with ArchiveNode.on_directory(small_disk / "blobs", **HTTP) as node:
        assert await push(session, node, [*more, b"last"]) == 507
        assert await here(session, node, [*more, b"last"]) == []
        for _ in range(3):
            assert await push(session, node, fits) == 200
        assert await here(session, node, fits) == fits
