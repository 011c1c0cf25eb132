"""``open_broadcast_folder``: files go out one by one, in the order written, and clients have them live."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from shardcast.api.open_folder import FolderWriter
from shardcast.errors import NodeFailed, PayloadChanged, UsageError
from shardcast.folders.contents import contained_files
from shardcast.folders.kept import is_unchanged
from shardcast.folders.layout import LEAST_LARGE
from shardcast.folders.options import FolderOptions
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from tests.support import processes
from tests.support.folder_trees import read_tree
from tests.support.processes import wait_until
from tests.support.sharing import sharer, until

SHARD = 700_000
LARGE = Random(4).randbytes(2 * LEAST_LARGE + 5)
SMALL = Random(5).randbytes(5000)
FILES = {"weights/model-00001.bin": LARGE, "config.json": b"{}", "a/b/c": SMALL, "empty": b"", "last": b"z"}


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[Origin]:
    async with Origin.running(tmp_path / "data", "127.0.0.1", 0, shard_size=SHARD) as one:
        yield one


def write_all(data_dir: Path) -> str:
    """Write the files, each in another way; return the version."""
    with FolderWriter(data_dir, "model") as folder:
        with folder.open("weights/model-00001.bin", size=len(LARGE), mtime=7) as file:
            for start in range(0, len(LARGE), 300_000):
                file.write(LARGE[start : start + 300_000])
        folder.write("config.json", b"{}", mode=0o600, mtime=8)
        with folder.open("a/b/c", mtime=9) as file:
            file.write(SMALL)
        folder.write("empty", b"", mtime=10)
        source = data_dir.parent / "last"
        source.write_bytes(b"z")
        os.utime(source, (11, 11))
        folder.add(source)
    return folder.complete()


def check(path: Path) -> None:
    """Check that a folder has the files."""
    found = {os.fsdecode(name): node for name, node in read_tree(path).items() if stat.S_ISREG(node.kind)}
    assert {name: node.content for name, node in found.items()} == FILES
    assert [found[name].mtime for name in FILES] == [7, 8, 9, 10, 11]
    assert found["config.json"].mode == 0o600


async def fetch(url: str, output: Path, folders: FolderOptions | None = None) -> Path:
    async with Client([url], folders=folders) as client:
        return (await client.download("v1", output)).path


async def test_folder_that_was_written_comes_back_and_verifies(origin: Origin, tmp_path: Path) -> None:
    assert await asyncio.to_thread(write_all, tmp_path / "data") == "v1"
    manifest = origin.folders.manifest_of("v1")
    assert manifest and (manifest.header.content_name, manifest.header.name) == ("model", "model.tar")
    assert [file.path for file in contained_files(manifest)] == [
        "weights/", "weights/model-00001.bin", "config.json", "a/", "a/b/", "a/b/c", "empty", "last"
    ]  # fmt: skip
    assert all(file.sha256 for file in contained_files(manifest) if file.path in ("config.json", "a/b/c"))
    check(await fetch(origin.url, tmp_path / "got"))
    assert is_unchanged(tmp_path / "got", manifest)
    done = await asyncio.to_thread(processes.run, "client", "--verify", str(tmp_path / "got"))
    assert done.returncode == 0, done.stdout + done.stderr
    part = await fetch(origin.url, tmp_path / "part", FolderOptions(only=("a/",)))
    assert [entry.name for entry in part.iterdir()] == ["a"]


async def test_payload_is_a_tar(origin: Origin, tmp_path: Path) -> None:
    await asyncio.to_thread(write_all, tmp_path / "data")
    shards = sorted((tmp_path / "data" / "v1").glob("shard_*.bin"))
    (tmp_path / "model.tar").write_bytes(b"".join(shard.read_bytes() for shard in shards))
    with tarfile.open(tmp_path / "model.tar", "r:") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    check(tmp_path / "unpacked")


async def test_clients_have_each_file_before_the_next_is_written(origin: Origin, tmp_path: Path) -> None:
    """Through a middle; a second client comes late, and a third shares."""
    async with (
        Middle.running([origin.url], tmp_path / "middle", "127.0.0.1", 0, check_interval=0.1) as middle,
        contextlib.AsyncExitStack() as stack,
    ):
        folder = await asyncio.to_thread(FolderWriter, tmp_path / "data", "model")
        client = await stack.enter_async_context(Client([middle.url], tmp_path / "out"))
        releases = client.follow()
        first = asyncio.ensure_future(anext(releases))
        part = tmp_path / "out" / ".v1.part" / "folder"
        with folder.open("weights/model-00001.bin", size=len(LARGE), mtime=7) as file:
            await asyncio.to_thread(file.write, LARGE)
        await until(lambda: has(part / "weights" / "model-00001.bin", LARGE))
        await asyncio.to_thread(folder.write, "config.json", b"{}", mode=0o600, mtime=8)
        await until(lambda: has(part / "config.json", b"{}"))
        late = await stack.enter_async_context(sharer(middle.url, tmp_path / "late"))
        follower = late.client.follow()
        second = asyncio.ensure_future(anext(follower))
        await until(lambda: has(tmp_path / "late" / ".v1.part" / "folder" / "config.json", b"{}"))
        with folder.open("a/b/c", mtime=9) as file:
            file.write(SMALL)
            assert not first.done()
        await until(lambda: has(part / "a" / "b" / "c", SMALL))
        await asyncio.to_thread(folder.write, "empty", b"", mtime=10)
        await asyncio.to_thread(folder.write, "last", b"z", mtime=11)
        assert await asyncio.to_thread(folder.complete) == "v1"
        async with asyncio.timeout(30):
            check((await first).path)
            check((await second).path)
        await releases.aclose()
        await follower.aclose()


def has(file: Path, content: bytes) -> bool:
    return file.exists() and file.read_bytes() == content


def too_many(folder: FolderWriter, tmp_path: Path) -> None:
    with folder.open("a", size=3) as file:
        file.write(b"four")


def too_few(folder: FolderWriter, tmp_path: Path) -> None:
    with folder.open("a", size=3) as file:
        file.write(b"2")


def not_closed(folder: FolderWriter, tmp_path: Path) -> None:
    folder.open("a").write(b"x")
    folder.complete()


def raised_in_a_sized_file(folder: FolderWriter, tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), folder.open("a", size=3):
        raise KeyError
    folder.complete()


def grown(folder: FolderWriter, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    send = folder._send

    def change(data: memoryview) -> None:
        source.write_bytes(b"22")
        send(data)

    folder._send = change  # type: ignore[method-assign]
    folder.add(source)


@pytest.mark.parametrize("wrong", [too_many, too_few, not_closed, raised_in_a_sized_file, grown])
async def test_wrong_file_aborts_the_version(
    origin: Origin, tmp_path: Path, wrong: Callable[[FolderWriter, Path], None]
) -> None:
    folder = await asyncio.to_thread(FolderWriter, tmp_path / "data", "model")
    with pytest.raises((UsageError, PayloadChanged, Exception), match=r"aborted|changed|3 bytes|open"):
        await asyncio.to_thread(wrong, folder, tmp_path)
    await until(lambda: not (tmp_path / "data" / "v1").exists())
    assert origin.folders.listings == ()


@pytest.mark.parametrize(
    ("path", "says"),
    [("../a", "v1"), ("/a", "v1"), ("", "v1"), ("a//b", "v1"), ("here", "written before"),
     ("sub", "written before"), ("here/b", "lies in a file"), ("a\0b", "v1"), ("sub/", "v1")],
)  # fmt: skip
async def test_path_that_is_unsafe_or_there_already_is_refused_and_the_folder_goes_on(
    origin: Origin, tmp_path: Path, path: str, says: str
) -> None:
    folder = await asyncio.to_thread(FolderWriter, tmp_path / "data", "model")
    await asyncio.to_thread(folder.write, "here", b"1")
    await asyncio.to_thread(folder.write, "sub/x", b"1")
    with pytest.raises(UsageError, match=says):
        folder.open(path)
    first = folder.open("other")
    with pytest.raises(UsageError, match="close 'other'"):
        folder.open("another")
    await asyncio.to_thread(first.close)
    assert await asyncio.to_thread(folder.complete) == "v1"
    manifest = origin.folders.manifest_of("v1")
    assert manifest
    assert [file.path for file in contained_files(manifest)] == ["here", "sub/", "sub/x", "other"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb", "x" * 256])
def test_name_of_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a folder"):
        FolderWriter(tmp_path, name)


async def test_exception_aborts_the_version_at_clients(origin: Origin, tmp_path: Path) -> None:
    def write() -> None:
        with FolderWriter(tmp_path / "data", "model") as folder:
            folder.write("a", SMALL)
            asyncio.run_coroutine_threadsafe(begun.wait(), loop).result(20)
            raise KeyError("mine")

    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    async with Client([origin.url], tmp_path / "out") as client:
        releases = client.follow()
        getting = asyncio.ensure_future(anext(releases))
        await until(lambda: has(tmp_path / "out" / ".v1.part" / "folder" / "a", SMALL))
        begun.set()
        with pytest.raises(KeyError, match="mine"):
            await writing
        await until(lambda: not list((tmp_path / "out").glob("*v1*")))
        getting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await getting
        await releases.aclose()
    assert origin.folders.listings == ()


async def test_spooled_file_that_raises_is_left_out(origin: Origin, tmp_path: Path) -> None:
    def write() -> str:
        with FolderWriter(tmp_path / "data", "model") as folder:
            with contextlib.suppress(KeyError), folder.open("bad") as file:
                file.write(b"half")
                raise KeyError
            folder.write("good", b"1")
        return folder.complete()

    assert await asyncio.to_thread(write) == "v1"
    manifest = origin.folders.manifest_of("v1")
    assert manifest and [file.path for file in contained_files(manifest)] == ["good"]


@pytest.mark.parametrize(
    "frame",
    [b"\0\0\0\2[]", b"\0\0\0\1x", b"\xff" * 8, json.dumps(["../a", 1, 420, 0]).encode(), b"\0\0\0\x09"],
)
async def test_frame_of_no_entry_aborts_the_version(origin: Origin, tmp_path: Path, frame: bytes) -> None:
    if frame.startswith(b"["):
        frame = len(frame).to_bytes(4, "big") + frame
    folder = await asyncio.to_thread(FolderWriter, tmp_path / "data", "model")
    folder._writer.write(frame)
    with pytest.raises(Exception, match=r"entry|went away|cancelled|aborted|ended"):
        await asyncio.to_thread(folder._writer.complete)
    await until(lambda: not (tmp_path / "data" / "v1").exists())
    assert origin.folders.listings == ()


_WRITER = """
import sys, time
from pathlib import Path
from shardcast.api.open_folder import FolderWriter
folder = FolderWriter(Path(sys.argv[1]), "model")
folder.write("a", b"1" * 5000)
with folder.open("b", size=10_000_000) as file:
    file.write(b"2" * 5_000_000)
    file._folder._flush()
    print("half", flush=True)
    time.sleep(600)
"""


async def test_killed_writer_aborts_the_version(origin: Origin, tmp_path: Path) -> None:
    words = (sys.executable, "-c", _WRITER, str(tmp_path / "data"))
    writer = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, env=processes.environment())
    assert writer.stdout
    assert await writer.stdout.readline() == b"half\n"
    await until(lambda: (tmp_path / "data" / "v1" / "shard_001.bin").exists())
    writer.kill()
    await writer.wait()
    await until(lambda: not (tmp_path / "data" / "v1").exists())
    assert origin.folders.listings == ()
    assert await asyncio.to_thread(write_all, tmp_path / "data") == "v2"


def test_killed_origin_fails_the_writer_and_leaves_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with processes.origin(data_dir) as node:
        folder = FolderWriter(data_dir, "model")
        folder.write("a", SMALL)
        wait_until(lambda: (data_dir / "v1" / "shard_001.bin").exists())
        node.kill()
        with pytest.raises(NodeFailed, match="v1"), folder:
            for number in range(100):
                folder.write(f"more-{number}", LARGE)
    with processes.origin(data_dir):
        assert not (data_dir / "v1").exists()
        assert write_all(data_dir) == "v2"


def test_killed_client_goes_on_while_the_folder_is_written(tmp_path: Path) -> None:
    data_dir, out = tmp_path / "data", tmp_path / "out"
    with processes.origin(data_dir, "--shard-size", str(SHARD)) as node:
        words = ("client", "--servers", node.url, "--follow", "--output-dir", str(out))
        part = out / ".v1.part" / "folder"
        with FolderWriter(data_dir, "model") as folder:
            folder.write("weights/model-00001.bin", LARGE, mtime=7)
            with processes.started(processes.command(*words), timeout=0) as client:
                wait_until(lambda: has(part / "weights" / "model-00001.bin", LARGE))
                client.kill()
            folder.write("config.json", b"{}", mode=0o600, mtime=8)
            folder.write("a/b/c", SMALL, mtime=9)
            with processes.started(processes.command(*words), timeout=0) as client:
                wait_until(lambda: has(part / "a" / "b" / "c", SMALL))
                folder.write("empty", b"", mtime=10)
                folder.write("last", b"z", mtime=11)
                folder.complete()
                wait_until((out / "v1").exists)
    check(out / "v1")
