"""An origin or a middle in a child process, which ends with this one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from shardcast.addresses import server_urls
from shardcast.api.broadcasting import Broadcast
from shardcast.constants import CHECK_INTERVAL, HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.distribution import Withdrawal
from shardcast.nodes.process import NodeProcess
from shardcast.peer.control import publish, withdraw
from shardcast.peer.writer import BroadcastWriter
from shardcast.sharding.publishing import check_payload

StrPath = str | os.PathLike[str]
Metadata = Mapping[str, Any]


class OriginServer:
    """An origin in a child process, which ends with this one."""

    def __init__(
        self,
        data_dir: StrPath,
        port: int = HTTP_PORT,
        max_distribution_folders: int = MAX_DISTRIBUTION_FOLDERS,
        max_bytes: int | None = None,
    ) -> None:
        """Start it and wait until it listens; port 0 picks a free one. It keeps so many versions, which take
        ``max_bytes`` together at the most.

        Raises:
            DataDirInUse: another process works on the data directory.
            LocalDiskError: it can't be used.
            NodeFailed: the port is taken, or the process could not start.
        """
        self.data_dir = str(Path(data_dir).absolute())
        options = ["--data-dir", self.data_dir, "--port", str(port), "--keep", str(max_distribution_folders)]
        options += ["--max-bytes", str(max_bytes)] if max_bytes else []
        self._process = NodeProcess("origin", options)
        self.port = int(self._process.url.rsplit(":", 1)[1])

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
    ) -> Broadcast: ...
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: int | None = None,
        wait: bool = True,
        metadata: Metadata | None = None,
        copy: bool = True,
    ) -> str | Broadcast:
        """Publish a file as the next version; see ``shardcast.broadcast``.

        Raises:
            PayloadMissing: there is no such file.
            LocalDiskError: it can't be read or stored.
            NodeFailed: the origin has ended.
        """
        path = Path(file_path).absolute()
        check_payload(path)
        handle = Broadcast(publish(Path(self.data_dir), path, shard_size, metadata, copy))
        return handle.result() if wait else handle

    def open_broadcast(
        self, name: str, shard_size: int | None = None, metadata: Metadata | None = None
    ) -> BroadcastWriter:
        """Publish what is written to it as the next version; see ``shardcast.open_broadcast``."""
        return BroadcastWriter(Path(self.data_dir), name, shard_size, metadata)

    def withdraw(self, version: str, reason: str = "") -> Withdrawal:
        """Take a version back; see ``shardcast.withdraw``."""
        return withdraw(Path(self.data_dir), version, reason)

    def shutdown(self) -> None:
        """End the origin; what it published stays in the data directory."""
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
        self.port = int(self._process.url.rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._process.url

    def shutdown(self) -> None:
        """End the middle; what it keeps stays in the data directory."""
        self._process.stop()
