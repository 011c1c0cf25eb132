"""A data directory: who holds it, and the numbers that it gives."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.errors import DataDirInUse, LocalDiskError, UsageError
from shardcast.protocol.wire import MAX_VERSION
from shardcast.store.data_dir import DataDir
from shardcast.store.special_files import short_socket_path, socket_path
from tests.support import processes


@contextlib.contextmanager
def held(root: Path, role: str = "origin") -> Iterator[DataDir]:
    directory = DataDir(root, role)
    try:
        yield directory
    finally:
        directory.close()


def test_missing_data_directory_is_created(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    with held(root):
        assert {path.name for path in root.iterdir()} == {".shardcast"}


def test_paths_follow_the_documented_layout(tmp_path: Path) -> None:
    with held(tmp_path) as directory:
        assert directory.distribution == tmp_path / "distribution.txt"
        assert directory.manifest(7) == tmp_path / "v7" / "manifest.jsonl"
        assert directory.shard(7, 1) == tmp_path / "v7" / "shard_001.bin"
        assert directory.shard(7, 12345) == tmp_path / "v7" / "shard_12345.bin"


def test_five_digit_shard_name_of_0_3_is_found(tmp_path: Path) -> None:
    with held(tmp_path) as directory:
        (tmp_path / "v7").mkdir()
        (tmp_path / "v7" / "shard_00001.bin").touch()
        assert directory.shard(7, 1).name == "shard_00001.bin"
        assert directory.shard(7, 2).name == "shard_002.bin"
        (tmp_path / "v7" / "shard_001.bin").touch()
        assert directory.shard(7, 1).name == "shard_001.bin"


def test_relative_directory_is_kept_when_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with held(Path("data")) as directory:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert directory.allot() == 1
        assert directory.root == tmp_path / "data"


def test_file_in_place_of_directory_raises_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(LocalDiskError, match=re.escape(str(tmp_path / "data"))):
        DataDir(tmp_path / "data", "origin")


# The lock


def test_error_in_use_names_role_and_process(tmp_path: Path) -> None:
    with held(tmp_path, "middle"):
        with pytest.raises(
            DataDirInUse, match=rf"in use by a shardcast middle \(process {os.getpid()}\)"
        ) as caught:
            DataDir(tmp_path, "origin")
        assert caught.value.role == "middle"
        assert str(tmp_path) in str(caught.value)
    with held(tmp_path, "broadcast"), pytest.raises(DataDirInUse, match="a shardcast broadcast"):
        DataDir(tmp_path, "origin")


def test_other_process_is_refused_until_directory_is_released(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from shardcast.errors import DataDirInUse
from shardcast.store.data_dir import DataDir
try:
    DataDir(Path({str(tmp_path)!r}), "middle")
    print("held")
except DataDirInUse as error:
    print(error)
"""

    def said() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=processes.environment(), capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    with held(tmp_path):
        assert f"a shardcast origin (process {os.getpid()})" in said()
    assert said() == "held"
    with held(tmp_path):  # it died with the process that held it
        pass


def test_empty_lock_file_still_locks(tmp_path: Path) -> None:
    with held(tmp_path) as directory:
        (directory.own / "lock").write_text("")
        with pytest.raises(DataDirInUse, match=f"in use by process {os.getpid()};"):
            DataDir(tmp_path, "origin")


def test_failed_open_releases_the_lock(tmp_path: Path) -> None:
    own = tmp_path / ".shardcast"
    own.mkdir()
    (own / "verified").touch()
    with pytest.raises(LocalDiskError):
        DataDir(tmp_path, "origin")
    (own / "verified").unlink()
    with held(tmp_path):
        pass


# The ids and the numbers


def test_origin_id_is_created_once_per_directory(tmp_path: Path) -> None:
    with held(tmp_path / "a") as a, held(tmp_path / "b") as b:
        assert re.fullmatch("[0-9a-f]{32}", a.origin_id)
        assert a.origin_id != b.origin_id
    with held(tmp_path / "a") as again:
        assert again.origin_id == a.origin_id


def test_unwritten_origin_id_is_created_again(tmp_path: Path) -> None:
    with held(tmp_path) as directory:
        (directory.own / "origin").write_text("")
    with held(tmp_path) as again:
        assert re.fullmatch("[0-9a-f]{32}", again.origin_id)


def test_allotted_numbers_increase_across_restarts(tmp_path: Path) -> None:
    with held(tmp_path) as directory:
        assert [directory.allot(), directory.allot()] == [1, 2]
    with held(tmp_path) as again:  # also where nothing came of a number
        assert again.allot() == 3
        assert again.allot(min_number=10) == 10
        assert again.allot(min_number=5) == 11
        assert again.allot(min_number=MAX_VERSION) == MAX_VERSION
        with pytest.raises(UsageError, match="no version after"):
            again.allot()


def test_number_of_existing_version_is_not_allotted(tmp_path: Path) -> None:
    (tmp_path / "v7").mkdir()
    with held(tmp_path) as directory:
        assert directory.allot() == 8
        (tmp_path / "v7").rmdir()
        assert directory.allot() == 9


def test_number_used_elsewhere_is_not_allotted_after_restart(tmp_path: Path) -> None:
    with held(tmp_path) as directory:
        directory.mark_used(5)
        directory.mark_used(3)
    with held(tmp_path) as again:
        assert again.allot() == 6


def test_number_is_not_allotted_when_it_cannot_be_recorded(tmp_path: Path) -> None:
    with held(tmp_path) as directory:
        (directory.own / "next").mkdir()
        with pytest.raises(LocalDiskError):
            directory.allot()
        (directory.own / "next").rmdir()
        assert directory.allot() == 1


def test_numbers_lists_version_folders_in_numeric_order(tmp_path: Path) -> None:
    for name in ("v10", "v9", "v1", "v01", "v0", "vx", "blobs", "v11.part"):
        (tmp_path / name).mkdir()
    (tmp_path / "v3").touch()
    with held(tmp_path) as directory:
        assert directory.numbers() == [1, 9, 10]


# The socket


@pytest.mark.parametrize("deep", [0, 3], ids=["short", "longer than a socket's name may be"])
def test_socket_can_be_bound_and_reached_in_any_directory(deep: int, tmp_path: Path) -> None:
    root = tmp_path.joinpath(*["d" * 60] * deep)
    with (
        held(root) as directory,
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        there = directory.own / "socket"
        with short_socket_path(socket_path(root)) as name:
            server.bind(name)
        server.listen()
        assert there.is_socket()
        with short_socket_path(socket_path(root)) as name:
            client.connect(name)
        assert len(os.fsencode(name)) <= 103  # what macOS takes
        assert Path(name) == there or not Path(name).exists()  # what was made to shorten it is gone


def test_relative_directory_has_absolute_socket_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with held(Path("data")) as directory, short_socket_path(socket_path(Path("data"))) as name:
        assert Path(name).is_absolute()
        assert Path(name).parent.samefile(directory.own)
