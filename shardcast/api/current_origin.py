"""The one origin of this process, which the functions of the package use: ``initialize`` to ``shutdown``."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Sequence

from shardcast.api.nodes import OriginServer
from shardcast.api.open_folder import FolderWriter
from shardcast.api.publishing import ByteSize, Metadata, StrPath
from shardcast.control.waiting import check_wait
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import NotInitialized
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
    port: int | None = None,
    max_distribution_folders: int | None = None,
    max_bytes: int | None = None,
    *,
    attach: bool = False,
    first_version: int = 1,
    tokens: StrPath | None = None,
    publish: bool = False,
    upload_limit: int | None = None,
    site: str | None = None,
    certificate: StrPath | None = None,
    key: StrPath | None = None,
    client_ca: StrPath | None = None,
) -> None:
    """Start an origin in a child process and wait until it listens, or attach to the one that runs already.

    A process that descends from the origin's starter (a worker of ``multiprocessing``) attaches by itself;
    with ``attach`` so does any other: a second script, another rank on this machine. Of several that start at
    once, one starts the origin. An attached process never ends it. When it dies, the next broadcast of one
    attached process starts it again. A second call warns and changes nothing; where the origin died, it
    starts the origin again.

    Args:
        data_dir: the folder that holds the versions; made where it is missing.
        port: TCP port to listen on; 0 picks a free one. None for 8000, or the port of an origin that runs.
        max_distribution_folders: number of versions to keep; None for 15, or the number of an origin that
            runs.
        max_bytes: maximum bytes of all versions together; None for no maximum.
        attach: whether to use the origin that runs on the data directory, whoever started it.
        first_version: smallest number of a new version, for a fresh data directory that continues where a
            lost one stopped.
        tokens: file of tokens (``shardcast token new``), of which each request needs one; None for the file
            that ``SHARDCAST_TOKENS`` names, or none.
        publish: whether the origin takes payloads from elsewhere (``broadcast(path, to=…)``).
        upload_limit: bytes a second to send at most; None for no limit.
        site: name of the site of this machine; None to guess it from the address that a node reaches.
        certificate: file (PEM) with the certificate of the node, which then speaks TLS; read again when it
            changes.
        key: file with its key; None where ``certificate`` has it too.
        client_ca: file with the CAs whose certificates clients must show; None where they need none.

    Raises:
        DataDirInUse: another process works on the data directory.
        LocalDiskError: the data directory can't be used, or the file of tokens can't be read.
        UsageError: a number, a limit or the file of tokens makes no sense, or differs from those of the
            origin that runs.
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
            attach=attach,
            first_version=first_version,
            tokens=tokens,
            publish=publish,
            upload_limit=upload_limit,
            site=site,
            certificate=certificate,
            key=key,
            client_ca=client_ca,
        )
        atexit.register(_at_exit)


def current_origin(caller: str, otherwise: str = "") -> OriginServer:
    """Return the origin of this process.

    Raises:
        NotInitialized: there is none; the message names the ``caller``, and what it can do ``otherwise``.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized(f"call shardcast.initialize() before shardcast.{caller}(){otherwise}")
    return origin


def open_broadcast(
    name: str,
    shard_size: ByteSize | None = None,
    metadata: Metadata | None = None,
    *,
    tags: Sequence[str] = (),
) -> BroadcastWriter:
    """Open the next version for writing; each shard goes out as soon as it is full.

    Leaving the ``with`` block completes the version; an exception in it aborts the version everywhere::

        with shardcast.open_broadcast("model.pt", tags=["step-1200"]) as out:
            torch.save(model, out)

    Args:
        name: name of the version's file.
        shard_size: bytes of a shard; None for the origin's 50 000 000.
        metadata: JSON object, at most 16 KiB, that goes with the version.
        tags: names of the version beside its number, for receivers to ask for.

    Returns:
        A binary file to write to.

    Raises:
        NotInitialized: ``initialize`` was not called.
        NodeFailed: the origin has ended.
    """
    return current_origin("open_broadcast").open_broadcast(name, shard_size, metadata, tags=tags)


def open_broadcast_folder(
    name: str,
    shard_size: ByteSize | None = None,
    metadata: Metadata | None = None,
    *,
    tags: Sequence[str] = (),
) -> FolderWriter:
    """Open the next version as a folder; each file goes out when it is closed, or at once with its size.

    Leaving the ``with`` block completes the version; an exception in it aborts the version everywhere::

        with shardcast.open_broadcast_folder("step-1200") as folder:
            with folder.open("model-00001.safetensors", size=n) as file:
                file.write(data)
            folder.write("config.json", b"{}")
            folder.add("/data/tokenizer.json")

    Its files stand in the version in the order in which they were closed, at most 800 with their folders, so
    that the digest is another one than that of the folder broadcast whole.

    Args:
        name: name of the folder.
        shard_size: bytes of a shard; None for the origin's 50 000 000.
        metadata: JSON object, at most 16 KiB, that goes with the version.
        tags: names of the version beside its number, for receivers to ask for.

    Returns:
        The folder to write files into.

    Raises:
        NotInitialized: ``initialize`` was not called.
        NodeFailed: the origin has ended, or is one of an earlier shardcast.
    """
    origin = current_origin("open_broadcast_folder")
    return origin.open_broadcast_folder(name, shard_size, metadata, tags=tags)


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
    return current_origin("withdraw").withdraw(version, reason)


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
