"""What an open version asks of the directory in which it lies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardcast.protocol.manifest import Manifest, Shard
from shardcast.store.disk_usage import DiskUsage

if TYPE_CHECKING:
    from shardcast.store.open_version import OpenVersion


@dataclass(frozen=True, slots=True)
class OpenVersionHooks:
    """What an open version asks of the directory in which it lies.

    Attributes:
        find: returns where a shard with this digest lies already; None where it lies nowhere.
        completed: called once everything of a version is durable.
        reserve: called with the version and its next shard, before the shard comes; returns whether all of it
            has room, else ``extend`` is called for each part.
        extend: called with bytes that come, and what takes room for them on the disk, in a thread.
        full: called with the bytes that did not fit on a full disk, and the error; returns whether to try
            again.
        check: called before anything is written; raises where the directory at the path is another one.
        usage: counts the files that get their names.
    """

    find: Callable[[str], Path | None]
    completed: Callable[[OpenVersion, Manifest], Awaitable[None]]
    reserve: Callable[[OpenVersion, Shard], Awaitable[bool]]
    extend: Callable[[OpenVersion, int, Callable[[], None]], Coroutine[Any, Any, None]]
    full: Callable[[OpenVersion, int, OSError], Coroutine[Any, Any, bool]]
    check: Callable[[], None]
    usage: DiskUsage
