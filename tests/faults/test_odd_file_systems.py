"""File systems that lack something: what nodes, clients and stores do works there, or is refused up front."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import OWN_FOLDER
from shardcast.blobs.directory.quarantine import Quarantine
from shardcast.cli.exit_codes import DONE, LOCAL_DISK
from shardcast.control.client import NoNode, connect
from shardcast.directories import make_folder, sync_folder
from shardcast.errors import LocalDiskError
from shardcast.file_moves import rename, rename_if_free
from shardcast.file_systems import reserve, set_permissions
from shardcast.filesystem import give_name, give_name_if_free, has_symlinks
from shardcast.nodes.release_folder import check_folder
from shardcast.open_files import write_all
from shardcast.server.application import application, serve_on_socket
from shardcast.store import holds
from shardcast.store.special_files import make_local_folder
from shardcast.temporary_files import create_private
from tests.support import payloads, processes
from tests.support.faults.kinds import KINDS, environment
from tests.support.folders import StoredNode, receive_version
from tests.support.small_disks import overlay, small_disk

ROOT = Path(__file__).parents[2]
LACKS = ("syncs no folders:", "keeps no permissions:", "has no locks:", "has no sockets and pipes:")
NEEDS_PERMISSIONS = {"store: gc": "keeps no permissions, so no marks"}
"""What is refused there, and why."""


@pytest.mark.parametrize(
    ("kind", "role"), [("SMB", "origin"), ("SMB", "store"), ("FUSE", "client"), ("FUSE", "middle")]
)
def test_each_operation_works_without_missing_features(
    kind: str, role: str, shim: Path, tmp_path: Path
) -> None:
    env = processes.environment(LD_PRELOAD=str(shim), **environment(KINDS[kind], tmp_path))
    words = [sys.executable, "-m", "tests.support.faults.kinds", role, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results
    for one in results:
        refused = NEEDS_PERMISSIONS.get(one["operation"])
        if refused:
            assert refused in one["said"], one
        else:
            assert one["code"] == DONE, one
        assert not one["unhandled"], one
        assert "Traceback" not in one["said"], one
    said = "\n".join(one["said"] for one in results)
    often = {lack: said.count(lack) for lack in LACKS}
    once = int(role != "store")  # whose commands are told to be quiet
    assert often["syncs no folders:"] == often["keeps no permissions:"] == max(often.values()) == once, often


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT])
def test_disk_error_is_not_taken_for_a_missing_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    descriptor = create_private(tmp_path / "file")
    try:
        for call in ("fsync", "fchmod", "symlink"):
            monkeypatch.setattr(os, call, fails)
        for work in (
            lambda: sync_folder(tmp_path),
            lambda: make_folder(tmp_path / "folder"),
            lambda: set_permissions(descriptor, 0o600, tmp_path / "file"),
            lambda: has_symlinks(tmp_path / "latest"),
            lambda: make_local_folder(tmp_path, OSError(error, os.strerror(error))),
        ):
            with pytest.raises(OSError) as raised:
                work()  # type: ignore[no-untyped-call]
            assert raised.value.errno == error
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL])
def test_full_disk_without_fallocate_is_noticed_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fails(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", fails)
    with (tmp_path / "file").open("wb") as file:
        room = os.fstatvfs(file.fileno())
        reserve(file.fileno(), 0, 1)
        with pytest.raises(OSError) as raised:
            reserve(file.fileno(), 0, 2 * room.f_blocks * room.f_frsize)
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_taken_name_is_kept_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", fails)
    for name in ("new", "taken"):
        (tmp_path / name).write_text(name)
    assert not rename_if_free(tmp_path / "new", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "taken"
    assert rename_if_free(tmp_path / "new", tmp_path / "free")
    assert (tmp_path / "free").read_text() == "new"


# Renames that lead too far -----------------------------------------------------------------------------


@pytest.fixture
def other_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each rename to a folder named ``other`` lead to another disk."""
    real = os.rename

    def leads_too_far(known: str | Path, name: str | Path, **ids: int) -> None:
        if Path(known).parent != Path(name).parent and Path(name).parent.name == "other":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(known), str(name))
        real(known, name, **ids)

    monkeypatch.setattr(os, "rename", leads_too_far)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    return tmp_path / "other"


@pytest.mark.usefixtures("other_disk")
def test_file_moves_to_another_disk(tmp_path: Path, other: Path) -> None:
    known = tmp_path / "known"
    known.write_bytes(b"123")
    known.chmod(0o441)
    os.utime(known, ns=(0, 1_700_000_000_123_456_789))
    rename(known, other / "name")
    found = (other / "name").stat()
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o441, 1_700_000_000_123_456_789)
    assert (other / "name").read_bytes() == b"123"
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert [path.name for path in other.iterdir()] == ["name"]


@pytest.mark.usefixtures("other_disk")
def test_link_moves_to_another_disk_as_a_link(tmp_path: Path, other: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "link").symlink_to("file")
    rename(tmp_path / "link", other / "name")
    assert (other / "name").is_symlink()
    assert os.readlink(other / "name") == "file"  # noqa: PTH115
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


@pytest.mark.usefixtures("other_disk")
@pytest.mark.parametrize("give", [give_name, give_name_if_free])
def test_temporary_file_gets_its_name_on_another_disk(tmp_path: Path, other: Path, give: object) -> None:
    part = tmp_path / "part"
    descriptor = create_private(part)
    try:
        write_all(descriptor, b"123")
        give(descriptor, part, other / "name", mode=0o444)  # type: ignore[operator]
    finally:
        os.close(descriptor)
    assert (other / "name").read_bytes() == b"123"
    assert (other / "name").stat().st_mode & 0o777 == 0o444
    assert not part.exists()
    assert [path.name for path in other.iterdir()] == ["name"]


def test_failed_copy_keeps_the_old_name(
    tmp_path: Path, other: Path, other_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    part = tmp_path / "part"
    descriptor = create_private(part)
    try:
        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="Input/output"):
            give_name(descriptor, part, other / "name", durable=False)
    finally:
        os.close(descriptor)
    assert part.exists()
    assert not list(other.iterdir())


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """A data directory with three versions in the lower layer of an overlay, as in a container's image."""
    node = StoredNode(tmp_path / "image" / "data")

    async def fill() -> None:
        folders = node.start()
        for number in (1, 2, 3):
            await receive_version(folders, payloads.random_bytes(1000, number), f"v{number}")

    asyncio.run(fill())
    node.stop()
    with overlay(tmp_path / "container", tmp_path / "image"):
        yield tmp_path / "container" / "data"


@pytest.mark.root
def test_version_in_read_only_image_layer_is_retired(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "RECENTLY_READ", 0.0)
    with pytest.raises(OSError, match="cross-device"):
        (image / "v3").rename(image / "v9")
    node = StoredNode(image)

    async def retire() -> None:
        folders = node.start(keep=1)
        await folders.try_tidy()

    asyncio.run(retire())
    node.stop()
    assert node.listed == ["v3"]
    assert sorted(path.name for path in image.iterdir() if path.name[0] == "v") == ["v3"]
    assert not list((image / ".shardcast" / "retired").iterdir())


@pytest.mark.root
def test_folder_of_image_layer_moves_after_a_kill(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, name = image / "v1", image / ".shardcast" / "lines"
    names, changed = {path.name for path in known.iterdir()}, known.stat().st_mtime_ns
    real, moved = Path.rename, []

    def killed(path: Path, target: Path) -> Path:
        found = real(path, target)
        moved.append(path)
        if len(moved) == 1:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            rename(known, name)
    assert moved
    assert not name.exists()
    rename(known, name)
    assert {path.name for path in name.iterdir()} == names
    assert not known.exists()
    assert len(names) > 1
    assert abs(name.stat().st_mtime_ns - changed) < 60 * 10**9


@pytest.mark.root
async def test_store_works_with_prefix_folder_on_another_disk(tmp_path: Path) -> None:
    blob = b"a blob"
    digest = hashlib.sha256(blob).hexdigest()
    with small_disk(tmp_path / digest[:2], "1m"):
        store = BlobDirectory(tmp_path, "sha256", "prefix", writable=True)
        try:
            async with store.put() as writer:
                await writer.write(blob)
                assert await writer.commit() == digest
        finally:
            await store.close()
        file = tmp_path / digest[:2] / digest
        assert file.read_bytes() == blob
        quarantine = Quarantine(store.folder)
        aside = quarantine.set_aside(str(file), digest, file.stat(), "a test")
        assert aside
        assert Path(aside.file).read_bytes() == blob
        assert not file.exists()
        assert not [one for one in file.parent.iterdir() if digest in one.name]
    assert not list((tmp_path / OWN_FOLDER / "incoming").glob("*/*.part"))


# What is looked for before the work begins -----------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_follow_requires_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    check_folder(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "symlink", refuses)
    with pytest.raises(LocalDiskError, match="has no symbolic links, and latest has to be one"):
        check_folder(tmp_path)


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_follow_names_cause_of_unwritable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "symlink", refuses)
    monkeypatch.setattr(os, "access", lambda *_: error == errno.EDQUOT)
    with pytest.raises(LocalDiskError, match=f"could not write {tmp_path}: {os.strerror(error)}"):
        check_folder(tmp_path)


def test_follow_refuses_before_any_request(shim: Path, tmp_path: Path) -> None:
    rules = environment({"symlink": errno.EPERM}, tmp_path)
    env = processes.environment(LD_PRELOAD=str(shim), **rules)
    words = ["client", "--servers", "127.0.0.1:9", "--follow", "--output-dir", str(tmp_path / "out")]
    done = subprocess.run(
        [*processes.command(), *words], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == LOCAL_DISK, done.stderr
    assert "has no symbolic links" in done.stderr
    assert "127.0.0.1" not in done.stderr


# Sockets that can't be in the data directory ---------------------------------------------------------


@pytest.fixture
def no_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory on a file system without sockets."""
    own = tmp_path / ".shardcast"
    own.mkdir()
    real = socket.socket.bind

    def bind(plug: socket.socket, address: object) -> None:
        if str(address).startswith(str(tmp_path)):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(plug, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "bind", bind)
    return tmp_path


async def test_socket_elsewhere_is_found_and_removed(no_sockets: Path) -> None:
    record = no_sockets / ".shardcast" / "socket-at"
    async with serve_on_socket(application("0123"), no_sockets):
        place = Path(record.read_text().strip())
        assert place.parent.stat().st_mode & 0o777 == 0o700
        assert place.stat().st_mode & 0o777 == 0o600
        connection = await asyncio.to_thread(connect, no_sockets)
        await asyncio.to_thread(connection.request, "GET", "/nothing")
        assert (await asyncio.to_thread(connection.getresponse)).status == 404  # it was let in
        connection.close()
    assert not place.parent.exists()
    assert not record.exists()
    with pytest.raises(NoNode):
        await asyncio.to_thread(connect, no_sockets)


async def test_socket_elsewhere_of_killed_node_is_removed_by_the_next(no_sockets: Path) -> None:
    async with serve_on_socket(application("0123"), no_sockets):
        record = no_sockets / ".shardcast" / "socket-at"
        left, said = Path(record.read_text().strip()), record.read_bytes()
    left.parent.mkdir(mode=0o700)
    left.touch()
    record.write_bytes(said)
    try:
        async with serve_on_socket(application("0123"), no_sockets):
            assert Path(record.read_text().strip()) != left
            assert not left.parent.exists()
    finally:
        shutil.rmtree(left.parent, ignore_errors=True)


@pytest.mark.parametrize("planted", ["open folder", "other name"])
async def test_socket_of_another_user_is_not_used(no_sockets: Path, tmp_path: Path, planted: str) -> None:
    """A record may outlive its folder, whose name in ``/tmp`` anybody could have by now."""
    async with serve_on_socket(application("0123"), no_sockets):
        record = no_sockets / ".shardcast" / "socket-at"
        place = Path(record.read_text().strip())
        if planted == "open folder":
            place.parent.chmod(0o755)
        else:
            record.write_text(f"{tmp_path / 'socket'}\n")
        with pytest.raises(NoNode):
            await asyncio.to_thread(connect, no_sockets)
