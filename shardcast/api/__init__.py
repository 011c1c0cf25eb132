"""Shardcast from Python: an origin or a middle beside the caller's process, and a client in it.

The names, parameters and positions of shardcast 0.1.0 work unchanged.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import Literal, overload

from shardcast.api.archive import Archive
from shardcast.api.broadcasting import Broadcast, BroadcastProgress
from shardcast.api.client import ClientNode, Followed
from shardcast.api.nodes import Metadata, MiddleNode, OriginServer, StrPath
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.distribution import Withdrawal
from shardcast.errors import NotInitialized, ShardcastError
from shardcast.peer.writer import BroadcastWriter

log = logging.getLogger("shardcast")

# The one origin of this process. A forked child sees it, can broadcast through it, and never ends it.
_lock = threading.Lock()
_origin: OriginServer | None = None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def initialize(
    data_dir: StrPath = "./data",
    port: int = HTTP_PORT,
    max_distribution_folders: int = MAX_DISTRIBUTION_FOLDERS,
    max_bytes: int | None = None,
) -> None:
    """Start an origin beside this process; a second call warns and changes nothing. It keeps so many
    versions, which take ``max_bytes`` together at the most.

    Raises:
        DataDirInUse, LocalDiskError, NodeFailed: as for ``OriginServer``.
    """
    global _origin
    with _lock:
        if _origin is not None:
            log.warning("shardcast is already initialized with %s; nothing was changed", _origin.data_dir)
            return
        _origin = OriginServer(data_dir, port, max_distribution_folders, max_bytes)
        atexit.register(shutdown)


@overload
def broadcast(
    file_path: StrPath,
    shard_size: int | None = ...,
    wait: Literal[True] = ...,
    metadata: Metadata | None = ...,
    copy: bool = ...,
) -> str: ...
@overload
def broadcast(
    file_path: StrPath,
    shard_size: int | None = ...,
    *,
    wait: Literal[False],
    metadata: Metadata | None = ...,
    copy: bool = ...,
) -> Broadcast: ...
def broadcast(
    file_path: StrPath,
    shard_size: int | None = None,
    wait: bool = True,
    metadata: Metadata | None = None,
    copy: bool = True,
) -> str | Broadcast:
    """Publish a file as the next version, in shards of ``shard_size`` bytes (50 000 000).

    From any thread, inside a running event loop, and from a forked worker. Returns the version's name when
    it is complete, or at once, with ``wait=False``, a handle: ``.version``, ``.done()``,
    ``.result(timeout)``, ``.progress``. ``metadata``, a JSON object, goes with the version. Without
    ``copy`` the file itself is served, linked or cloned into the data directory: write no more to it; a
    file that changes all the same has its version retired.

    Raises:
        NotInitialized: ``initialize`` was not called.
        PayloadMissing: there is no such file.
        LocalDiskError: it can't be read or stored.
        NodeFailed: the origin has ended.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.broadcast()")
    if wait:
        return origin.broadcast(file_path, shard_size, metadata=metadata, copy=copy)
    return origin.broadcast(file_path, shard_size, wait=False, metadata=metadata, copy=copy)


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


def shutdown() -> None:
    """End the origin that ``initialize`` started; also done when the interpreter exits."""
    global _origin
    with _lock:
        origin, _origin = _origin, None
        if origin is not None:
            atexit.unregister(shutdown)
            origin.shutdown()


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
