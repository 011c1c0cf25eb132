"""The temporary file of a shard: how it is made, or gone on with, and gets its name."""

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
    """Open a temporary file in a folder of ours for reading and writing, new or with what an earlier process
    left in it.

    What others could write to by now is copied, so that nobody does later; what can't be read is removed.

    Raises:
        OSError: it can't be made.
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
    """Give a shard its name; if it is to ``sync``, make its bytes durable before. The name is durable once
    the folder is synced, which is done for all shards together.

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
