"""Shardcast from Python: an origin or a middle beside the caller's process, and a client in it.

The names, parameters and positions of shardcast 0.1.0 work unchanged.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from typing import Literal, overload

from shardcast.api.archive import Archive
from shardcast.api.broadcasting import Broadcast, BroadcastProgress
from shardcast.api.client import ClientNode, Followed
from shardcast.api.nodes import Metadata, MiddleNode, OriginServer, StrPath
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.control.waiting import check_wait
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import NotInitialized, ShardcastError
from shardcast.protocol.distribution import Withdrawal

log = logging.getLogger("shardcast")

# The one origin of this process. A forked child sees it, can broadcast through it, and never ends it.
_lock = threading.RLock()  # reentrant: a signal handler may call shutdown()
_origin: OriginServer | None = None


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def initialize(
    data_dir: StrPath = "./data",
    port: int = HTTP_PORT,
    max_distribution_folders: int = MAX_DISTRIBUTION_FOLDERS,
    max_bytes: int | None = None,
    *,
    first_version: int = 1,
) -> None:
    """Start an origin beside this process; a second call warns and changes nothing. It keeps so many
    versions, which take ``max_bytes`` together at the most. ``first_version`` is the least number of a new
    version, for a fresh data directory that goes on where a lost one left off.

    An origin that died is started again, by this call too.

    Raises:
        DataDirInUse, LocalDiskError, UsageError, NodeFailed: as for ``OriginServer``.
    """
    global _origin
    with _lock:
        if _origin is not None:
            if not _origin.restart_if_dead():
                log.warning("shardcast is already initialized with %s; nothing was changed", _origin.data_dir)
            return
        _origin = OriginServer(
            data_dir, port, max_distribution_folders, max_bytes, first_version=first_version
        )
        atexit.register(_at_exit)


@overload
def broadcast(
    file_path: StrPath,
    shard_size: int | None = ...,
    wait: Literal[True] = ...,
    metadata: Metadata | None = ...,
    copy: bool = ...,
    *,
    copies: int | None = ...,
    timeout: float | None = ...,
) -> str: ...
@overload
def broadcast(
    file_path: StrPath,
    shard_size: int | None = ...,
    *,
    wait: Literal[False],
    metadata: Metadata | None = ...,
    copy: bool = ...,
    copies: int | None = ...,
    timeout: float | None = ...,
) -> Broadcast: ...
def broadcast(
    file_path: StrPath,
    shard_size: int | None = None,
    wait: bool = True,
    metadata: Metadata | None = None,
    copy: bool = True,
    *,
    copies: int | None = None,
    timeout: float | None = None,
) -> str | Broadcast:
    """Publish a file as the next version, in shards of ``shard_size`` bytes (50 000 000).

    From any thread, inside a running event loop, and from a forked worker. Returns the version's name when
    it is complete, or at once, with ``wait=False``, a handle: ``.version``, ``.done()``,
    ``.result(timeout)``, ``.progress``. ``metadata``, a JSON object, goes with the version. Without
    ``copy`` the file itself is served, linked or cloned into the data directory: write no more to it; a
    file that changes all the same has its version retired.

    With ``copies=3`` it returns when three nodes below have the version whole and verified: middles, and
    clients that follow, not nodes of 0.4.0 and 0.1.0. ``timeout`` bounds that, in seconds from the call.
    With ``wait=False`` the handle's ``result`` waits for them, and ``handle.wait_for(copies=…)`` for others.

    Raises:
        NotInitialized: ``initialize`` was not called.
        UsageError: the number of copies or of seconds makes no sense.
        PayloadMissing: there is no such file.
        LocalDiskError: it can't be read or stored.
        CopiesMissing: fewer nodes have it in time; it stays published.
        NodeFailed: the origin has ended, and could not be started again.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.broadcast()")
    if wait:
        return origin.broadcast(
            file_path, shard_size, metadata=metadata, copy=copy, copies=copies, timeout=timeout
        )
    return origin.broadcast(
        file_path, shard_size, wait=False, metadata=metadata, copy=copy, copies=copies, timeout=timeout
    )


def open_broadcast(
    name: str, shard_size: int | None = None, metadata: Metadata | None = None
) -> BroadcastWriter:
    """A file to write the next version to; ``name`` is what the version's file is called. Its shards go out
    as soon as they are full. Leaving the ``with`` block completes the version, an exception in it gives it
    up, everywhere::

        with shardcast.open_broadcast("step-1200.safetensors", metadata={"step": 1200}) as out:
            torch.save(model, out)

    Raises:
        NotInitialized: ``initialize`` was not called.
        NodeFailed: the origin has ended.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.open_broadcast()")
    return origin.open_broadcast(name, shard_size, metadata)


def withdraw(version: str, reason: str = "") -> Withdrawal:
    """Take a version back that this process's origin published: within a second a hop no node offers it any
    more, and followers go back to their newest good version. Files that were downloaded stay; the number is
    never used again. ``reason``, one line of at most 500 characters, is told to whoever follows.

    Raises:
        NotInitialized: ``initialize`` was not called.
        UsageError: ``version`` is no version's name, or ``reason`` does not fit.
        VersionNotOffered: the version is not there.
        NodeFailed: the origin has ended.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.withdraw()")
    return origin.withdraw(version, reason)


def shutdown(wait: float | None = None) -> None:
    """End the origin that ``initialize`` started; also done when the interpreter exits.

    The nodes below get the newest version first: the origin goes on until every node heard of in the last 20
    s has it, or until no byte was read for 5 s where no node reports, 60 s at most. It ends at once when
    nobody has read or reported in the last minute, with ``wait=0``, and at an exit after an uncaught
    exception. ``wait=40`` goes on for at least 40 s, for nodes of 0.1.0, which look every 30 s and don't
    report. An exception (Ctrl-C) ends the wait, and the origin with it.

    Raises:
        UsageError: that is no number of seconds.
    """
    global _origin
    check_wait(wait)
    with _lock:
        origin = _origin
        if origin is None:
            return
        _origin = None
        atexit.unregister(_at_exit)
    origin.shutdown(wait)  # without the lock, which a signal handler that calls this again would wait for


def _at_exit() -> None:
    interactive = hasattr(sys, "ps1") or sys.flags.interactive
    failed = getattr(sys, "last_type", None) is not None and not interactive
    try:
        shutdown(0 if failed else None)
    except KeyboardInterrupt:
        log.warning("interrupted: the origin ended before the nodes below had the newest version")


__all__ = [
    "Archive",
    "Broadcast",
    "BroadcastProgress",
    "ClientNode",
    "Followed",
    "MiddleNode",
    "OriginServer",
    "ShardcastError",
    "broadcast",
    "initialize",
    "open_broadcast",
    "shutdown",
    "withdraw",
]
