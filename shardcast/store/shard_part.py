"""The temporary file of a shard: made or taken over from an earlier process, and named."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from shardcast.file_copies import copy_bytes
from shardcast.file_owners import is_ours
from shardcast.file_systems import set_permissions
from shardcast.filesystem import give_name
from shardcast.open_files import close
from shardcast.temporary_files import NOT_OURS, create_private


def open_shard_part(path: Path) -> int:
    """Open a shard's temporary file for reading and writing, with the bytes of an earlier process if any.

    A file possibly open for writing by other users is copied, so none writes to it later; a file that can't
    be opened, a link or a device is removed.

    Args:
        path: path of the temporary file, in a folder of this user.

    Returns:
        The descriptor.

    Raises:
        OSError: the file can't be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return create_private(path)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        path.unlink()
        return create_private(path)
    with contextlib.ExitStack() as stack:
        stack.callback(close, descriptor)
        found = os.fstat(descriptor)
        if is_ours(found):
            set_permissions(descriptor, 0o600, path)
            stack.pop_all()
            return descriptor
        path.unlink()
        copy = create_private(path)
        try:
            if stat.S_ISREG(found.st_mode):
                copy_bytes(descriptor, copy)
        except BaseException:
            close(copy)
            raise
        return copy


def name_shard(part: Path, final: Path, sync: bool) -> None:
    """Give a shard's temporary file its final name.

    The name becomes durable with the sync of the folder, done once for all shards.

    Args:
        part: the temporary name.
        final: the final name.
        sync: whether to make the bytes durable first.

    Raises:
        OSError: the shard can't have the name.
    """
    descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if sync:
            os.fsync(descriptor)
        give_name(descriptor, part, final, durable=False)
    finally:
        close(descriptor)
