"""Stopping a running server from outside, found by its folder's lock or by its port."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from shardcast.backup.server.store_folder import ROLE, StoreFolder
from shardcast.disk_errors import disk_errors
from shardcast.errors import NodeFailed, UsageError
from shardcast.file_locks import Lock, machine_id, try_lock
from shardcast.json_text import parse_json
from shardcast.open_files import close

_POLL = 0.05
"""Seconds between two looks at the lock."""
_LISTENS = "0A"
"""The state of a listening socket in ``/proc/net/tcp``."""
_LOCK_FILE = "/.shardcast/lock"


def stop_server(folder: StoreFolder, patience: float) -> bool:
    """Stop the server of a folder, wait for its end, and return whether a server was running.

    The process is signalled only while it holds the folder's lock.

    Args:
        folder: the server's folder.
        patience: maximum seconds to wait for the end.

    Raises:
        NodeFailed: the server runs on another machine, another program holds the folder, or the server did
            not end in time.
        LocalDiskError: the lock cannot be read, or the process is another user's.
    """
    pid = running_server(folder)
    if pid is None:
        return False
    with disk_errors("could not stop the server of", folder.root), contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while running_server(folder) == pid:
        if time.monotonic() > deadline:
            raise NodeFailed(
                f"process {pid}, the server of {folder.root}, did not end in {patience:g} s; "
                "try again, or kill the process"
            )
        time.sleep(_POLL)
    return True


def running_server(folder: StoreFolder) -> int | None:
    """Return the process id of a folder's server; None without a server.

    Raises:
        NodeFailed: the server runs on another machine or as process 1, or another program holds the folder.
        LocalDiskError: the lock cannot be read.
    """
    with disk_errors("could not look at", folder.lock_file):
        try:
            descriptor = os.open(folder.lock_file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if try_lock(descriptor) is not Lock.HELD:
                return None
            record = os.pread(descriptor, 1000, 0)
        finally:
            close(descriptor)
    try:
        holder = parse_json(record)
        role, pid, machine = str(holder["role"]), int(holder["pid"]), str(holder["machine"])
    except (ValueError, KeyError, TypeError):
        raise NodeFailed(f"{folder.root} is held by an unknown process; try again") from None
    if role != ROLE:
        raise NodeFailed(f"{folder.root} is held by a {role}, not by a backup server")
    if machine != machine_id():
        raise NodeFailed(f"the backup server of {folder.root} runs on another machine; stop it there")
    if pid < 2:
        raise NodeFailed(
            f"the backup server of {folder.root} is process {pid}; stop its container or service instead"
        )
    return pid


def folder_of_port(port: int) -> StoreFolder | None:
    """Return the folder of this user's backup server listening on a port; None without such a server.

    The port leads to a process, and the process to its open lock file. No request is sent over the network:
    another program could answer with a wrong process.

    Raises:
        UsageError: this system does not tell which process listens.
    """
    if not Path("/proc/net/tcp").exists():
        raise UsageError(
            "this system does not tell which process listens on a port; name the server by --store_dir"
        )
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            links = _open_files(process)
            if sockets.intersection(links):
                for link in links:
                    if link.endswith(_LOCK_FILE):
                        return StoreFolder(Path(link.removesuffix(_LOCK_FILE)))
    return None


def _listening_inodes(port: int) -> set[str]:
    """Return the inodes of the sockets listening on a port (proc_net(5))."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(words[9])
    return found


def _open_files(process: Path) -> list[str]:
    """Return the open files of a process; none for other users' processes and ended ones."""
    found = []
    with contextlib.suppress(OSError):
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(entry.readlink()))
    return found
