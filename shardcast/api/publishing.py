"""Publishing of a payload through the origin of a data directory."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardcast.api.broadcasting import Broadcast
from shardcast.control.client import ChangeRequest, publish
from shardcast.control.waiting import check_copies
from shardcast.folders.publishing import check_folder_options
from shardcast.folders.survey import SurveyRules
from shardcast.progress import OnProgress, checked_progress
from shardcast.progress_bar import ProgressBar
from shardcast.protocol.tags import add_tags
from shardcast.sharding.publishing import check_payload
from shardcast.sizes import shard_size_of

StrPath = str | os.PathLike[str]
Metadata = Mapping[str, Any]
ByteSize = int | str
"""Bytes as a number, or as people write them: ``50MB``."""


@dataclass(frozen=True)
class LocalPayload:
    """A file or folder to publish, and how.

    Attributes:
        path: the file or folder, absolute.
        shard_size: bytes of a shard; None for the origin's own.
        metadata: JSON object published with the version.
        copy: whether to store a copy.
        exclude: patterns of paths in a folder to leave out.
        mtimes: whether to publish the times of a folder's files.
        checksum: whether to read all files of a folder.
    """

    path: Path
    shard_size: int | None
    metadata: Metadata | None
    copy: bool
    exclude: tuple[str, ...]
    mtimes: bool
    checksum: bool

    @classmethod
    def checked(
        cls,
        path: StrPath,
        shard_size: ByteSize | None,
        metadata: Metadata | None,
        *,
        tags: Sequence[str],
        copy: bool,
        exclude: Sequence[str],
        mtimes: bool,
        checksum: bool,
    ) -> LocalPayload:
        """Return a payload after checking its options.

        Raises:
            PayloadMissing: the file does not exist.
            LocalDiskError: the file cannot be read.
            UsageError: an option needs a folder or makes no sense.
        """
        absolute = Path(path).absolute()
        is_folder = stat.S_ISDIR(check_payload(absolute).st_mode)
        check_folder_options(absolute, is_folder, SurveyRules(tuple(exclude), mtimes))
        return cls(
            absolute,
            shard_size_of(shard_size),
            add_tags(metadata, tags),
            copy,
            tuple(exclude),
            mtimes,
            checksum,
        )


def publish_payload(
    data_dir: Path,
    payload: LocalPayload,
    *,
    wait: bool,
    copies: int | None,
    timeout: float | None,
    progress: OnProgress | bool | None = None,
    start: Callable[[Callable[[], Broadcast]], Broadcast] = lambda begin: begin(),
) -> str | Broadcast:
    """Publish a payload, and wait for the version, or return a handle.

    Args:
        data_dir: the origin's.
        payload: the payload.
        wait: whether to wait until the version is complete, and for the copies.
        copies: number of nodes below to wait for; None for none.
        timeout: maximum seconds until these nodes have the version; None for no maximum.
        progress: called with the progress, in a thread; True for a bar.
        start: gets a function that starts the broadcast, and calls it, perhaps a second time.

    Raises:
        UsageError: the number of copies or of seconds makes no sense, or ``progress`` is neither a function
            nor True.
        ShardcastError: publishing failed.
    """
    check_copies(copies, timeout)
    started, on_progress = time.monotonic(), checked_progress(progress)
    if on_progress is True:
        ProgressBar()  # fails before anything is published
    copies_of_handle = None if wait else copies

    def begin() -> Broadcast:
        requests: list[ChangeRequest] = []
        messages = publish(
            data_dir,
            payload.path,
            payload.shard_size,
            metadata=payload.metadata,
            copy=payload.copy,
            exclude=payload.exclude,
            mtimes=payload.mtimes,
            checksum=payload.checksum,
            take_request=requests.append,
        )
        return Broadcast(
            messages,
            data_dir,
            copies_of_handle,
            timeout,
            break_off=lambda: requests[0].cancel(),
            on_progress=on_progress,
        )

    handle = start(begin)
    if not wait:
        return handle
    if copies is None:
        return handle.result()
    remaining = None if timeout is None else max(0.0, started + timeout - time.monotonic())
    return handle.wait_for(copies, remaining)
