"""Plain values of publishing: the description of a payload, and the progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardcast.constants import SHARD_SIZE
from shardcast.errors import ShardcastError

ReserveBytes = Callable[[int], None]
"""Called with the bytes taken by a version so far, before they are stored.

Raises ``NoRoom`` if there is no room for them.
"""


class Cancelled(ShardcastError):
    """Publishing was cancelled."""


def reserve_freely(size: int) -> None:
    """Reserve bytes where there is no bound (a ``ReserveBytes``)."""


@dataclass
class PublishProgress:
    """The progress of publishing: written by the publishing thread, read by any thread.

    Each value is written in one step, and no reader relates one to another. The event loop writes
    ``cancelled`` and the ``size`` of a stream, once each.

    Attributes:
        size: bytes of the payload; None before its opening, and for a stream before its end.
        done: bytes read, hashed and stored.
        shards: number of whole shards.
        cancelled: set to cancel publishing.
        shard_size: bytes of a shard; None until publishing begins.
    """

    size: int | None = None
    done: int = 0
    shards: int = 0
    cancelled: bool = False
    shard_size: int | None = None


@dataclass(frozen=True, slots=True)
class PayloadDescription:
    """A publisher's description of a payload.

    Attributes:
        origin: the origin id.
        shard_size: bytes of a shard.
        digests: the algorithms of the whole digest, ``sha256`` among them.
        copy: whether the shards are files of their own.
        metadata: the publisher's own entries of the manifest.
        name: the payload's name in the manifest; empty for the file's name.
    """

    origin: str
    shard_size: int = SHARD_SIZE
    digests: tuple[str, ...] = ("sha256",)
    copy: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
