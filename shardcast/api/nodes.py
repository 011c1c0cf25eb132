"""An origin or a middle in a child process, which ends with this one."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from shardcast.addresses import server_urls
from shardcast.api.broadcasting import Broadcast
from shardcast.constants import CHECK_INTERVAL, HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.control.client import publish, withdraw
from shardcast.control.waiting import check_copies, check_wait, finish
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import NodeFailed, NoNode, ShardcastError, UsageError
from shardcast.nodes.child_process import NodeProcess
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import MAX_VERSION
from shardcast.sharding.publishing import check_payload

StrPath = str | os.PathLike[str]
Metadata = Mapping[str, Any]
T = TypeVar("T")

log = logging.getLogger("shardcast")

_RESTART_INTERVAL = 60.0
"""Seconds within which an origin that dies is restarted once."""
_DEATH_SECONDS = 1.0
"""Seconds that a child whose socket fails has to be seen dead."""


class OriginServer:
    """An origin in a child process, which ends with this one."""

    def __init__(
        self,
        data_dir: StrPath,
        port: int = HTTP_PORT,
        max_distribution_folders: int = MAX_DISTRIBUTION_FOLDERS,
        max_bytes: int | None = None,
        *,
        first_version: int = 1,
    ) -> None:
        """Start it and wait until it listens; port 0 picks a free one. It keeps so many versions, which take
        ``max_bytes`` together at the most. ``first_version`` is the least number of a new version, for a
        fresh data directory that goes on where a lost one left off.

        A child that dies is started again, on the same port, by the next broadcast of this process.

        Raises:
            DataDirInUse: another process works on the data directory.
            LocalDiskError: it can't be used.
            UsageError: there is no such version number.
            NodeFailed: the port is taken, or the process could not start.
        """
        if not 1 <= first_version <= MAX_VERSION:
            raise UsageError(f"a first version of {first_version!r} makes no sense; choose 1 or more")
        self.data_dir = str(Path(data_dir).absolute())
        self._options = ["--data-dir", self.data_dir, "--keep", str(max_distribution_folders)]
        self._options += ["--max-bytes", str(max_bytes)] if max_bytes else []
        self._options += ["--first-version", str(first_version)]
        self._process = NodeProcess("origin", [*self._options, "--port", str(port)])
        self._process.wait_until_listening()
        self.port = int(self._process.url.rsplit(":", 1)[1])
        # Reentrant: a signal handler may call shutdown() while its thread is starting the child again.
        self._starting = threading.RLock()
        self._restarted_at: float | None = None
        self._shut_down = False

    @property
    def url(self) -> str:
        """Where it listens."""
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
    ) -> str | Broadcast:
        """Publish a file as the next version; see ``shardcast.broadcast``.

        Raises:
            PayloadMissing: there is no such file.
            LocalDiskError: it can't be read or stored.
            CopiesMissing: fewer than ``copies`` nodes below have it after ``timeout`` seconds.
            NodeFailed: the origin has ended, and could not be started again.
        """
        path = Path(file_path).absolute()
        check_payload(path)
        check_copies(copies, timeout)
        data_dir, begun = Path(self.data_dir), time.monotonic()
        told = None if wait else copies

        def begin() -> Broadcast:
            return Broadcast(
                publish(data_dir, path, shard_size, metadata=metadata, copy=copy), data_dir, told, timeout
            )

        handle = self._ask(begin)
        if not wait:
            return handle
        if copies is None:
            return handle.result()
        left = None if timeout is None else max(0.0, begun + timeout - time.monotonic())
        return handle.wait_for(copies, left)

    def open_broadcast(
        self, name: str, shard_size: int | None = None, metadata: Metadata | None = None
    ) -> BroadcastWriter:
        """Publish what is written to it as the next version; see ``shardcast.open_broadcast``."""
        return self._ask(lambda: BroadcastWriter(Path(self.data_dir), name, shard_size, metadata))

    def withdraw(self, version: str, reason: str = "") -> Withdrawal:
        """Take a version back; see ``shardcast.withdraw``."""
        return self._ask(lambda: withdraw(Path(self.data_dir), version, reason))

    def restart_if_dead(self) -> bool:
        """Start the child again if it has died, on the same port, and return whether that was needed.

        Raises:
            NodeFailed: it has died again within a minute, it was shut down, or it can't be started.
            DataDirInUse: another process has taken the data directory meanwhile.
        """
        if not self._process.owned:
            return False
        with self._starting:
            self._check_not_shut_down()
            how = self._process.died(0)
            if how is None:
                return False
            ago = math.inf if self._restarted_at is None else time.monotonic() - self._restarted_at
            if ago < _RESTART_INTERVAL:
                raise NodeFailed(
                    f"the origin of {self.data_dir} died again ({how}), {ago:.0f} s after it was restarted, "
                    "and is not restarted twice in a minute; its log on stderr may tell why, or the kernel's "
                    "log, when memory ran out"
                )
            log.warning("the origin of %s has died (%s) and is started again", self.data_dir, how)
            process = NodeProcess("origin", [*self._options, "--port", str(self.port)])
            process.wait_until_listening()
            self._process, self._restarted_at = process, time.monotonic()
            try:
                self._check_not_shut_down()  # by a signal handler, meanwhile
            except NodeFailed:
                process.stop()
                raise
            return True

    def _check_not_shut_down(self) -> None:
        if self._shut_down:
            raise NodeFailed(f"the origin of {self.data_dir} was shut down")

    def _ask(self, begin: Callable[[], T]) -> T:
        """Ask the origin to begin something, restarting a child that is dead, or that dies of it."""
        self.restart_if_dead()
        try:
            return begin()
        except NodeFailed as error:
            if not self._process.owned:
                if isinstance(error, NoNode):
                    raise NoNode(
                        f"the origin of {self.data_dir} has ended; only the process that started it "
                        f"({self._process.owner}) can start it again, by its next broadcast"
                    ) from error
                raise
            if self._process.died(_DEATH_SECONDS) is None:
                raise
        self.restart_if_dead()
        return begin()

    def shutdown(self, wait: float | None = None) -> None:
        """End the origin; what it published stays in the data directory.

        Before that it serves on for the nodes below, as long as is useful: until every node heard of in the
        last 20 s has the newest version, or until no byte was read for 5 s where no node reports, 60 s at
        most. It ends at once when nobody has read or reported in the last minute. ``wait=0`` ends it at
        once; ``wait=40`` goes on for at least 40 s, for nodes of 0.1.0, which look every 30 s and don't
        report.

        Raises:
            UsageError: that is no number of seconds.
        """
        check_wait(wait)
        if not self._process.owned:
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


class MiddleNode:
    """A middle in a child process, which ends with this one."""

    def __init__(
        self,
        upstream_servers: Sequence[str],
        data_dir: StrPath,
        port: int = HTTP_PORT,
        check_interval: float = CHECK_INTERVAL,
        max_bytes: int | None = None,
        *,
        origin_id: str | None = None,
    ) -> None:
        """Start it and wait until it listens. Upstreams that don't tell it of versions by themselves (old
        ones) are asked every ``check_interval`` seconds. Its versions take ``max_bytes`` together at most.
        ``origin_id``: the only line of versions to accept.

        Raises:
            UsageError: one of the upstreams is not an address.
            DataDirInUse, LocalDiskError, NodeFailed: as for ``OriginServer``.
        """
        self.upstream_servers = server_urls(upstream_servers)
        self.data_dir = str(Path(data_dir).absolute())
        self.check_interval = check_interval
        options = ["--upstream", ",".join(self.upstream_servers), "--data-dir", self.data_dir]
        options += ["--port", str(port), "--check-interval", str(check_interval)]
        options += ["--max-bytes", str(max_bytes)] if max_bytes else []
        options += ["--origin-id", origin_id] if origin_id is not None else []
        self._process = NodeProcess("middle", options)
        self._process.wait_until_listening()
        self.port = int(self._process.url.rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._process.url

    def shutdown(self) -> None:
        """End the middle; what it keeps stays in the data directory."""
        self._process.stop()
