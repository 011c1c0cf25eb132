"""Shards under way, and the ranges of them that workers see to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shardcast.errors import WrongBytes
from shardcast.peer.requests import RangeRequest
from shardcast.peer.server import Peer
from shardcast.store.landing import Landing


@dataclass
class ShardDownload:
    """A shard under way."""

    landing: Landing
    failures: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    wrong: WrongBytes | None = None
    shelving: bool = False
    shelved: bool = False
    hashed: bool = False


@dataclass
class RangeTask:
    """A range of a shard that one worker sees to; another may take its second half over."""

    key: int
    arriving: ShardDownload
    start: int
    end: int
    peer: Peer | None = None
    order: RangeRequest | None = None
    since: float = 0.0
    answer: asyncio.Future[None] | None = None
    stalled: str = ""
    taken_over: bool = False
    # What the watch saw last: bytes received then, when any came, when a piece's worth had come.
    seen: int = 0
    byte_at: float = 0.0
    piece_at: float = 0.0
    piece_seen: int = 0

    def left(self) -> tuple[int, int] | None:
        """The first range in it that is not there."""
        for start, end in self.arriving.landing.missing():
            if start < self.end and end > self.start:
                return max(start, self.start), min(end, self.end)
        return None
