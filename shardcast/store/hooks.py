"""The hooks between an open version and its directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardcast.protocol.manifest import Manifest, Shard
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.link_changes import LinkChanges

if TYPE_CHECKING:
    from shardcast.store.open_version import OpenVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVersionHooks:
    """The calls of an open version to its directory.

    Attributes:
        find: returns the local file of a shard by SHA-256; None without one.
        completed: awaited when a whole version is durable.
        reserve: awaited with the version and the next shard, before the shard comes; returns whether the
            whole shard has room, else ``extend`` is awaited for each part.
        extend: awaited with the number of coming bytes, and a function to take room for them on the disk, run
            in a thread.
        full: awaited with the number of bytes too many for a full disk, and the error; returns whether to try
            again.
        check_held: called before each write; raises if another directory is at the path.
        usage: counts files with a new name.
        links: removes links to files of the publisher.
    """

    find: Callable[[str], Path | None]
    completed: Callable[[OpenVersion, Manifest], Awaitable[None]]
    reserve: Callable[[OpenVersion, Shard], Awaitable[bool]]
    extend: Callable[[OpenVersion, int, Callable[[], None]], Coroutine[Any, Any, None]]
    full: Callable[[OpenVersion, int, OSError], Coroutine[Any, Any, bool]]
    check_held: Callable[[], None]
    usage: DiskUsage
    links: LinkChanges = field(default_factory=LinkChanges)
