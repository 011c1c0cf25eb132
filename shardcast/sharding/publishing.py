"""A file or a stream ─▶ a version's manifest, after all shards are stored."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import BinaryIO

from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, PayloadChanged, PayloadMissing
from shardcast.file_identity import FileIdentity
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import MAX_SHARDS
from shardcast.sharding.chunk_source import ByteSource, at_end
from shardcast.sharding.cutter import cut
from shardcast.sharding.first_line import new_header
from shardcast.sharding.publication import (
    Cancelled,
    PayloadDescription,
    PublishProgress,
    ReserveBytes,
    reserve_freely,
)
from shardcast.store.open_version import OpenVersion

log = logging.getLogger(__name__)


def check_payload(path: Path) -> os.stat_result:
    """Return the state of a payload after checking that it can be published.

    Raises:
        PayloadMissing: the path does not exist.
        LocalDiskError: the path is neither a file nor a folder, or cannot be read.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise PayloadMissing(f"can't broadcast {path}: it does not exist") from None
    except OSError as error:
        raise LocalDiskError(f"can't broadcast {path}: {error.strerror}") from error
    is_folder = stat.S_ISDIR(found.st_mode)
    if not is_folder and not stat.S_ISREG(found.st_mode):
        raise LocalDiskError(f"can't broadcast {path}: it is not a file or a folder")
    if not os.access(path, os.R_OK | (os.X_OK if is_folder else 0)):
        raise LocalDiskError(f"can't broadcast {path}: no permission to read it")
    return found


def publish(
    path: Path,
    opened: OpenVersion,
    description: PayloadDescription,
    progress: PublishProgress,
    *,
    reserve: ReserveBytes = reserve_freely,
) -> Manifest:
    """Cut a file into the shards of an open version; blocks until they are durable.

    Without a copy (``description.copy``) the shards are parts of the file itself, if the file system can link
    or clone the file.

    Args:
        path: the file.
        opened: the version.
        description: how the file is cut and hashed.
        progress: updated continually.
        reserve: called with the file's size before reading.

    Returns:
        The version's manifest.

    Raises:
        NoRoom: the version may not take so many bytes.
        PayloadMissing: the file does not exist.
        PayloadChanged: the file changed meanwhile, or has another number of bytes than its size.
        LocalDiskError: the payload cannot be read, or the shards cannot be written.
        Cancelled: ``progress.cancelled`` was set.
    """
    reserve(check_payload(path).st_size)
    adopted = not description.copy and opened.adopt(path)
    if not description.copy and not adopted:
        log.warning("%s can't be linked into %s, and is copied", path, opened.place.folder)
    file = opened.adopted.path if adopted else path
    with disk_errors("could not read", path), file.open("rb", buffering=0) as payload:
        before = os.fstat(payload.fileno())
        progress.size = before.st_size
        if before.st_size > MAX_SHARDS * description.shard_size:
            raise LocalDiskError(f"can't broadcast {path}: more than {MAX_SHARDS} shards; raise --shard-size")
        header = new_header(description.name or path.name, before.st_size, opened.number, description)
        source = ByteSource(payload, before.st_size, description.shard_size, progress)
        manifest = cut(
            source, opened, header, description=description, progress=progress, reserve=reserve_freely
        )
        _check_whole(path, payload, before, progress.done)
        if adopted:
            opened.adopted.note_hashed(before)
    return manifest


def _check_whole(path: Path, payload: BinaryIO, before: os.stat_result, done: int) -> None:
    """Check that a payload was read to its end, and is unchanged since ``before``.

    Raises:
        PayloadChanged: the payload has more or fewer bytes than its size, or was written to meanwhile.
    """
    after = os.fstat(payload.fileno())
    if not FileIdentity.from_stat(after).same_content(FileIdentity.from_stat(before)):
        raise PayloadChanged(
            f"can't broadcast {path}: it changed while being read ({before.st_size} bytes before, "
            f"{after.st_size} after); write it elsewhere, rename it when it is whole, then broadcast it"
        )
    # Files made during reading (/proc, some FUSE file systems) have no size, or a wrong one.
    if done != before.st_size or not at_end(payload):
        more = f"gave {done}" if done < before.st_size else "has more"
        raise PayloadChanged(
            f"can't broadcast {path}: its size is said to be {before.st_size} bytes, and it {more}; it "
            "changed while it was read, or tells no size: then pipe it, cat … | shardcast broadcast -"
        )


def publish_stream(
    source: BinaryIO,
    name: str,
    opened: OpenVersion,
    description: PayloadDescription,
    *,
    progress: PublishProgress,
    reserve: ReserveBytes = reserve_freely,
) -> Manifest:
    """Cut the bytes of a pipe or a terminal into shards, on their arrival, to the end; see ``publish``.

    Args:
        source: the pipe, unbuffered.
        name: the payload's name in the manifest.
        opened: the version.
        description: how the payload is cut and hashed.
        progress: updated continually; its ``size`` is set at the end of the stream.
        reserve: called before each chunk is stored.

    Returns:
        The version's manifest.

    Raises:
        NoRoom: the version may not take so many bytes.
        LocalDiskError: the pipe cannot be read, or the shards cannot be written.
        Cancelled: ``progress.cancelled`` was set, even after the pipe's end.
    """
    header = new_header(name, None, opened.number, description)
    max_size = MAX_SHARDS * description.shard_size
    with disk_errors("could not read", Path(name)):
        chunks = ByteSource(source, max_size, description.shard_size, progress)
        manifest = cut(chunks, opened, header, description=description, progress=progress, reserve=reserve)
        if progress.done == max_size and progress.size != max_size and source.read(1):
            raise LocalDiskError(f"can't broadcast {name}: more than {MAX_SHARDS} shards; raise --shard-size")
    if progress.cancelled or progress.size not in (None, progress.done):
        raise Cancelled(f"the broadcast of {header.version} was cancelled")
    return manifest
