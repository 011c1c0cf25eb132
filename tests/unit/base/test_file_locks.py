"""Lock files: closed to other users, waited for with an end, gone without where there are none."""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import functools
import logging
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardcast
from shardcast import file_locks, filesystem
from shardcast.blobs.access_stats import AccessStats
from shardcast.blobs.directory import incoming_folder as incoming
from shardcast.blobs.directory.incoming_folder import IncomingFolder
from shardcast.blobs.directory.layout import OWN_FOLDER
from shardcast.blobs.directory.quarantine import folder_lock
from shardcast.cli.exit_codes import INTERRUPTED
from shardcast.errors import DataDirInUse, LocalDiskError
from shardcast.file_locks import Lock, locked, open_lock_file
from shardcast.nodes import output_storage
from shardcast.nodes.output_names import LOCK_FILE
from shardcast.nodes.outputs import OutputFolder
from shardcast.store.directory_lock import DirectoryLock
from tests.support.processes import command, environment


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Have a file locked by another descriptor."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("folder", "expected"), [(0o755, 0o600), (0o2775, 0o660), (0o3775, 0o660)])
@pytest.mark.parametrize("earlier", [None, 0o644, 0o666])
def test_lock_file_mode_follows_write_access_to_its_folder(
    tmp_path: Path, folder: int, expected: int, earlier: int | None
) -> None:
    tmp_path.chmod(folder)
    if earlier:
        (tmp_path / "lock").touch()
        (tmp_path / "lock").chmod(earlier)
    os.close(open_lock_file(tmp_path / "lock"))
    assert mode(tmp_path / "lock") == expected


def test_symlink_in_place_of_lock_file_is_not_followed(tmp_path: Path) -> None:
    """Who may write the folder chooses no other file to be made, or to be closed to its readers."""
    (tmp_path / "another").touch()
    (tmp_path / "another").chmod(0o644)
    for target in ("another", "nowhere"):
        lock = tmp_path / f"lock of {target}"
        lock.symlink_to(tmp_path / target)
        with pytest.raises(OSError) as raised:
            open_lock_file(lock)
        assert raised.value.errno == errno.ELOOP
    assert mode(tmp_path / "another") == 0o644
    assert not (tmp_path / "nowhere").exists()


def test_data_directory_and_followed_folder_lock_files_are_private(tmp_path: Path) -> None:
    DirectoryLock(tmp_path / "lock", tmp_path, "origin").release()
    OutputFolder(tmp_path).lines.note_listed("0123", {1: "ab" * 32})
    assert mode(tmp_path / "lock") == mode(tmp_path / LOCK_FILE) == 0o600


@pytest.mark.parametrize("there", [None, b"damaged"])
async def test_access_stats_database_is_private(tmp_path: Path, there: bytes | None) -> None:
    """SQLite locks its file, too: for a lock it is enough to read it."""
    file = tmp_path / "archive" / "archive.sqlite"
    if there:
        file.parent.mkdir()
        file.write_bytes(there * 1000)
    ledger = AccessStats(file)
    await ledger.record_put(["ab" * 32], 1.0)
    try:
        modes = {
            one.name: mode(one) for one in file.parent.glob("archive.sqlite*") if one.suffix != ".damaged"
        }
    finally:
        await ledger.close()
    assert modes == {"archive.sqlite": 0o600, "archive.sqlite-wal": 0o600, "archive.sqlite-shm": 0o600}


def test_waiting_for_lock_is_logged_and_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_locks, "_WARN_AFTER", 0.0)
    with (
        held(tmp_path / "lock"),
        pytest.raises(BlockingIOError, match=f"lock is locked by process {os.getpid()}"),
        locked(tmp_path / "lock", 0.05),
    ):
        pytest.fail("it was taken")
    assert [record.getMessage() for record in caplog.records] == [
        f"waiting for process {os.getpid()}, which locks {tmp_path / 'lock'}"
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("words", "code"),
    [(("store", "put", "-d"), INTERRUPTED), (("store", "serve", "--writable", "--port", "0"), 0)],
    ids=["command", "node"],
)
def test_signal_ends_wait_for_lock(
    tmp_path: Path, number: signal.Signals, words: tuple[str, ...], code: int
) -> None:
    place = tmp_path / OWN_FOLDER / "incoming"
    place.mkdir(parents=True)
    file = [__file__] if words[1] == "put" else []
    with held(place / "lock"):
        process = subprocess.Popen(
            command(*words, str(tmp_path), *file),
            env=environment(SHARDCAST_LOCK_WAIT="3600"),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with process:
                assert process.stderr
                assert "waiting for process" in process.stderr.readline()
                process.send_signal(number)
                assert process.wait(60) == code
        finally:
            process.kill()


def test_store_and_quarantine_fail_when_lock_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "LOCK_WAIT", 0.02)
    monkeypatch.setattr("shardcast.blobs.directory.quarantine.LOCK_WAIT", 0.02)
    place = tmp_path / OWN_FOLDER / "incoming"
    place.mkdir(parents=True)
    with held(place / "lock"), pytest.raises(LocalDiskError, match=r"lock is locked by process \d+"):
        IncomingFolder(str(tmp_path))
    with (
        held(tmp_path / "lock"),
        pytest.raises(BlockingIOError, match="is locked by"),
        folder_lock(tmp_path),
    ):
        pytest.fail("it was entered")
    with held(tmp_path / "lock"), folder_lock(tmp_path, wait=False) as is_alone:
        assert not is_alone


def test_locked_data_directory_is_in_use(tmp_path: Path) -> None:
    with held(tmp_path / "lock"), pytest.raises(DataDirInUse, match=f"in use by process {os.getpid()}"):
        DirectoryLock(tmp_path / "lock", tmp_path, "origin")


def test_follower_continues_and_warns_when_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(output_storage, "LOCK_WAIT", 0.02)
    folder = OutputFolder(tmp_path)
    with held(tmp_path / LOCK_FILE):
        folder.lines.note_listed("0123", {1: "ab" * 32})
    assert folder.lines.listed("0123") == {1: "ab" * 32}
    assert "going on without the lock" in caplog.text


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    monkeypatch.setattr("shardcast.file_systems._first", _first_times())
    monkeypatch.setattr(fcntl, "flock", _fails(error))
    for name in ("one", "two"):
        with locked(tmp_path / name, 5) as lock:
            assert lock is Lock.NONE
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "has no locks" in caplog.text


def test_disk_error_is_not_mistaken_for_missing_lock_support(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", _fails(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path / "lock", 5):
        pytest.fail("it was taken")
    with pytest.raises(OSError, match="Input/output"), filesystem.atomic_file(tmp_path / "file"):
        pytest.fail("it was made")


@pytest.mark.parametrize("lacking", ["locks", "reach"])
def test_folder_of_unknown_process_is_kept_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Where no lock tells, only time does whether a process still puts blobs."""
    if lacking == "locks":
        monkeypatch.setattr(fcntl, "flock", _fails(errno.ENOLCK))
    else:
        monkeypatch.setattr(incoming, "is_local", lambda descriptor: False)
    place = tmp_path / OWN_FOLDER / "incoming"
    for name, age in (("young", 3600), ("old", 2 * 86400)):
        (place / name).mkdir(parents=True)
        for file in ("lock", "1.part"):
            (place / name / file).touch()
        then = time.time() - age
        for path in (place / name / "1.part", place / name):
            os.utime(path, (then, then))
    IncomingFolder(str(tmp_path)).close()
    assert {entry.name for entry in place.iterdir()} == {"lock", "young"}


def test_only_one_module_locks_files() -> None:
    package = Path(shardcast.__file__).parent
    found = {
        str(module.relative_to(package))
        for module in package.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("flock", "lockf")
    }
    assert found == {"file_locks.py"}


def _fails(error: int) -> object:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(error, os.strerror(error))

    return flock


def _first_times() -> object:
    """What ``_first`` is in a process that told of nothing yet."""
    return functools.cache(lambda device, lack: threading.Lock())
