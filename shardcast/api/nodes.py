"""An origin in a child process, which ends with the caller's process."""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from shardcast.api.broadcasting import Broadcast
from shardcast.api.file_options import file_options
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.control.client import publish, withdraw
from shardcast.control.waiting import check_copies, check_wait, finish
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import NodeFailed, NoNode, ShardcastError, UsageError
from shardcast.folders.publishing import check_folder_options
from shardcast.folders.survey import SurveyRules
from shardcast.nodes.child_process import NodeProcess
from shardcast.policy.byte_limit import Rates
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import MAX_VERSION
from shardcast.sharding.publishing import check_payload

StrPath = str | os.PathLike[str]
Metadata = Mapping[str, Any]
T = TypeVar("T")

log = logging.getLogger("shardcast")

_RESTART_INTERVAL = 60.0
"""Seconds within which a dead origin is restarted only once."""
_DEATH_TIMEOUT = 1.0
"""Seconds to wait for the exit of a child whose socket failed, which comes a moment before."""


class OriginServer:
    """Origin in a child process, which ends with the caller's process.

    A child that dies is started again, on the same port, by the next broadcast of this process.

    Attributes:
        data_dir: the data directory, absolute.
        port: TCP port that the origin listens on.
    """

    def __init__(
        self,
        data_dir: StrPath,
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
        """Start the origin and wait until it listens.

        Args:
            data_dir: the folder that holds the versions; made where it is missing.
            port: TCP port to listen on; 0 picks a free one.
            max_distribution_folders: number of versions to keep.
            max_bytes: maximum bytes of all versions together; None for no maximum.
            first_version: smallest number of a new version, for a fresh data directory that continues where a
                lost one stopped.
            tokens: file of tokens, of which each request needs one; None for the file that
                ``SHARDCAST_TOKENS`` names, or none.
            publish: whether the origin takes payloads from elsewhere.
            upload_limit: bytes a second to send at most; None for no limit.
            certificate: file (PEM) with its certificate: speak TLS. Read again when it changes.
            key: file with its key; None where ``certificate`` has it too.
            client_ca: file with the CAs whose certificates clients must show; None for none.

        Raises:
            DataDirInUse: another process works on the data directory.
            LocalDiskError: the data directory, or a file of the certificates or tokens, can't be used.
            UsageError: a number, a limit, the tokens or the certificates make no sense.
            NodeFailed: the port is taken, or the process could not start.
        """
        if not 1 <= first_version <= MAX_VERSION:
            raise UsageError(f"a first version of {first_version!r} makes no sense; choose 1 or more")
        Rates(upload_limit).check()
        self.data_dir = str(Path(data_dir).absolute())
        self._options = ["--data-dir", self.data_dir, "--keep", str(max_distribution_folders)]
        self._options += ["--max-bytes", str(max_bytes)] if max_bytes else []
        self._options += ["--first-version", str(first_version)]
        self._options += ["--publish"] if publish else []
        self._options += ["--upload-limit", str(upload_limit)] if upload_limit else []
        self._options += file_options(tokens=tokens, certificate=certificate, key=key, client_ca=client_ca)
        self._process = NodeProcess("origin", [*self._options, "--port", str(port)])
        self._process.wait_until_listening()
        self.port = int(self._process.url.rsplit(":", 1)[1])
        # Reentrant: a signal handler may call shutdown() while its thread is starting the child again.
        self._starting = threading.RLock()
        self._restarted_at: float | None = None
        self._shut_down = False

    @property
    def url(self) -> str:
        """Base URL of the node."""
        return self._process.url

    @overload
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: int | None = ...,
        wait: Literal[True] = ...,
        metadata: Metadata | None = ...,
        copy: bool = ...,
        *,
        copies: int | None = ...,
        timeout: float | None = ...,
        exclude: Sequence[str] = ...,
        mtimes: bool = ...,
        checksum: bool = ...,
    ) -> str: ...
    @overload
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: int | None = ...,
        *,
        wait: Literal[False],
        metadata: Metadata | None = ...,
        copy: bool = ...,
        copies: int | None = ...,
        timeout: float | None = ...,
        exclude: Sequence[str] = ...,
        mtimes: bool = ...,
        checksum: bool = ...,
    ) -> Broadcast: ...
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: int | None = None,
        wait: bool = True,
        metadata: Metadata | None = None,
        copy: bool = True,
        *,
        copies: int | None = None,
        timeout: float | None = None,
        exclude: Sequence[str] = (),
        mtimes: bool = True,
        checksum: bool = False,
    ) -> str | Broadcast:
        """Publish a file or a folder as the next version; see ``shardcast.broadcast``.

        Args:
            file_path: the file or folder to publish.
            shard_size: bytes of a shard; None for the origin's 50 000 000.
            wait: whether to wait until the version is complete.
            metadata: JSON object, at most 16 KiB, that goes with the version.
            copy: whether to store a copy; else the file itself is served and must not change.
            copies: number of nodes below that must have the version; None waits for no node.
            timeout: maximum seconds, from the call, until they have it; None for no maximum.
            exclude: patterns of the paths in a folder that are left out.
            mtimes: whether times of a folder's files are published.
            checksum: whether to read all files of a folder, whatever their sizes and times say.

        Returns:
            The version's name, or a handle with ``wait=False``.

        Raises:
            UsageError: the number of copies or of seconds makes no sense.
            PayloadMissing: there is no such file.
            LocalDiskError: the file can't be read or stored.
            CopiesMissing: fewer than ``copies`` nodes below have the version after ``timeout`` seconds.
            NodeFailed: the origin has ended, and could not be started again.
        """
        path = Path(file_path).absolute()
        is_folder = stat.S_ISDIR(check_payload(path).st_mode)
        check_folder_options(path, is_folder, SurveyRules(tuple(exclude), mtimes))
        check_copies(copies, timeout)
        data_dir, started = Path(self.data_dir), time.monotonic()
        copies_of_handle = None if wait else copies

        def start() -> Broadcast:
            messages = publish(
                data_dir,
                path,
                shard_size,
                metadata=metadata,
                copy=copy,
                exclude=exclude,
                mtimes=mtimes,
                checksum=checksum,
            )
            return Broadcast(messages, data_dir, copies_of_handle, timeout)

        handle = self._restarting(start)
        if not wait:
            return handle
        if copies is None:
            return handle.result()
        remaining = None if timeout is None else max(0.0, started + timeout - time.monotonic())
        return handle.wait_for(copies, remaining)

    def open_broadcast(
        self, name: str, shard_size: int | None = None, metadata: Metadata | None = None
    ) -> BroadcastWriter:
        """Open the next version for writing; see ``shardcast.open_broadcast``.

        Args:
            name: name of the version's file.
            shard_size: bytes of a shard; None for the origin's 50 000 000.
            metadata: JSON object, at most 16 KiB, that goes with the version.

        Returns:
            A binary file to write to.

        Raises:
            NodeFailed: the origin has ended, and could not be started again.
        """
        return self._restarting(lambda: BroadcastWriter(Path(self.data_dir), name, shard_size, metadata))

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
        return self._restarting(lambda: withdraw(Path(self.data_dir), version, reason))

    def restart_if_dead(self) -> bool:
        """Start the child again on the same port if it has died.

        Only the process that started the child does that: a forked worker returns False.

        Returns:
            Whether it was started again.

        Raises:
            NodeFailed: it has died again within a minute, was shut down, or can't be started.
            DataDirInUse: another process has taken the data directory meanwhile.
        """
        if not self._process.is_owned:
            return False
        with self._starting:
            self._check_not_shut_down()
            cause = self._process.exit_reason(0)
            if cause is None:
                return False
            ago = math.inf if self._restarted_at is None else time.monotonic() - self._restarted_at
            if ago < _RESTART_INTERVAL:
                raise NodeFailed(
                    f"the origin of {self.data_dir} died again ({cause}), {ago:.0f} s after it was "
                    "restarted, and is not restarted twice in a minute; its log on stderr may tell why, or "
                    "the kernel's log, when memory ran out"
                )
            log.warning("the origin of %s has died (%s) and is started again", self.data_dir, cause)
            process = NodeProcess("origin", [*self._options, "--port", str(self.port)])
            process.wait_until_listening()
            self._process, self._restarted_at = process, time.monotonic()
            try:
                self._check_not_shut_down()  # a signal handler may have called shutdown() meanwhile
            except NodeFailed:
                process.stop()
                raise
            return True

    def _check_not_shut_down(self) -> None:
        """Check that ``shutdown`` was not called.

        Raises:
            NodeFailed: it was.
        """
        if self._shut_down:
            raise NodeFailed(f"the origin of {self.data_dir} was shut down")

    def _restarting(self, request: Callable[[], T]) -> T:
        """Return the result of ``request``, and repeat it once after a restart if the child dies of it.

        Raises:
            NodeFailed: the origin has ended and could not be started again, or not by this process.
            ShardcastError: whatever ``request`` raised.
        """
        self.restart_if_dead()
        try:
            return request()
        except NodeFailed as error:
            if not self._process.is_owned:
                if isinstance(error, NoNode):
                    raise NoNode(
                        f"the origin of {self.data_dir} has ended; only the process that started it "
                        f"({self._process.owner}) can start it again, by its next broadcast"
                    ) from error
                raise
            if self._process.exit_reason(_DEATH_TIMEOUT) is None:
                raise
        self.restart_if_dead()
        return request()

    def shutdown(self, wait: float | None = None) -> None:
        """End the origin; its versions stay in the data directory.

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
        if not self._process.is_owned:
            return
        try:
            with self._starting:
                self._shut_down = True
            if wait != 0 and self._process.running:
                finish(Path(self.data_dir), wait)
        except ShardcastError as error:
            log.debug("no wait for the nodes below: %s", error)
        finally:
            self._process.stop()
