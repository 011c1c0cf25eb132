"""The lock of a data directory, also where the file system's locks reach one machine only.

::

    .shardcast/lock   {"role": "middle", "pid": 4711, "machine": "5f0c39d2a1b4e877"}

The file is locked (flock(2)). Where such a lock may not keep all machines away, as on a network file system,
the holder also renews the file's mtime, and no other process takes the directory before the mtime is old.
Times are compared as given by the file system, so the machines' clocks may differ.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from pathlib import Path

from shardcast.ages import age_of
from shardcast.disk_errors import error_text
from shardcast.errors import DataDirInUse
from shardcast.file_identity import FileIdentity
from shardcast.file_locks import (
    Lock,
    excludes_others,
    is_local,
    lock_holder,
    machine_id,
    open_lock_file,
    try_lock,
)
from shardcast.json_text import parse_json
from shardcast.open_files import close
from shardcast.temporary_files import create_private, temporary_name

log = logging.getLogger(__name__)

RENEWED_EVERY = 10.0
"""Seconds between two renewals where locks don't reach all machines."""
OLD_AFTER = 60.0
"""Seconds without a renewal until a directory is free, where a lock can't tell."""
_SETTLING = 1.0
"""Seconds after which two machines taking a directory at once see the last writer."""
_LOCK_SECONDS = 1.0
"""Seconds for a process from taking the lock to writing its name into the file."""
_LOOK_AGAIN = 0.01


class DirectoryLock:
    """A data directory's lock, held until ``release``."""

    def __init__(
        self,
        path: Path,
        root: Path,
        role: str,
        settling: float = _SETTLING,
        *,
        option: str = "--data-dir",
    ) -> None:
        """Take the lock.

        Args:
            path: the lock file.
            root: the data directory, for messages.
            role: the holder's role, for the messages of other processes.
            settling: seconds to wait for another machine taking the directory at once.
            option: the option of the directory, for messages.

        Raises:
            DataDirInUse: another process has the lock.
            OSError: the lock file can't be made or written.
        """
        self._path, self._root, self._role, self._option = path, root, role, option
        self._descriptor = open_lock_file(path)
        self._lost = False
        self._released = threading.Event()
        self._renewing: threading.Thread | None = None
        try:
            lock = self._lock()
            self._inode = FileIdentity.from_stat(os.fstat(self._descriptor)).file_key
            if lock is Lock.TAKEN and is_local(self._descriptor) and excludes_others(path):
                self._write()
            else:
                self._take_over(lock is Lock.TAKEN and excludes_others(path), settling)
        except BaseException:
            close(self._descriptor)
            raise

    @property
    def held(self) -> bool:
        """Whether the locked file is still at the path, and no other process has taken it over."""
        try:
            return FileIdentity.from_stat(self._path.stat()).file_key == self._inode and not self._lost
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock, and empty the file, unless another process took the directory over."""
        self._released.set()
        if self._renewing is not None:
            self._renewing.join()
        with contextlib.suppress(OSError):  # what it says counts no more, once nobody has it locked
            if not self._lost:
                os.ftruncate(self._descriptor, 0)
        close(self._descriptor)

    def _lock(self) -> Lock:
        """Lock the file; return whether the file system did.

        Raises:
            DataDirInUse: another process has locked the file.
        """
        deadline = time.monotonic() + _LOCK_SECONDS
        while (lock := try_lock(self._descriptor)) is Lock.HELD:
            role, pid, _ = self._read()
            if role or time.monotonic() >= deadline:
                raise self._in_use(role, pid)
            time.sleep(_LOOK_AGAIN)  # the holder has not written its name yet
        return lock

    def _take_over(self, keeps_machine_away: bool, settling: float) -> None:
        """Take a directory whose lock does not keep all machines away.

        Args:
            keeps_machine_away: whether the lock keeps other processes of this machine away.
            settling: seconds until the check for a later writer on another machine.

        Raises:
            DataDirInUse: another process has the directory.
        """
        role, pid, machine = self._read()
        if role and machine == machine_id():
            if not keeps_machine_away and pid != os.getpid() and _is_alive(pid):
                raise self._in_use(role, pid)
        elif role and self._age() < OLD_AFTER:
            raise self._in_use(role, pid, f" on another machine; if that has ended, wait {OLD_AFTER:.0f} s")
        self._write()
        time.sleep(settling)
        if not self._is_mine():
            role, pid, _ = self._read()
            raise self._in_use(role, pid)
        self._renewing = threading.Thread(target=self._keep_renewing, name="data-directory-lock", daemon=True)
        self._renewing.start()

    def renew(self) -> None:
        """Renew the file's mtime; if the file names another process, count the lock as lost.

        Raises:
            OSError: the lock file can't be read or written.
        """
        if self._is_mine():
            os.utime(self._path)
        else:
            self._lost = True  # only ever set, so that the other threads need no lock to read it

    def _keep_renewing(self) -> None:
        """Renew the lock until released or lost; in a thread of its own."""
        while not self._lost and not self._released.wait(RENEWED_EVERY):
            try:
                self.renew()
            except OSError as error:
                log.warning(
                    "could not renew the lock of %s; if this goes on for %.0f s, another machine may take "
                    "the directory: %s",
                    self._root,
                    OLD_AFTER,
                    error_text(error),
                )

    def _is_mine(self) -> bool:
        """Return whether the file still names this process.

        The file is opened anew, because over NFS only an open asks the server.
        """
        return self._read(self._path.read_bytes()) == (self._role, os.getpid(), machine_id())

    def _age(self) -> float:
        """Return the seconds since the last renewal, by the file system's clock.

        A renewal in the future, from a time with a wrong clock, is set back to now: the lock of an ended
        process grows old, and a living one renews the time.
        """
        probe = temporary_name(self._path)
        now = create_private(probe)
        try:
            return age_of(self._path, os.fstat(self._descriptor), lambda: os.fstat(now).st_mtime)
        finally:
            close(now)
            probe.unlink(missing_ok=True)

    def _read(self, record: bytes | None = None) -> tuple[str, int, str]:
        """Return the role, the process id and the machine in the file; empty without a named process."""
        try:
            holder = parse_json(os.pread(self._descriptor, 1000, 0) if record is None else record)
            return str(holder["role"]), int(holder["pid"]), str(holder.get("machine", ""))
        except (ValueError, KeyError, TypeError):
            return "", 0, ""

    def _write(self) -> None:
        """Write the name of this process into the file."""
        record = {"role": self._role, "pid": os.getpid(), "machine": machine_id()}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(record).encode(), 0)

    def _in_use(self, role: str, pid: int, where: str = "") -> DataDirInUse:
        """Return the error with the name of the directory's holder."""
        who = (
            f"a shardcast {role}{f' (process {pid})' if pid else ''}"
            if role
            else lock_holder(self._descriptor)
        )
        hint = f"stop it, or choose another {self._option}"
        return DataDirInUse(f"the data directory {self._root} is in use by {who}{where}; {hint}", role)


def _is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
