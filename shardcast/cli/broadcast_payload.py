"""The payload of ``shardcast broadcast`` on this machine: a file, a folder, or stdin."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardcast.cli.streams import input_descriptor
from shardcast.folders.publishing import check_folder_options
from shardcast.folders.survey import SurveyRules
from shardcast.sharding.publishing import check_payload

if TYPE_CHECKING:
    from shardcast.nodes.publisher import PendingBroadcast, Publisher

_CHUNK = 1 << 20
"""Bytes read from stdin at a time."""


@dataclass(frozen=True)
class Payload:
    """A file or a folder to publish.

    Attributes:
        path: the file or folder, absolute.
        shard_size: bytes of a shard; None for the origin's own.
        copy: whether the store copies the bytes, instead of linking or cloning files.
        exclude: patterns of the paths to leave out of a folder.
        mtimes: whether times of a folder's files are published.
        checksum: whether to read all files of a folder.
        metadata: JSON object of the version; None for none.
    """

    path: Path
    shard_size: int | None
    copy: bool
    exclude: tuple[str, ...] = ()
    mtimes: bool = True
    checksum: bool = False
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the payload before anything starts.

        Raises:
            PayloadMissing: there is no such file or folder.
            LocalDiskError: the payload can't be read.
            UsageError: an option does not fit the payload, or a pattern is malformed.
        """
        found = check_payload(self.path)
        rules = SurveyRules(self.exclude, self.mtimes)
        check_folder_options(self.path, stat.S_ISDIR(found.st_mode), rules)

    @property
    def name(self) -> str:
        """Name of the version's file."""
        return self.path.name

    def publish_through_origin(self, data_dir: Path) -> Iterator[Mapping[str, Any]]:
        """Hand the payload to the origin on the data directory.

        Yields:
            The origin's messages: ``version`` first, then ``progress``.

        Raises:
            NoNode: no origin runs there.
            ShardcastError: publishing failed.
        """
        from shardcast.control.client import publish

        return publish(
            data_dir,
            self.path,
            self.shard_size,
            metadata=self.metadata,
            copy=self.copy,
            exclude=self.exclude,
            mtimes=self.mtimes,
            checksum=self.checksum,
        )

    async def publish_with(self, publisher: Publisher) -> PendingBroadcast:
        """Start to publish the payload with a publisher of this process."""
        return await publisher.publish(
            self.path,
            self.shard_size,
            metadata=self.metadata,
            copy=self.copy,
            exclude=self.exclude,
            mtimes=self.mtimes,
            checksum=self.checksum,
        )


@dataclass(frozen=True)
class Streamed:
    """A payload read from stdin.

    Attributes:
        name: name of the version's file.
        shard_size: bytes of a shard; None for the origin's own.
        metadata: JSON object of the version; None for none.
    """

    name: str
    shard_size: int | None
    metadata: Mapping[str, Any] | None = None

    def publish_through_origin(self, data_dir: Path) -> Iterator[Mapping[str, Any]]:
        """Write stdin to the origin on the data directory.

        Yields:
            Messages as the origin has them for a file: ``version`` first, then ``progress``.

        Raises:
            NoNode: no origin runs there.
            ShardcastError: publishing failed.
        """
        from shardcast.control.writer import BroadcastWriter

        with BroadcastWriter(data_dir, self.name, self.shard_size, self.metadata) as writer:
            yield {"version": writer.version}
            while chunk := os.read(input_descriptor(), _CHUNK):
                writer.write(chunk)
                writer.flush()
                done, size = writer.tell(), writer.shard_size
                yield {"progress": {"size": None, "done": done, "shards": done // size if size else None}}

    async def publish_with(self, publisher: Publisher) -> PendingBroadcast:
        """Start to publish stdin with a publisher of this process."""
        source = os.fdopen(os.dup(input_descriptor()), "rb", buffering=0)
        return await publisher.publish_stream(source, self.name, self.shard_size, metadata=self.metadata)
