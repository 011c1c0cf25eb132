"""Shardcast from Python: an origin or a middle in a child process, and a client in the caller's own.

The names, parameters and positions of shardcast 0.1.0 work unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardcast.api.archive import Archive
    from shardcast.api.broadcast_function import broadcast
    from shardcast.api.broadcasting import Broadcast, BroadcastProgress
    from shardcast.api.client import ClientNode
    from shardcast.api.current_origin import (
        initialize,
        open_broadcast,
        open_broadcast_folder,
        shutdown,
        withdraw,
    )
    from shardcast.api.followed import Followed
    from shardcast.api.middle import MiddleNode
    from shardcast.api.nodes import OriginServer
    from shardcast.api.remote_broadcast import RemoteBroadcast
    from shardcast.errors import ShardcastError

__all__ = [
    "Archive",
    "Broadcast",
    "BroadcastProgress",
    "ClientNode",
    "Followed",
    "MiddleNode",
    "OriginServer",
    "RemoteBroadcast",
    "ShardcastError",
    "broadcast",
    "initialize",
    "open_broadcast",
    "open_broadcast_folder",
    "shutdown",
    "withdraw",
]


def __getattr__(name: str) -> Any:
    """Return a public name, imported by the package at the first use.

    Raises:
        AttributeError: the library has no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import shardcast

    return getattr(shardcast, name)
