"""An origin in a child process, which ends with the caller's process."""

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
    """Origin in a child process, which ends with the caller's process.

    A child that dies is started again, on the same port, by the next broadcast of this process, or of one
    that is attached to it.

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
    ) -> None:
        """Start the origin and wait until it listens, or attach to the one that runs on the data directory.

        Args:
            data_dir: the folder that holds the versions; made where it is missing.
            port: TCP port to listen on; 0 picks a free one. None for 8000, or the port of an origin that
                runs.
            max_distribution_folders: number of versions to keep; None for 15, or the number of an origin that
                runs.
            max_bytes: maximum bytes of all versions together; None for no maximum.
            attach: whether to use the origin that runs on the data directory, whoever started it. A process
                that descends from its starter does so in any case.
            first_version: smallest number of a new version, for a fresh data directory that continues where a
                lost one stopped.
            tokens: file of tokens, of which each request needs one; None for the file that
                ``SHARDCAST_TOKENS`` names, or none.
            publish: whether the origin takes payloads from elsewhere.
            upload_limit: bytes a second to send at most; None for no limit.
            site: name of the site of this machine; None to guess it from the address that a node reaches.
            certificate: file (PEM) with its certificate: speak TLS. Read again when it changes.
            key: file with its key; None where ``certificate`` has it too.
            client_ca: file with the CAs whose certificates clients must show; None for none.

        Raises:
            DataDirInUse: another process works on the data directory.
            LocalDiskError: the data directory, or a file of the certificates or tokens, can't be used.
            UsageError: a number, a limit, the tokens or the certificates make no sense, or differ from those
                of the origin that runs.
            NodeFailed: the port is taken, or the process could not start.
        """
        if not 1 <= first_version <= MAX_VERSION:
            raise UsageError(f"a first version of {first_version!r} makes no sense; choose 1 or more")
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
        settings = OriginSettings(port, max_distribution_folders, options, attach)
        self._process = OriginProcess(Path(self.data_dir), settings)

    @property
    def port(self) -> int:
        """TCP port that the origin listens on."""
        return self._process.port

    @property
    def is_attached(self) -> bool:
        """Whether the origin is another process's, which ``shutdown`` leaves running."""
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
            metadata: JSON object, at most 16 KiB, that goes with the version.
            copy: whether to store a copy; else the file itself is served and must not change.
            tags: names of the version beside its number (``step-1200``, ``best``), for receivers to ask for.
            copies: number of nodes below that must have the version; None waits for no node.
            timeout: maximum seconds, from the call, until they have it; None for no maximum.
            exclude: patterns of the paths in a folder that are left out.
            mtimes: whether times of a folder's files are published.
            checksum: whether to read all files of a folder, whatever their sizes and times say.
            progress: called with a ``Progress`` in a thread, as for ``shardcast.broadcast``.

        Returns:
            The version's name, or a handle with ``wait=False``.

        Raises:
            UsageError: the number of copies or of seconds makes no sense, or ``progress`` is neither a
                function nor True.
            PayloadMissing: there is no such file.
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
            metadata: JSON object, at most 16 KiB, that goes with the version.
            tags: names of the version beside its number.

        Returns:
            A binary file to write to.

        Raises:
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
            metadata: JSON object, at most 16 KiB, that goes with the version.
            tags: names of the version beside its number.

        Returns:
            The folder to write files into.

        Raises:
            NodeFailed: the origin has ended, and could not be started again.
        """
        data_dir, size, values = Path(self.data_dir), shard_size_of(shard_size), add_tags(metadata, tags)
        return self._process.restarting(lambda: FolderWriter(data_dir, name, size, values))

    def withdraw(self, version: str, reason: str = "") -> Withdrawal:
        """Withdraw a version; see ``shardcast.withdraw``.

        Args:
            version: the version's name, ``v7``.
            reason: one line of at most 500 characters for those that follow.

        Returns:
            The withdrawal, with the version's digest.

        Raises:
            UsageError: ``version`` is no version's name, or ``reason`` does not fit.
            VersionNotOffered: the origin does not have the version.
            NodeFailed: the origin has ended, and could not be started again.
        """
        return self._process.restarting(lambda: withdraw(Path(self.data_dir), version, reason))

    def restart_if_dead(self) -> bool:
        """Start the origin again on the same port if it has died; see ``OriginProcess.restart_if_dead``.

        Returns:
            Whether this process started it again.

        Raises:
            NodeFailed: it has died again within a minute, was shut down, or can't be started.
            DataDirInUse: another process has taken the data directory meanwhile.
        """
        return self._process.restart_if_dead()

    def shutdown(self, wait: float | None = None) -> None:
        """End the origin, unless it is another process's; its versions stay in the data directory.

        The origin first serves the nodes below: until every node that reported in the last 20 s has the
        newest version, or, where no node reports, until no byte was read for 5 s; 60 s at most. It ends at
        once when no node has read or reported in the last minute.

        Args:
            wait: seconds for which the origin goes on at least; 0 ends it at once. Nodes of 0.1.0 need 40,
                since they look every 30 s and don't report. None for the rules above alone.

        Raises:
            UsageError: ``wait`` is no number of seconds.
        """
        check_wait(wait)
        self._process.stop(wait)
