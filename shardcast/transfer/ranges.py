"""Shards under way, their ranges at the workers, and the requests for these ranges."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shardcast.errors import WrongBytes
from shardcast.peer.requests import RangeRequest
from shardcast.peer.server import Peer
from shardcast.policy.stalls import AnswerProgress
from shardcast.store.landing import Landing


@dataclass(eq=False)
class ShardDownload:
    """A shard under way.

    Attributes:
        landing: place of its pieces.
        failures: failed answers, by the URL of the server.
        attempts: failed answers counted against ``Limits.attempts``.
        wrong: the last answer with wrong bytes.
        committing: whether a worker is committing the whole shard, or has.
        committed: whether the sink has the shard.
        hashed: whether the whole digest has read the shard.
    """

    landing: Landing
    failures: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    wrong: WrongBytes | None = None
    committing: bool = False
    committed: bool = False
    hashed: bool = False


@dataclass(eq=False)
class RangeTask:
    """A range of a shard at one worker.

    Attributes:
        download: the shard.
        start: the first byte in the shard.
        end: the byte after the last; falls when another worker takes over the second half.
    """

    download: ShardDownload
    start: int
    end: int

    def missing(self) -> tuple[int, int] | None:
        """Return the first missing part of the range as ``(start, end)``; None after all of it has landed."""
        for start, end in self.download.landing.missing():
            if start < self.end and end > self.start:
                return max(start, self.start), min(end, self.end)
        return None


@dataclass(eq=False)
class ActiveRequest:
    """A request for a part of a range, while its answer arrives.

    Attributes:
        task: the range.
        peer: the server.
        request: the requested bytes, and the number received.
        answer: ends with the answer.
        started_at: time of the request.
        progress: the progress at the stall monitor's last look.
        stalled: the stall monitor's reason for cancelling the answer.
        taken_over: whether another worker took over the whole rest, and cancelled the answer.
    """

    task: RangeTask
    peer: Peer
    request: RangeRequest
    answer: asyncio.Future[None]
    started_at: float
    progress: AnswerProgress
    stalled: str = ""
    taken_over: bool = False
