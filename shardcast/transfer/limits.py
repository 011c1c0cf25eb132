"""How much a transfer does at once, how patient it is, and how far it has come: plain values."""

from __future__ import annotations

import errno
import os
import resource
import sys
from dataclasses import dataclass, replace

from shardcast import constants

_OTHER_DESCRIPTORS = 6
"""Descriptors that a transfer leaves for what is open beside its shards and requests: lists, feeds, …"""
_LEAST_BUFFER = 1 << 20
"""Bytes of a buffer that receives small pieces (``peer.bulk``, ``peer.pouring``)."""
_READ_AHEAD = 2 << 20
"""Bytes that a connection reads ahead at the most, where aiohttp reads it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, how long, how often.

    Attributes:
        attempts: failed answers to one shard after which the transfer gives up.
        at_once: requests under way, over all servers.
        timeout: seconds without a piece after which an answer is given up.
        stall: seconds without a byte after which it is when another server can serve.
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
        """Return these limits with no more at once than can be open: each shard takes a descriptor, and each
        request another."""
        most = max(1, (descriptors - _OTHER_DESCRIPTORS) // 2)
        return replace(self, at_once=min(self.at_once, most), look_ahead=min(self.look_ahead, most))

    def answers_for(self, piece_size: int) -> int:
        """Return how many answers may arrive at once: each holds two buffers, of a whole piece at least, and
        half of the memory is for them."""
        each = 2 * max(piece_size, _LEAST_BUFFER) + _READ_AHEAD
        return max(1, min(self.at_once, self.memory // 2 // each))


@dataclass(frozen=True, slots=True)
class ServerProgress:
    """What one server does in a transfer.

    Attributes:
        rate: bytes a second.
        under_way: answers that it is sending.
        received: bytes that it sent.
        failures: in a row.
    """

    rate: float
    under_way: int
    received: int
    failures: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer has come.

    Attributes:
        size: bytes of the payload.
        done: bytes that are here.
        shards: how many there are.
        shards_done: those that are whole.
        servers: what each server does.
    """

    size: int
    done: int
    shards: int
    shards_done: int
    servers: dict[str, ServerProgress]


def free_descriptors() -> int:
    """Return how many more files and connections this process may open now."""
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd"))  # noqa: PTH208
    except OSError as error:
        return 0 if error.errno in (errno.EMFILE, errno.ENFILE) else sys.maxsize
