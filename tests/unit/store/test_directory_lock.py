"""One process at a time has a data directory, also where the file system's locks do not say so."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardcast.errors import DataDirInUse
from shardcast.store import directory_lock
from shardcast.store.directory_lock import OLD_AFTER, DirectoryLock

HOLDING = """
import fcntl, sys
from pathlib import Path
from shardcast.store.directory_lock import DirectoryLock

fcntl.flock = lambda descriptor, how: None
lock = DirectoryLock(Path(sys.argv[1]), Path(), "origin", 0)
print(flush=True)
input()
"""

Take = Callable[[], DirectoryLock]


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Take]:
    taken: list[DirectoryLock] = []

    def lock() -> DirectoryLock:
        taken.append(DirectoryLock(tmp_path / "lock", tmp_path, "middle", settling=0))
        return taken[-1]

    yield lock
    for one in taken:
        one.release()


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be on one of the machines that share the directory; each knows only its own locks."""

    def be_on(machine: str) -> None:
        monkeypatch.setattr(directory_lock, "machine_id", lambda: machine)

    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)
    monkeypatch.setattr(directory_lock, "excludes_others", lambda path: True)
    monkeypatch.setattr(directory_lock, "is_local", lambda descriptor: False)
    be_on("a")
    return be_on


def grow_old(lock: Path, seconds: float) -> None:
    then = lock.stat().st_mtime - seconds
    os.utime(lock, (then, then))


def test_second_process_takes_local_lock_only_after_release(take: Take, tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path / "lock", tmp_path, "origin")
    with pytest.raises(DataDirInUse, match=rf"in use by a shardcast origin \(process {os.getpid()}\)"):
        take()
    first.release()
    assert take().held


def test_other_machine_is_refused_while_lock_is_renewed(
    take: Take, tmp_path: Path, on_machine: Callable[[str], None]
) -> None:
    take()
    on_machine("b")
    grow_old(tmp_path / "lock", OLD_AFTER - 5)
    with pytest.raises(DataDirInUse, match=r"on another machine; if that has ended, wait 60 s"):
        take()
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_other_machine_takes_released_lock(
    take: Take, tmp_path: Path, on_machine: Callable[[str], None]
) -> None:
    DirectoryLock(tmp_path / "lock", tmp_path, "origin", settling=0).release()
    on_machine("b")
    assert take().held


def test_other_machine_takes_expired_lock_and_first_holder_notices(
    take: Take, tmp_path: Path, on_machine: Callable[[str], None]
) -> None:
    first = take()
    first.renew()
    assert first.held
    grow_old(tmp_path / "lock", OLD_AFTER + 1)
    on_machine("b")
    second = take()
    on_machine("a")
    first.renew()
    on_machine("b")
    second.renew()
    assert (first.held, second.held) == (False, True)


def test_lock_is_renewed_while_held(take: Take, tmp_path: Path, on_machine: Callable[[str], None]) -> None:
    lock = take()
    grow_old(tmp_path / "lock", OLD_AFTER)
    before = (tmp_path / "lock").stat().st_mtime
    lock.renew()
    assert (tmp_path / "lock").stat().st_mtime > before + OLD_AFTER - 5


def test_without_flock_living_local_process_keeps_the_lock(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        with pytest.raises(DataDirInUse, match=f"origin .process {process.pid}."):
            take()
        process.kill()
        process.wait()
    assert take().held
