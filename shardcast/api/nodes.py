"""An origin in a child process, ended with the caller's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from shardcast.api.broadcasting import Broadcast
from shardcast.api.file_options import file_options
from shardcast.api.open_folder import FolderWriter
from shardcast.api.origin_process import OriginProcess
from shardcast.api.origin_settings import OriginSettings
from shardcast.api.publishing import ByteSize, LocalPayload, Metadata, StrPath, publish_payload
from shardcast.control.client import withdraw
from shardcast.control.waiting import check_wait
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import UsageError
from shardcast.nodes.sharing_settings import checked_site
from shardcast.policy.byte_limit import Rates
from shardcast.progress import OnProgress
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.tags import add_tags
from shardcast.protocol.wire import MAX_VERSION
from shardcast.sizes import shard_size_of


class OriginServer:
    """Origin in a child process, ended with the caller's process.

    If the child dies, the next broadcast of this process or an attached one starts it again on the same port.

    Attributes:
        data_dir: the data directory, absolute.
    """

    def __init__(
        self,
        data_dir: StrPath,
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
        """Start the origin and wait until it listens, or attach to an origin running on the data directory.

        Args:
            data_dir: the folder of the versions; made if missing.
            port: TCP port to listen on; 0 picks a free one. None for 8000, or the port of a running origin.
            max_distribution_folders: number of versions to keep; None for 15, or the number of a running
                origin.
            max_bytes: maximum bytes of all versions together; None for no maximum.
            attach: whether to use an origin running on the data directory, started by any program. A
                descendant of its starter does so in any case.
            first_version: smallest number of a new version, for a fresh data directory to continue the
                numbers of a lost one.
            tokens: file of tokens, one of them required for each request; None for the file named by
                ``SHARDCAST_TOKENS``, or none.
            publish: whether the origin accepts payloads from elsewhere.
            upload_limit: maximum bytes a second sent; None for no limit.
            site: name of the site of this machine; None to guess the site from the address a node reaches.
            certificate: file (PEM) with the certificate of the origin, to speak TLS; read again after
                changes.
            key: file with the certificate's key; None if ``certificate`` also has the key.
            client_ca: file with CAs, for certificates required from clients; None to require none.
            log: whether the lines of the origin's log go through ``logging`` here, as for ``initialize``.

        Raises:
            DataDirInUse: another process works on the data directory.
            LocalDiskError: the data directory, or a file of the certificates or tokens, can't be used.
            UsageError: a number, a limit, the tokens or the certificates make no sense, or differ from those
                of the running origin.
            NodeFailed: the port is taken, or the process could not start.
        """
        if not 1 <= first_version <= MAX_VERSION:
            raise UsageError(
                f"first_version={first_version!r} is no number of a version; choose 1 to {MAX_VERSION}"
            )
        Rates(upload_limit).check()
        self.data_dir = str(Path(data_dir).absolute())
        files = {"tokens": tokens, "certificate": certificate, "key": key, "client_ca": client_ca}
        options: list[tuple[str, str | None]] = [("--max-bytes", str(max_bytes))] if max_bytes else []
        options += [("--first-version", str(first_version))] if first_version > 1 else []
        options += [("--upload-limit", str(upload_limit))] if upload_limit else []
        options += [("--site", checked_site(site))] if site is not None else []
        words = file_options(**files)
        options += zip(words[::2], words[1::2], strict=True)
        options += [("--publish", None)] if publish else []
        settings = OriginSettings(port, max_distribution_folders, options, attach, log)
        self._process = OriginProcess(Path(self.data_dir), settings)

    @property
    def port(self) -> int:
        """TCP port of the origin."""
        return self._process.port

    @property
    def is_attached(self) -> bool:
        """Whether another process started the origin; ``shutdown`` leaves it running then."""
        return self._process.is_attached

    @property
    def url(self) -> str:
        """Base URL of the node."""
        return self._process.url

    @overload
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: ByteSize | None = ...,
        wait: Literal[True] = ...,
        metadata: Metadata | None = ...,
        copy: bool = ...,
        *,
        tags: Sequence[str] = ...,
        copies: int | None = ...,
        timeout: float | None = ...,
        exclude: Sequence[str] = ...,
        mtimes: bool = ...,
        checksum: bool = ...,
        progress: OnProgress | bool | None = ...,
    ) -> str: ...
    @overload
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: ByteSize | None = ...,
        *,
        wait: Literal[False],
        metadata: Metadata | None = ...,
        copy: bool = ...,
        tags: Sequence[str] = ...,
        copies: int | None = ...,
        timeout: float | None = ...,
        exclude: Sequence[str] = ...,
        mtimes: bool = ...,
        checksum: bool = ...,
        progress: OnProgress | bool | None = ...,
    ) -> Broadcast: ...
    @overload
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: ByteSize | None = ...,
        wait: bool = ...,
        metadata: Metadata | None = ...,
        copy: bool = ...,
        *,
        tags: Sequence[str] = ...,
        copies: int | None = ...,
        timeout: float | None = ...,
        exclude: Sequence[str] = ...,
        mtimes: bool = ...,
        checksum: bool = ...,
        progress: OnProgress | bool | None = ...,
    ) -> str | Broadcast: ...
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: ByteSize | None = None,
        wait: bool = True,
        metadata: Metadata | None = None,
        copy: bool = True,
        *,
        tags: Sequence[str] = (),
        copies: int | None = None,
        timeout: float | None = None,
        exclude: Sequence[str] = (),
        mtimes: bool = True,
        checksum: bool = False,
        progress: OnProgress | bool | None = None,
    ) -> str | Broadcast:
        """Publish a file or a folder as the next version; see ``shardcast.broadcast``.

        Args:
            file_path: the file or folder to publish.
            shard_size: bytes of a shard, or ``50MB``; None for the origin's 50 000 000.
            wait: whether to wait until the version is complete.
            metadata: JSON object, at most 16 KiB, published with the version.
            copy: whether to store a copy; else the file itself is served and must not change.
            tags: names of the version beside its number (``step-1200``, ``best``), for receivers to ask for.
            copies: number of nodes below to wait for; None waits for no node.
            timeout: maximum seconds, from the call, until these nodes have the version; None for no maximum.
            exclude: patterns of paths in a folder to leave out.
            mtimes: whether to publish the times of a folder's files.
            checksum: whether to read all files of a folder, also those of unchanged size and times.
            progress: called with a ``Progress`` in a thread, as for ``shardcast.broadcast``.

        Returns:
            The version's name, or a handle with ``wait=False``.

        Raises:
            UsageError: the shard size, the metadata, a tag, a pattern, or the number of copies or of seconds
                makes no sense, ``progress`` is neither a function nor True, ``timeout`` is given without
                ``copies``, or ``exclude`` for a file.
            PayloadMissing: the file does not exist.
            PayloadChanged: the file changed while being read; no version was completed.
            LocalDiskError: the file can't be read or stored.
            CopiesMissing: fewer than ``copies`` nodes below have the version after ``timeout`` seconds.
            NodeFailed: the origin has ended, and could not be started again.
        """
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
        return publish_payload(
            Path(self.data_dir),
            payload,
            wait=wait,
            copies=copies,
            timeout=timeout,
            progress=progress,
            start=self._process.restarting,
        )

    def open_broadcast(
        self,
        name: str,
        shard_size: ByteSize | None = None,
        metadata: Metadata | None = None,
        *,
        tags: Sequence[str] = (),
    ) -> BroadcastWriter:
        """Open the next version for writing; see ``shardcast.open_broadcast``.

        Args:
            name: name of the version's file.
            shard_size: bytes of a shard, or ``50MB``; None for the origin's 50 000 000.
            metadata: JSON object, at most 16 KiB, published with the version.
            tags: names of the version beside its number.

        Returns:
            A binary file to write to.

        Raises:
            UsageError: the shard size, the metadata or a tag makes no sense.
            NodeFailed: the origin has ended, and could not be started again.
        """
        data_dir, size, values = Path(self.data_dir), shard_size_of(shard_size), add_tags(metadata, tags)
        return self._process.restarting(lambda: BroadcastWriter(data_dir, name, size, values))

    def open_broadcast_folder(
        self,
        name: str,
        shard_size: ByteSize | None = None,
        metadata: Metadata | None = None,
        *,
        tags: Sequence[str] = (),
    ) -> FolderWriter:
        """Open the next version as a folder to write files into; see ``shardcast.open_broadcast_folder``.

        Args:
            name: name of the folder.
            shard_size: bytes of a shard, or ``50MB``; None for the origin's 50 000 000.
            metadata: JSON object, at most 16 KiB, published with the version.
            tags: names of the version beside its number.

        Returns:
            The folder to write files into.

        Raises:
            UsageError: the name, the shard size, the metadata or a tag makes no sense.
            NodeFailed: the origin has ended and could not be started again, or is one of an earlier
                shardcast.
        """
        data_dir, size, values = Path(self.data_dir), shard_size_of(shard_size), add_tags(metadata, tags)
        return self._process.restarting(lambda: FolderWriter(data_dir, name, size, values))

    def withdraw(self, version: str, reason: str = "") -> Withdrawal:
        """Withdraw a version; see ``shardcast.withdraw``.

        Args:
            version: the version's name, ``v7``.
            reason: one line of at most 500 characters for the followers.

        Returns:
            The withdrawal, with the version's digest; of a version already withdrawn, the earlier one.

        Raises:
            UsageError: ``version`` is no version's name, or ``reason`` does not fit.
            VersionNotOffered: the origin has not published the version.
            NodeFailed: the origin has ended, and could not be started again.
        """
        return self._process.restarting(lambda: withdraw(Path(self.data_dir), version, reason))

    def restart_if_dead(self) -> bool:
        """Start a dead origin again on the same port; see ``OriginProcess.restart_if_dead``.

        Returns:
            Whether this process started the origin.

        Raises:
            NodeFailed: the origin has died again within a minute, was shut down, or cannot be started.
            DataDirInUse: another process has taken the data directory meanwhile.
        """
        return self._process.restart_if_dead()

    def shutdown(self, wait: float | None = None) -> None:
        """End the origin, unless another process started it; the versions stay in the data directory.

        The origin first serves the nodes below: until every node with a report in the last 20 s has the
        newest version, or, if no node reports, until no byte was read for 5 s; 60 s at most. The origin ends
        at once if no node has read or reported in the last minute.

        Args:
            wait: minimum seconds until the end; 0 ends the origin at once. Nodes of 0.1.0 need 40, since they
                poll every 30 s and do not report. None for the rules above alone.

        Raises:
            UsageError: ``wait`` is no number of seconds.
        """
        check_wait(wait)
        self._process.stop(wait)
