"""The one origin of this process, used by the package's functions, from ``initialize`` to ``shutdown``."""

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

_log = logging.getLogger("shardcast")

# The one origin of this process. A forked child inherits the origin, can broadcast through it, but never ends
# it.
_lock = threading.RLock()  # reentrant: a signal handler may call shutdown()
_origin: OriginServer | None = None


def _after_fork() -> None:
    """Replace the lock in a forked child, since a thread of the parent may have held the lock at the fork."""
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
    log: bool = False,
) -> None:
    """Start an origin in a child process and wait until it listens, or attach to a running origin.

    A descendant of the origin's starter (a worker of ``multiprocessing``) attaches in any case; with
    ``attach`` any other process does so too: a second script, another rank on this machine. If several start
    at once, one of them starts the origin. An attached process never ends the origin. If the origin dies, the
    next broadcast of an attached process starts it again. A second call warns and changes nothing; if the
    origin has died, the call starts it again.

    Args:
        data_dir: the folder of the versions; made if missing.
        port: TCP port to listen on; 0 picks a free one. None for 8000, or the port of a running origin.
        max_distribution_folders: number of versions to keep; None for 15, or the number of a running origin.
        max_bytes: maximum bytes of all versions together; None for no maximum.
        attach: whether to use an origin running on the data directory, started by any program.
        first_version: smallest number of a new version, for a fresh data directory to continue the numbers of
            a lost one.
        tokens: file of tokens (``shardcast token new``), one of them required for each request; None for the
            file named by ``SHARDCAST_TOKENS``, or none.
        publish: whether the origin accepts payloads from elsewhere (``broadcast(path, to=…)``).
        upload_limit: maximum bytes a second sent; None for no limit.
        site: name of the site of this machine; None to guess the site from the address a node reaches.
        certificate: file (PEM) with the certificate of the node, to speak TLS; read again after changes.
        key: file with the certificate's key; None if ``certificate`` also has the key.
        client_ca: file with CAs, for certificates required from clients; None to require none.
        log: whether the lines of the origin's log go through ``logging`` of this process, under the names and
            levels that they have there; else they go to stderr. ``SHARDCAST_LOG_LEVEL`` says which there are.
            Handlers may block: then lines are dropped. An attached process gets them once it has started the
            origin again itself.

    Raises:
        DataDirInUse: another process works on the data directory.
        LocalDiskError: the data directory can't be used, or the file of tokens can't be read.
        UsageError: a number, a limit or the file of tokens makes no sense, or differs from those of the
            running origin.
        NodeFailed: the port is taken, or the process could not start.
    """
    global _origin
    with _lock:
        if _origin is not None:
            if not _origin.restart_if_dead():
                _log.warning(
                    "shardcast is already initialized with %s; nothing was changed", _origin.data_dir
                )
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
            log=log,
        )
        atexit.register(_at_exit)


def current_origin(caller: str, otherwise: str = "") -> OriginServer:
    """Return the origin of this process.

    Raises:
        NotInitialized: this process has no origin; the message names the ``caller``, and the alternative
            ``otherwise``.
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
    """Open the next version for writing; each shard is sent as soon as full.

    Leaving the ``with`` block completes the version; an exception there aborts the version everywhere::

        with shardcast.open_broadcast("model.pt", tags=["step-1200"]) as out:
            torch.save(model, out)

    Args:
        name: name of the version's file.
        shard_size: bytes of a shard; None for the origin's 50 000 000.
        metadata: JSON object, at most 16 KiB, published with the version.
        tags: names of the version beside its number, for receivers to ask for.

    Returns:
        A binary file to write to.

    Raises:
        NotInitialized: ``initialize`` was not called.
        UsageError: the shard size, the metadata or a tag makes no sense.
        NodeFailed: the origin has ended, and could not be started again.
    """
    return current_origin("open_broadcast").open_broadcast(name, shard_size, metadata, tags=tags)


def open_broadcast_folder(
    name: str,
    shard_size: ByteSize | None = None,
    metadata: Metadata | None = None,
    *,
    tags: Sequence[str] = (),
) -> FolderWriter:
    """Open the next version as a folder; each file is sent once closed, or at once if its size is known.

    Leaving the ``with`` block completes the version; an exception there aborts the version everywhere::

        with shardcast.open_broadcast_folder("step-1200") as folder:
            with folder.open("model-00001.safetensors", size=n) as file:
                file.write(data)
            folder.write("config.json", b"{}")
            folder.add("/data/tokenizer.json")

    The version has the files in the order of their closing; at most 800, including folders. So the digest
    differs from the digest of the same folder broadcast whole.

    Args:
        name: name of the folder.
        shard_size: bytes of a shard; None for the origin's 50 000 000.
        metadata: JSON object, at most 16 KiB, published with the version.
        tags: names of the version beside its number, for receivers to ask for.

    Returns:
        The folder to write files into.

    Raises:
        NotInitialized: ``initialize`` was not called.
        UsageError: the name, the shard size, the metadata or a tag makes no sense.
        NodeFailed: the origin has ended and could not be started again, or is one of an earlier shardcast.
    """
    origin = current_origin("open_broadcast_folder")
    return origin.open_broadcast_folder(name, shard_size, metadata, tags=tags)


def withdraw(version: str, reason: str = "") -> Withdrawal:
    """Withdraw a version published by this process's origin.

    Within a second a hop no node offers the version any more, and followers go back to their newest good one.
    Downloaded files stay; the number is never used again.

    Args:
        version: the version's name, ``v7``.
        reason: one line of at most 500 characters for the followers.

    Returns:
        The withdrawal, with the version's digest; of a version already withdrawn, the earlier one.

    Raises:
        NotInitialized: ``initialize`` was not called.
        UsageError: ``version`` is no version's name, or ``reason`` does not fit.
        VersionNotOffered: the origin has not published the version.
        NodeFailed: the origin has ended, and could not be started again.
    """
    return current_origin("withdraw").withdraw(version, reason)


def shutdown(wait: float | None = None) -> None:
    """End the origin of ``initialize``; also called when the interpreter exits.

    The nodes below get the newest version first: the origin goes on until every node with a report in the
    last 20 s has it, or, if no node reports, until no byte was read for 5 s; 60 s at most. The origin ends at
    once if no node has read or reported in the last minute, and at an exit after an uncaught exception. An
    exception (Ctrl-C) ends the wait and the origin.

    Args:
        wait: minimum seconds until the end; 0 ends the origin at once. Nodes of 0.1.0 need 40, since they
            poll every 30 s and do not report. None for the rules above alone.

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
        _log.warning("interrupted: the origin ended before the nodes below had the newest version")
