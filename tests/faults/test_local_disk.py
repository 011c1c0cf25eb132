"""Downloads that this machine's disk interrupts: they say so, blame no server, and try nothing again."""

from __future__ import annotations

import ast
import asyncio
import errno
import io
import json
import os
import resource
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardcast
from shardcast.blobs.copy import CopyProgress, copy, remote_store
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import LocalDiskError, PayloadMissing, from_wire, to_wire
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from tests.support import processes
from tests.support.bad_answers import chunked, good
from tests.support.bad_servers import BadServer, Behaviour
from tests.support.memory_store import BlobsInMemory
from tests.support.processes import wait_until
from tests.support.published import Published, publish, random_bytes, sha256

MB = 1_000_000
HTTP = "127.0.0.1", 0
LOCAL_DISK = 6
INTERRUPTIONS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG]
PACKAGE = Path(shardcast.__file__).parent


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """2 MB in one shard."""
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(2 * MB), 2 * MB)


def failing_disk(patch: pytest.MonkeyPatch, code: int, after: int = 0) -> Callable[[], None]:
    """Have every write of verified pieces fail from byte ``after`` on; returns what mends the disk."""
    mended: list[None] = []
    pwrite = os.pwrite

    def write(descriptor: int, data: Any, offset: int) -> int:
        if not mended and len(data) > 4096 and offset + len(data) > after:
            raise OSError(code, os.strerror(code))
        return pwrite(descriptor, data, offset)

    patch.setattr(os, "pwrite", write)
    return lambda: mended.append(None)


@pytest.mark.parametrize("code", INTERRUPTIONS)
@pytest.mark.parametrize(("answers", "requests"), [(good(), 1), (chunked(), 2)], ids=["plain", "chunked"])
async def test_write_error_ends_download_without_retry(
    code: int,
    answers: Behaviour,
    requests: int,
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with BadServer(published.data_dir).set("*.bin", answers) as server:
        async with Client([server.url]) as client:
            failing_disk(monkeypatch, code, after=MB)
            with pytest.raises(LocalDiskError) as raised:
                await client.download("v1", tmp_path / "model.bin")
        assert server.requested("*.bin") == requests
    assert raised.value.errno == code
    assert "model.bin" in str(raised.value)
    assert os.strerror(code) in str(raised.value)
    assert server.address not in str(raised.value)
    assert not (tmp_path / "model.bin").exists()


async def test_read_error_of_landed_bytes_ends_download_without_retry(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with BadServer(published.data_dir) as server:
        async with Client([server.url]) as client:
            with pytest.raises(LocalDiskError, match=r"model\.bin.*Input/output error"):
                await client.download("v1", tmp_path / "model.bin")
        assert server.requested("*.bin") == 1


def test_errno_survives_pickling() -> None:
    error = LocalDiskError("could not write model.bin: File too large")
    error.errno = errno.EFBIG
    told = from_wire(json.loads(json.dumps(to_wire(error))))
    assert isinstance(told, LocalDiskError)
    assert (told.errno, str(told)) == (errno.EFBIG, str(error))
    assert "errno" not in to_wire(PayloadMissing("it does not exist"))


# Commands


def limited(kilobytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may write files of so many kB at the most (EFBIG)."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1000, kilobytes * 1000))

    return subprocess.run(
        processes.command(*words),
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limit,
    )


def assert_disk_failure(done: subprocess.CompletedProcess[str], file: str, code: int, server: str) -> None:
    assert done.returncode == LOCAL_DISK, done.stderr
    last = done.stderr.splitlines()[-1]
    assert file in last, last
    assert os.strerror(code) in last, last
    assert server not in last, last
    assert "again later" not in done.stderr
    assert "Traceback" not in done.stderr


def test_client_and_follower_end_with_6_when_a_file_may_not_grow(
    published: Published, tmp_path: Path
) -> None:
    with processes.origin(published.data_dir) as origin:
        output = tmp_path / "model.bin"
        done = limited(
            900, "client", "--servers", origin.url, "--version", "v1", "--output-file", str(output)
        )
        assert_disk_failure(done, "model.bin", errno.EFBIG, origin.url)
        assert not output.exists()
        done = limited(
            900, "client", "--follow", "--servers", origin.url, "--output-dir", str(tmp_path / "followed")
        )
        assert_disk_failure(done, "followed", errno.EFBIG, origin.url)
        assert (
            processes.run(
                "client", "--servers", origin.url, "--version", "v1", "--output-file", str(output)
            ).returncode
            == 0
        )
    assert sha256(output) == published.sha256


def test_store_pull_ends_with_6_when_a_file_may_not_grow(tmp_path: Path) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "file"
    here.mkdir()
    there.mkdir()
    file.write_bytes(random_bytes(2 * MB))
    done = processes.run("store", "put", "-d", str(there), str(file))
    assert done.returncode == 0, done.stderr
    digest = done.stdout.split()[0]
    with processes.node("store", "serve", str(there), "--port-range", "49152", "65535") as server:
        done = limited(900, "store", "pull", "-d", str(here), server.url, digest)
        assert_disk_failure(done, "here", errno.EFBIG, server.url)
        done = processes.run("store", "pull", "-d", str(here), server.url, digest)
        assert done.returncode == 0, done.stderr


async def test_push_with_unreadable_spool_blames_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, size: int = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    unreadable = type("Unreadable", (io.BytesIO,), {"read": fail})
    (tmp_path / "there").mkdir()
    source = BlobsInMemory("sha256")
    async with source.put() as writer:
        await writer.write(random_bytes(100_000))
        digest = await writer.commit()
    monkeypatch.setattr(tempfile, "TemporaryFile", unreadable)
    async with (
        StoreServer.running(StoreSettings(tmp_path / "there", writable=True)) as server,
        remote_store(server.url, "sha256") as target,
    ):
        with pytest.raises(LocalDiskError, match="Input/output error") as raised:
            await copy(source, target, [digest], CopyProgress())
    assert raised.value.errno == errno.EIO


# Nodes


async def test_middle_survives_disk_error_and_reports_it_in_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Origin.running(tmp_path / "origin", *HTTP) as origin:
        (tmp_path / "model.bin").write_bytes(random_bytes(MB))
        await (await origin.publish(tmp_path / "model.bin")).result()
        mend = failing_disk(monkeypatch, errno.EIO)
        async with Middle.running([origin.url], tmp_path / "middle", *HTTP, check_interval=0.2) as middle:
            await until(lambda: middle.status()["disk_failure"], "the failure in /status")
            failure = middle.status()["disk_failure"]
            assert "shard_001.bin" in failure
            assert "Input/output error" in failure
            assert origin.url not in failure
            assert not middle._fetch_loop.suspect
            mend()
            await until(lambda: middle.folders.listings, "v1")
            await until(lambda: middle.status()["disk_failure"] is None, "the end of the failure")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system can be made here: {getattr(error, 'stderr', None) or error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_ends_follower_and_leaves_middle_up(small_disk: Path, tmp_path: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(1_900_000))
    with (
        processes.origin(tmp_path / "origin", "--shard-size", "500kB") as origin,
        processes.middle(origin.url, small_disk / "middle") as middle,
    ):
        words = ("client", "--follow", "--servers", origin.url, "--output-dir", str(small_disk / "followed"))
        with BroadcastWriter(tmp_path / "origin", "model.bin") as out:
            out.write(random_bytes(3 * MB))  # of a version that is being made, nobody knows the size
            out.flush()
            done = processes.run(*words, timeout=60)
            assert_disk_failure(done, "v1", errno.ENOSPC, origin.url)

        def lacking() -> list[str]:
            with urllib.request.urlopen(f"{middle.url}/status", timeout=10) as answer:
                return [one["version"] for one in json.loads(answer.read())["lacking"]]

        wait_until(lambda: lacking() == ["v1"], what="the version without room in /status")
        (small_disk / "ballast").unlink()
        assert middle.process.poll() is None


# The kind


def test_disk_errors_are_never_caught_as_connection_errors() -> None:
    """Wherever an ``OSError`` becomes an error of a server, a ``ShardcastError`` passes first."""
    unsafe = []
    rooms = ("peer", "control", "transfer", "upstream", "blobs/client")
    for file in sorted(file for room in rooms for file in (PACKAGE / room).glob("*.py")):
        for block in ast.walk(ast.parse(file.read_text())):
            if not isinstance(block, ast.Try):
                continue
            passed = False
            for handler in block.handlers:
                caught = ast.unparse(handler.type) if handler.type else "BaseException"
                passed = passed or ("ShardcastError" in caught and ast.unparse(handler.body[0]) == "raise")
                raised = [one.exc for one in ast.walk(handler) if isinstance(one, ast.Raise) and one.exc]
                translates = any(ast.unparse(one) != "MemoryError" for one in raised)  # that is no server's
                wide = {"OSError", "Exception"} & set(caught.strip("()").split(", "))
                if wide and translates and not passed:
                    unsafe.append(f"{file.name}:{handler.lineno}")
    assert unsafe == []


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)
