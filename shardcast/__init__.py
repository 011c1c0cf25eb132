"""Get something large and new from one machine to many, version after version, every byte verified.

::

    import shardcast

    shardcast.initialize(data_dir="./data", port=8000)
    version = shardcast.broadcast("/path/model.safetensors")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardcast.api import (
        Archive,
        Broadcast,
        BroadcastProgress,
        ClientNode,
        Followed,
        MiddleNode,
        OriginServer,
        RemoteBroadcast,
        broadcast,
        initialize,
        open_broadcast,
        open_broadcast_folder,
        shutdown,
        withdraw,
    )
    from shardcast.api.open_folder import FolderWriter
    from shardcast.constants import (
        HTTP_PORT,
        LOG_LEVEL,
        MAX_DISTRIBUTION_FOLDERS,
        MAX_MIDDLE_NODE_LAYERS,
        RETRY_ATTEMPTS,
        SHARD_SIZE,
    )
    from shardcast.control.writer import BroadcastWriter
    from shardcast.errors import (
        AccessDenied,
        CopiesMissing,
        DataDirInUse,
        IntegrityError,
        LocalDiskError,
        NodeFailed,
        NoNode,
        NoRoom,
        NoServerReachable,
        NotInitialized,
        PayloadChanged,
        PayloadMissing,
        ShardcastError,
        TransferFailed,
        UploadRefused,
        UsageError,
        VersionAborted,
        VersionNotOffered,
        VersionWithdrawn,
    )
    from shardcast.nodes.client import Client, Offered, Release
    from shardcast.progress import Progress
    from shardcast.protocol.distribution import Withdrawal
    from shardcast.upstream.lease import Lease

__version__ = "0.4.0"

# The module of each public name. A name is imported at the first use: `shardcast-client --help` need not wait
# for the modules of a transfer, nor a trainer with an origin for those of a client.
_HOMES = {
    "shardcast.api.archive": ("Archive",),
    "shardcast.api.broadcast_function": ("broadcast",),
    "shardcast.api.broadcasting": ("Broadcast", "BroadcastProgress"),
    "shardcast.api.client": ("ClientNode",),
    "shardcast.api.current_origin": (
        "initialize", "open_broadcast", "open_broadcast_folder", "shutdown", "withdraw",
    ),
    "shardcast.api.followed": ("Followed",),
    "shardcast.api.middle": ("MiddleNode",),
    "shardcast.api.nodes": ("OriginServer",),
    "shardcast.api.remote_broadcast": ("RemoteBroadcast",),
    "shardcast.constants": (
        "HTTP_PORT", "LOG_LEVEL", "MAX_DISTRIBUTION_FOLDERS", "MAX_MIDDLE_NODE_LAYERS",
        "RETRY_ATTEMPTS", "SHARD_SIZE",
    ),
    "shardcast.protocol.distribution": ("Withdrawal",),
    "shardcast.errors": (
        "AccessDenied", "CopiesMissing", "DataDirInUse", "IntegrityError", "LocalDiskError", "NoNode",
        "NoRoom", "NoServerReachable", "NodeFailed", "NotInitialized", "PayloadChanged", "PayloadMissing",
        "ShardcastError", "TransferFailed", "UploadRefused", "UsageError", "VersionAborted",
        "VersionNotOffered", "VersionWithdrawn",
    ),
    "shardcast.nodes.client": ("Client", "Offered", "Release"),
    "shardcast.progress": ("Progress",),
    "shardcast.api.open_folder": ("FolderWriter",),
    "shardcast.control.writer": ("BroadcastWriter",),
    "shardcast.upstream.lease": ("Lease",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name at the first use, and store it in the module.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all names, those not imported yet too."""
    return sorted({*globals(), *_HOME_OF})


__all__ = [
    "HTTP_PORT",
    "LOG_LEVEL",
    "MAX_DISTRIBUTION_FOLDERS",
    "MAX_MIDDLE_NODE_LAYERS",
    "RETRY_ATTEMPTS",
    "SHARD_SIZE",
    "AccessDenied",
    "Archive",
    "Broadcast",
    "BroadcastProgress",
    "BroadcastWriter",
    "Client",
    "ClientNode",
    "CopiesMissing",
    "DataDirInUse",
    "FolderWriter",
    "Followed",
    "IntegrityError",
    "Lease",
    "LocalDiskError",
    "MiddleNode",
    "NoNode",
    "NoRoom",
    "NoServerReachable",
    "NodeFailed",
    "NotInitialized",
    "Offered",
    "OriginServer",
    "PayloadChanged",
    "PayloadMissing",
    "Progress",
    "Release",
    "RemoteBroadcast",
    "ShardcastError",
    "TransferFailed",
    "UploadRefused",
    "UsageError",
    "VersionAborted",
    "VersionNotOffered",
    "VersionWithdrawn",
    "Withdrawal",
    "broadcast",
    "initialize",
    "open_broadcast",
    "open_broadcast_folder",
    "shutdown",
    "withdraw",
]
