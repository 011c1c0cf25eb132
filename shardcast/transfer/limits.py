"""Limits and progress of a transfer: plain values."""

from __future__ import annotations

import errno
import os
import resource
import sys
from dataclasses import dataclass, replace

from shardcast import constants

_OTHER_DESCRIPTORS = 6
"""File descriptors left for other uses than shards and requests of a transfer: lists, feeds, …"""
_MIN_BUFFER = 1 << 20
"""Bytes of a receive buffer for small pieces (``peer.bulk``, ``peer.landing_writer``)."""
_READ_AHEAD = 2 << 20
"""Maximum bytes read ahead by aiohttp on a connection."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a transfer.

    Attributes:
        attempts: failed answers to one shard after which the transfer fails.
        at_once: maximum requests under way, over all servers.
        timeout: seconds without a piece after which an answer is cancelled.
        stall: seconds without a byte after which an answer is cancelled if another server can serve.
        memory: maximum bytes of memory, for the manifest and the arriving pieces.
        look_ahead: maximum shards open beyond the last one hashed.
        unreachable_at_start: seconds without a reachable server, before the first byte, until failure.
        unreachable_once_begun: the same after the first byte.
    """

    attempts: int = constants.RETRY_ATTEMPTS
    at_once: int = constants.MAX_CONCURRENT_DOWNLOADS
    timeout: float = constants.HTTP_TIMEOUT
    stall: float = constants.STALL_WHEN_OTHERS_CAN
    memory: int = constants.TRANSFER_MEMORY
    look_ahead: int = constants.LOOK_AHEAD
    unreachable_at_start: float = constants.UNREACHABLE_AT_START
    unreachable_once_begun: float = constants.UNREACHABLE_ONCE_BEGUN

    def within(self, descriptors: int) -> Limits:
        """Return these limits with no more at once than can be open.

        Each shard takes a descriptor, and each request another.
        """
        share = max(1, (descriptors - _OTHER_DESCRIPTORS) // 2)
        return replace(self, at_once=min(self.at_once, share), look_ahead=min(self.look_ahead, share))

    def answers_for(self, piece_size: int) -> int:
        """Return how many answers may arrive at once.

        Each holds two buffers, of a whole piece at least, and half of the memory is for them.
        """
        each = 2 * max(piece_size, _MIN_BUFFER) + _READ_AHEAD
        return max(1, min(self.at_once, self.memory // 2 // each))


@dataclass(frozen=True, slots=True)
class ServerProgress:
    """One server's part in a transfer.

    Attributes:
        rate: bytes a second received now.
        under_way: number of answers under way.
        received: bytes received.
        failures: failed answers in a row.
    """

    rate: float
    under_way: int
    received: int
    failures: int


@dataclass(frozen=True, slots=True)
class NeighbourProgress:
    """The part of all neighbours in a swarm in a transfer, together.

    Attributes:
        count: number of neighbours.
        received: bytes received from them.
        given: bytes sent to them.
        across: bytes received from neighbours in other sites.
        rate: bytes a second received from them now.
    """

    count: int = 0
    received: int = 0
    given: int = 0
    across: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """Progress of a transfer.

    Attributes:
        size: bytes of the payload.
        done: verified bytes stored here.
        shards: number of shards in the manifest so far.
        shards_done: number of whole shards.
        servers: each server's part, by URL.
        neighbours: the part of the neighbours in a swarm.
    """

    size: int
    done: int
    shards: int
    shards_done: int
    servers: dict[str, ServerProgress]
    neighbours: NeighbourProgress = NeighbourProgress()


def free_descriptors() -> int:
    """Return how many more files and connections this process may open now."""
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd"))  # noqa: PTH208
    except OSError as error:
        return 0 if error.errno in (errno.EMFILE, errno.ENFILE) else sys.maxsize
