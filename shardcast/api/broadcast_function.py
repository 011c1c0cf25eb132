"""``shardcast.broadcast``: publish at the origin of this process, of a data directory, or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.secret import Secret
from shardcast.api.broadcasting import Broadcast
from shardcast.api.current_origin import current_origin
from shardcast.api.publishing import ByteSize, LocalPayload, Metadata, StrPath, publish_payload
from shardcast.errors import UsageError
from shardcast.progress import OnProgress
from shardcast.protocol.tags import add_tags
from shardcast.sizes import shard_size_of

if TYPE_CHECKING:
    from shardcast.api.remote_broadcast import RemoteBroadcast


@overload
def broadcast(
    file_path: StrPath,
    shard_size: ByteSize | None = ...,
    wait: Literal[True] = ...,
    metadata: Metadata | None = ...,
    copy: bool = ...,
    *,
    tags: Sequence[str] = ...,
    copies: int | None = ...,
    timeout: float | None = ...,
    data_dir: StrPath | None = ...,
    to: str | None = ...,
    token: str | None = ...,
    live: bool = ...,
    exclude: Sequence[str] = ...,
    mtimes: bool = ...,
    checksum: bool = ...,
    progress: OnProgress | bool | None = ...,
) -> str: ...
@overload
def broadcast(
    file_path: StrPath,
    shard_size: ByteSize | None = ...,
    *,
    wait: Literal[False],
    metadata: Metadata | None = ...,
    copy: bool = ...,
    tags: Sequence[str] = ...,
    copies: int | None = ...,
    timeout: float | None = ...,
    data_dir: StrPath | None = ...,
    to: None = ...,
    exclude: Sequence[str] = ...,
    mtimes: bool = ...,
    checksum: bool = ...,
    progress: OnProgress | bool | None = ...,
) -> Broadcast: ...
@overload
def broadcast(
    file_path: StrPath,
    shard_size: ByteSize | None = ...,
    *,
    wait: Literal[False],
    metadata: Metadata | None = ...,
    tags: Sequence[str] = ...,
    to: str,
    token: str | None = ...,
    live: bool = ...,
    exclude: Sequence[str] = ...,
    mtimes: bool = ...,
    progress: OnProgress | bool | None = ...,
) -> RemoteBroadcast: ...
@overload
def broadcast(
    file_path: StrPath,
    shard_size: ByteSize | None = ...,
    wait: bool = ...,
    metadata: Metadata | None = ...,
    copy: bool = ...,
    *,
    tags: Sequence[str] = ...,
    copies: int | None = ...,
    timeout: float | None = ...,
    data_dir: StrPath | None = ...,
    to: str | None = ...,
    token: str | None = ...,
    live: bool = ...,
    exclude: Sequence[str] = ...,
    mtimes: bool = ...,
    checksum: bool = ...,
    progress: OnProgress | bool | None = ...,
) -> str | Broadcast | RemoteBroadcast: ...
def broadcast(
    file_path: StrPath,
    shard_size: ByteSize | None = None,
    wait: bool = True,
    metadata: Metadata | None = None,
    copy: bool = True,
    *,
    tags: Sequence[str] = (),
    copies: int | None = None,
    timeout: float | None = None,
    data_dir: StrPath | None = None,
    to: str | None = None,
    token: str | None = None,
    live: bool = False,
    exclude: Sequence[str] = (),
    mtimes: bool = True,
    checksum: bool = False,
    progress: OnProgress | bool | None = None,
) -> str | Broadcast | RemoteBroadcast:
    """Publish a file or a folder as the next version.

    Works from any thread, inside a running event loop, and from a forked worker. With ``to`` the file or
    folder is sent to an origin elsewhere, and ``initialize`` is not needed. The version appears there after
    all bytes have arrived with the right digest. A broken connection is resumed, and a call for the same
    payload resumes an earlier call that was killed.

    Args:
        file_path: the file or folder to publish. Receivers of earlier versions get a folder as a tar.
        shard_size: bytes of a shard, or ``50MB``; None for the origin's 50 000 000.
        wait: whether to wait until the version is complete.
        metadata: JSON object, at most 16 KiB, published with the version.
        copy: whether to store a copy. Without a copy the origin serves the file itself, linked or cloned into
            the data directory: do not write to the file any more. If the file changes all the same, the
            version is retired. For a folder this applies to files of 1 MiB and more.
        tags: names of the version beside its number (``step-1200``, ``best``), for receivers to ask for.
        copies: number of nodes below to wait for, until each has the version whole and verified: middles and
            following clients, not nodes of 0.4.0 and 0.1.0. None waits for no node.
        timeout: maximum seconds, from the call, until ``copies`` nodes have the version; None for no maximum.
        data_dir: data directory of an origin running on this machine, started by any program; ``initialize``
            is not needed then. None for the origin of ``initialize``.
        to: address of an origin with ``--publish``; None for the origin of ``initialize``.
        token: with ``to``, the token to show there, of scope ``publish``; None for the one in
            ``SHARDCAST_TOKEN_FILE`` or ``SHARDCAST_TOKEN``.
        live: with ``to``, whether the version opens at once and grows as the bytes arrive.
        exclude: patterns of paths in a folder to leave out (``*.tmp``, ``logs/``, ``/a/**/b``), beside the
            lines of the folder's file ``.shardcastignore``.
        mtimes: whether to publish the times of a folder's files; without times the same files give the same
            digest.
        checksum: whether to read all files of a folder. If not, a file with the same size, times and inode as
            in the last version is read only if its bytes are needed.
        progress: called with a ``Progress`` in a thread of the library, ten times a second at most, and once
            at the end. Its exception aborts the broadcast, unless the version is about to be complete, and is
            raised here or by the handle's ``result``. True shows a bar on stderr.

    Returns:
        The version's name, ``v7``. With ``wait=False``, at once, a handle: ``.version``, ``.done()``,
        ``.result(timeout)``, ``.progress``. ``result`` waits for the copies, and
        ``handle.wait_for(copies=…)`` for another number of copies. ``await handle`` gives the result,
        ``.add_done_callback(function)`` calls a function at the end, and ``.cancel()`` aborts the broadcast.
        With ``to``, ``.version`` is None until the origin has answered.

    Raises:
        NotInitialized: ``initialize`` was not called, and there is no ``data_dir`` and no ``to``.
        NoNode: no origin runs on ``data_dir``.
        UsageError: the shard size, the metadata, a tag, a pattern, or the number of copies or of seconds
            makes no sense, ``progress`` is neither a function nor True, or arguments don't go together
            (``copies`` with ``to``, ``token`` without ``to``, ``exclude`` with a file).
        PayloadMissing: the file does not exist.
        PayloadChanged: the file changed while being read; no version was completed.
        LocalDiskError: the file can't be read or stored.
        CopiesMissing: fewer nodes have the version in time; the version stays published.
        NodeFailed: the origin has ended, and could not be started again.
        AccessDenied: the origin at ``to`` requires a token of scope ``publish``.
        UploadRefused: the origin at ``to`` accepts no uploads, or not this one.
        IntegrityError: the origin at ``to`` received other bytes; nothing was published.
        PeerError: the origin at ``to`` could not be reached for too long.
    """
    shown, token = None if token is None else Secret(token), None  # out of sight of tracebacks
    if to is not None:
        # Here, since aiohttp comes with it: a program that publishes on its own machine has no use for that.
        from shardcast.api.remote_broadcast import RemoteBroadcast

        local = (
            copies,
            timeout,
            data_dir,
            not copy or None,
            checksum or None,
        )
        if any(value is not None for value in local):
            raise UsageError("copies, timeout, data_dir, copy=False and checksum do not go with to=")
        credentials = None if shown is None else Credentials.from_text(shown, "the token")
        access = ClientAccess.from_environment(credentials)
        path = Path(file_path).absolute()
        sent = RemoteBroadcast(
            path,
            to,
            shard_size_of(shard_size),
            add_tags(metadata, tags),
            live=live,
            access=access,
            exclude=exclude,
            mtimes=mtimes,
            on_progress=progress,
        )
        return sent.result() if wait else sent
    if live or shown is not None:
        raise UsageError("live=True and token= go with to=; here, open_broadcast() is live")
    if data_dir is not None:
        payload = LocalPayload.checked(
            file_path,
            shard_size,
            metadata,
            tags=tags,
            copy=copy,
            exclude=exclude,
            mtimes=mtimes,
            checksum=checksum,
        )
        where = Path(data_dir).absolute()
        return publish_payload(where, payload, wait=wait, copies=copies, timeout=timeout, progress=progress)
    return current_origin("broadcast", ", or give data_dir=").broadcast(
        file_path,
        shard_size,
        wait,
        metadata=metadata,
        tags=tags,
        copy=copy,
        copies=copies,
        timeout=timeout,
        exclude=exclude,
        mtimes=mtimes,
        checksum=checksum,
        progress=progress,
    )
