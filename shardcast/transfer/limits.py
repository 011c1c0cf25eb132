"""How much a transfer does at once, how patient it is, and how far it has come: plain values."""

from __future__ import annotations

import errno
import os
import resource
import sys
from dataclasses import dataclass, replace

from shardcast import constants

_OTHER_DESCRIPTORS = 6
"""File descriptors left for what is open beside the shards and requests of a transfer: lists, feeds, …"""
_MIN_BUFFER = 1 << 20
"""Bytes of a buffer that receives small pieces (``peer.bulk``, ``peer.landing_writer``)."""
_READ_AHEAD = 2 << 20
"""Bytes that aiohttp reads ahead on a connection, at the most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a transfer: how much at once, how long, how often.

    Attributes:
        attempts: failed answers to one shard after which the transfer gives up.
        at_once: requests under way, over all servers.
        timeout: seconds without a piece after which an answer is cancelled.
        stall: seconds without a byte after which it is cancelled where another server can serve.
        memory: bytes that the transfer may take, for its manifest and the pieces that it receives.
        look_ahead: shards open beyond the last one hashed.
        unreachable_at_start: seconds that no server may be reachable before the first byte.
        unreachable_once_begun: the same after it.
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
    """What one server does in a transfer.

    Attributes:
        rate: bytes a second that come from it now.
        under_way: answers that the server is sending.
        received: bytes that it sent.
        failures: failed answers in a row.
    """

    rate: float
    under_way: int
    received: int
    failures: int


@dataclass(frozen=True, slots=True)
class NeighbourProgress:
    """What the neighbours in a swarm do for a transfer, all together.

    Attributes:
        count: how many neighbours there are.
        received: bytes that they sent.
        given: bytes that went to them.
        across: those that came from neighbours in other sites.
        rate: bytes a second that come from them now.
    """

    count: int = 0
    received: int = 0
    given: int = 0
    across: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far a transfer has come.

    Attributes:
        size: bytes of the payload.
        done: verified bytes that are here.
        shards: how many shards the manifest has by now.
        shards_done: how many of them are whole.
        servers: what each server does, by URL.
        neighbours: what the neighbours in a swarm do.
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
