"""Shardcast from Python: an origin or a middle in a child process, and a client in the caller's own.

The names, parameters and positions of shardcast 0.1.0 work unchanged.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.secret import Secret
from shardcast.api.archive import Archive
from shardcast.api.broadcasting import Broadcast, BroadcastProgress
from shardcast.api.client import ClientNode, Followed
from shardcast.api.middle import MiddleNode
from shardcast.api.nodes import Metadata, OriginServer, StrPath
from shardcast.api.remote_broadcast import RemoteBroadcast
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.control.waiting import check_wait
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import NotInitialized, ShardcastError, UsageError
from shardcast.protocol.distribution import Withdrawal

log = logging.getLogger("shardcast")

# The one origin of this process. A forked child sees it, can broadcast through it, and never ends it.
_lock = threading.RLock()  # reentrant: a signal handler may call shutdown()
_origin: OriginServer | None = None


def _after_fork() -> None:
    """Replace the lock in a forked child, since a thread of the parent may have held it at the fork."""
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
    tokens: StrPath | None = None,
    publish: bool = False,
    upload_limit: int | None = None,
    certificate: StrPath | None = None,
    key: StrPath | None = None,
    client_ca: StrPath | None = None,
) -> None:
    """Start an origin in a child process and wait until it listens.

    A second call warns and changes nothing; where the origin died, it starts the origin again.

    Args:
        data_dir: the folder that holds the versions; made where it is missing.
        port: TCP port to listen on; 0 picks a free one.
        max_distribution_folders: number of versions to keep.
        max_bytes: maximum bytes of all versions together; None for no maximum.
        first_version: smallest number of a new version, for a fresh data directory that continues where a
            lost one stopped.
        tokens: file of tokens (``shardcast token new``), of which each request needs one; None for the file
            that ``SHARDCAST_TOKENS`` names, or none.
        publish: whether the origin takes payloads from elsewhere (``broadcast(path, to=…)``).
        upload_limit: bytes a second to send at most; None for no limit.
        certificate: file (PEM) with the certificate of the node, which then speaks TLS; read again when it
            changes.
        key: file with its key; None where ``certificate`` has it too.
        client_ca: file with the CAs whose certificates clients must show; None where they need none.

    Raises:
        DataDirInUse: another process works on the data directory.
        LocalDiskError: the data directory can't be used, or the file of tokens can't be read.
        UsageError: a number, a limit or the file of tokens makes no sense.
        NodeFailed: the port is taken, or the process could not start.
    """
    global _origin
    with _lock:
        if _origin is not None:
            if not _origin.restart_if_dead():
                log.warning("shardcast is already initialized with %s; nothing was changed", _origin.data_dir)
            return
        _origin = OriginServer(
            data_dir,
            port,
            max_distribution_folders,
            max_bytes,
            first_version=first_version,
            tokens=tokens,
            publish=publish,
            upload_limit=upload_limit,
            certificate=certificate,
            key=key,
            client_ca=client_ca,
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
    to: str | None = ...,
    token: str | None = ...,
    live: bool = ...,
    exclude: Sequence[str] = ...,
    mtimes: bool = ...,
    checksum: bool = ...,
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
    to: None = ...,
    exclude: Sequence[str] = ...,
    mtimes: bool = ...,
    checksum: bool = ...,
) -> Broadcast: ...
@overload
def broadcast(
    file_path: StrPath,
    shard_size: int | None = ...,
    *,
    wait: Literal[False],
    metadata: Metadata | None = ...,
    to: str,
    token: str | None = ...,
    live: bool = ...,
) -> RemoteBroadcast: ...
def broadcast(
    file_path: StrPath,
    shard_size: int | None = None,
    wait: bool = True,
    metadata: Metadata | None = None,
    copy: bool = True,
    *,
    copies: int | None = None,
    timeout: float | None = None,
    to: str | None = None,
    token: str | None = None,
    live: bool = False,
    exclude: Sequence[str] = (),
    mtimes: bool = True,
    checksum: bool = False,
) -> str | Broadcast | RemoteBroadcast:
    """Publish a file or a folder as the next version.

    Works from any thread, inside a running event loop, and from a forked worker. With ``to`` the file is sent
    to an origin elsewhere, and ``initialize`` is not needed. The version appears there once all bytes have
    come and their digest is right; a broken connection is gone on with, and a call for the same file goes on
    where an earlier one was killed.

    Args:
        file_path: the file or folder to publish. Receivers of earlier versions get a folder as a tar.
        shard_size: bytes of a shard; None for the origin's 50 000 000.
        wait: whether to wait until the version is complete.
        metadata: JSON object, at most 16 KiB, that goes with the version.
        copy: whether to store a copy. Without it the origin serves the file itself, linked or cloned into the
            data directory: write no more to it. A file that changes all the same has its version retired.
            A folder is copied all the same.
        copies: number of nodes below that must have the version whole and verified: middles, and clients that
            follow, not nodes of 0.4.0 and 0.1.0. None waits for no node.
        timeout: maximum seconds, from the call, until ``copies`` nodes have the version; None for no maximum.
        to: address of an origin with ``--publish``; None for the one that ``initialize`` started.
        token: with ``to``, the token to show there, of scope ``publish``; None for that of
            ``SHARDCAST_TOKEN_FILE`` or ``SHARDCAST_TOKEN``.
        live: with ``to``, whether the version opens at once and grows as the bytes come.
        exclude: patterns of the paths in a folder that are left out (``*.tmp``, ``logs/``, ``/a/**/b``),
            beside the lines of its file ``.shardcastignore``.
        mtimes: whether times of a folder's files are published; without them the same files give the same
            digest.
        checksum: whether to read all files of a folder. Without it those whose size, times and inode are as
            in the last version from there are not read where their bytes are not needed.

    Returns:
        The version's name, ``v7``. With ``wait=False``, at once, a handle: ``.version``, ``.done()``,
        ``.result(timeout)``, ``.progress``. Its ``result`` waits for the copies, and
        ``handle.wait_for(copies=…)`` for another number of them. With ``to`` the handle's
        ``.version`` is None until the origin has given it, and the handle has ``.cancel()``.

    Raises:
        NotInitialized: ``initialize`` was not called, and there is no ``to``.
        UsageError: the number of copies or of seconds makes no sense, or an argument does not go with ``to``.
        PayloadMissing: there is no such file.
        LocalDiskError: the file can't be read or stored.
        CopiesMissing: fewer nodes have the version in time; it stays published.
        NodeFailed: the origin has ended, and could not be started again.
        AccessDenied: the origin at ``to`` wants a token, or one of scope ``publish``.
        UploadRefused: the origin at ``to`` takes no uploads, or not this one.
        IntegrityError: the origin at ``to`` received other bytes; nothing was published.
        PeerError: the origin at ``to`` could not be reached for too long.
    """
    shown, token = None if token is None else Secret(token), None  # out of sight of tracebacks
    if to is not None:
        if copies is not None or timeout is not None or not copy or exclude or not mtimes or checksum:
            raise UsageError("copies, timeout, copy=False, exclude, mtimes and checksum do not go with to=")
        credentials = None if shown is None else Credentials.from_text(shown, "the token")
        access = ClientAccess.from_environment(credentials)
        path = Path(file_path).absolute()
        sent = RemoteBroadcast(path, to, shard_size, metadata, live=live, access=access)
        return sent.result() if wait else sent
    if live or shown is not None:
        raise UsageError("live=True and token= go with to=; here, open_broadcast() is live")
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.broadcast()")
    if wait:
        return origin.broadcast(
            file_path,
            shard_size,
            metadata=metadata,
            copy=copy,
            copies=copies,
            timeout=timeout,
            exclude=exclude,
            mtimes=mtimes,
            checksum=checksum,
        )
    return origin.broadcast(
        file_path,
        shard_size,
        wait=False,
        metadata=metadata,
        copy=copy,
        copies=copies,
        timeout=timeout,
        exclude=exclude,
        mtimes=mtimes,
        checksum=checksum,
    )


def open_broadcast(
    name: str, shard_size: int | None = None, metadata: Metadata | None = None
) -> BroadcastWriter:
    """Open the next version for writing; each shard goes out as soon as it is full.

    Leaving the ``with`` block completes the version; an exception in it aborts the version everywhere::

        with shardcast.open_broadcast("step-1200.safetensors", metadata={"step": 1200}) as out:
            torch.save(model, out)

    Args:
        name: name of the version's file.
        shard_size: bytes of a shard; None for the origin's 50 000 000.
        metadata: JSON object, at most 16 KiB, that goes with the version.

    Returns:
        A binary file to write to.

    Raises:
        NotInitialized: ``initialize`` was not called.
        NodeFailed: the origin has ended.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.open_broadcast()")
    return origin.open_broadcast(name, shard_size, metadata)


def withdraw(version: str, reason: str = "") -> Withdrawal:
    """Withdraw a version that this process's origin published.

    Within a second a hop no node offers the version any more, and followers go back to their newest good one.
    Downloaded files stay; the number is never used again.

    Args:
        version: the version's name, ``v7``.
        reason: one line of at most 500 characters for those that follow.

    Returns:
        The withdrawal, with the version's digest.

    Raises:
        NotInitialized: ``initialize`` was not called.
        UsageError: ``version`` is no version's name, or ``reason`` does not fit.
        VersionNotOffered: the origin does not have the version.
        NodeFailed: the origin has ended.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.withdraw()")
    return origin.withdraw(version, reason)


def shutdown(wait: float | None = None) -> None:
    """End the origin that ``initialize`` started; also called when the interpreter exits.

    The nodes below get the newest version first: the origin goes on until every node that reported in the
    last 20 s has it, or, where no node reports, until no byte was read for 5 s; 60 s at most. It ends at once
    when no node has read or reported in the last minute, and at an exit after an uncaught exception. An
    exception (Ctrl-C) ends the wait, and the origin with it.

    Args:
        wait: seconds for which the origin goes on at least; 0 ends it at once. Nodes of 0.1.0 need 40, since
            they look every 30 s and don't report. None for the rules above alone.

    Raises:
        UsageError: ``wait`` is no number of seconds.
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
    """End the origin as the interpreter exits, without a wait where an exception ended the program."""
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
    "RemoteBroadcast",
    "ShardcastError",
    "broadcast",
    "initialize",
    "open_broadcast",
    "shutdown",
    "withdraw",
]
