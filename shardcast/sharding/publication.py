"""What a publisher asks for, and how far it has come: plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardcast.constants import SHARD_SIZE
from shardcast.errors import ShardcastError

ReserveBytes = Callable[[int], None]
"""Told how many bytes a version takes before they are stored; raises ``NoRoom`` where it may not."""


class Cancelled(ShardcastError):
    """Publishing was called off."""


def freely(size: int) -> None:
    """A ``RangeTask`` where there is no bound."""


@dataclass
class PublishProgress:
    """How far publishing has come; read by anybody, written by the thread that publishes. Plain values, each
    written in one step, and none is read together with another one. The event loop writes ``cancelled`` and
    the ``size`` of a stream, once each.

    Attributes:
        size: bytes of the payload; None until it is open, and for a stream until its writer has ended.
        done: bytes read, hashed and stored.
        shards: shards that are whole.
        cancelled: set to call it off.
    """

    size: int | None = None
    done: int = 0
    shards: int = 0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class PayloadDescription:
    """What a publisher says of a payload.

    Attributes:
        origin: the origin id.
        shard_size: bytes of a shard.
        digests: the algorithms of the whole digest, ``sha256`` among them.
        copy: whether the shards are files of their own.
        metadata: whatever the publisher adds.
    """

    origin: str
    shard_size: int = SHARD_SIZE
    digests: tuple[str, ...] = ("sha256",)
    copy: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)
