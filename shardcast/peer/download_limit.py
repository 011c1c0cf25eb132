"""The turns of answers under the download limit of a node.

The bytes of shards and blobs are read in turn; TCP's flow control holds the servers back. Manifests count
without a wait. Heads, lists and feeds do not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from shardcast.constants import PIECE_SIZE
from shardcast.fair_limit import FairLimit, Share

SHARD_SECONDS = 1.0
"""Seconds within which each answer with bytes of a shard brings a piece: few connections fill few buffers."""
BLOB_SECONDS = 10.0
"""Seconds within which each answer with a blob brings 256 KiB; servers drop a reader after 60 s."""
_BLOB_PATIENCE = 30.0
"""Seconds after which a blob is asked for despite a used-up limit: its readers may wait."""
_BUFFERED_SECONDS = 0.05
"""Seconds of the limit's bytes that may wait in the buffers of one connection."""
_MIN_BUFFER, _MAX_BUFFER = 32 << 10, 256 << 10
"""Minimum bytes of a connection's buffers, and the size from which on the system chooses them itself. With 4
KiB, probes of the closed window set the speed: 1 MB/s became 43 kB/s over loopback."""


@asynccontextmanager
async def shard_turn(limit: FairLimit | None, server: str) -> AsyncIterator[Share | None]:
    """Wait until the limit has room for another answer from a server, and yield its share; None without one.

    Earlier answers end, since each brings its bytes or stalls.
    """
    if limit is None:
        yield None
        return
    await limit.freed.wait_for(lambda: not limit.is_full(server, PIECE_SIZE, SHARD_SECONDS))
    with limit.open(server) as share:
        yield share


@asynccontextmanager
async def blob_turn(limit: FairLimit | None, server: str) -> AsyncIterator[Share | None]:
    """Wait like ``shard_turn``, for a bounded time: an answer with a blob goes on only while read."""
    if limit is None:
        yield None
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_BLOB_PATIENCE):
            await limit.freed.wait_for(lambda: not limit.is_full(server, PIECE_SIZE, BLOB_SECONDS))
    with limit.open(server) as share:
        yield share


def buffer_size(limit: FairLimit | None, usual: int) -> int:
    """Return the bytes to buffer for one connection, received before their turn.

    Args:
        limit: the download limit; None without one.
        usual: bytes without a limit, and maximum.
    """
    if limit is None:
        return usual
    rate = min(rate for rate in (limit.rates.total, limit.rates.per_address) if rate)
    return min(usual, max(_MIN_BUFFER, int(rate * _BUFFERED_SECONDS)))


def receive_buffer_size(limit: FairLimit | None) -> int | None:
    """Return the bytes for the system to buffer for one connection; None to let the system choose."""
    size = buffer_size(limit, _MAX_BUFFER)
    return size if size < _MAX_BUFFER else None
