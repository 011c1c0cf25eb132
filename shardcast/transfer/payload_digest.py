"""The digest of the whole payload, computed in order right behind the shards as they land."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable

from shardcast.concurrency import ThreadPool
from shardcast.protocol.manifest import Shard
from shardcast.sharding.payload_hasher import CHUNK_SIZE, PayloadHasher
from shardcast.store.landing import Landing


async def hash_payload(
    shards: AsyncIterable[Shard],
    landing_of: Callable[[int], Awaitable[Landing]],
    on_hashed: Callable[[int], None],
    hasher: PayloadHasher,
) -> None:
    """Feed the shards' bytes to a hasher in their order.

    A separate thread follows each landing without the event loop between two pieces: with the delay of one
    thread switch at each piece, the digest would be half a payload behind at the end.

    Args:
        shards: the shards, in the order of the manifest.
        landing_of: returns the landing of a shard once open.
        on_hashed: called with the number of each hashed shard.
        hasher: takes the bytes.

    Raises:
        LocalDiskError: landed bytes cannot be read.
    """
    buffer = memoryview(bytearray(CHUNK_SIZE))
    thread = ThreadPool(1, "shardcast-whole")
    try:
        async for shard in shards:
            landing = await landing_of(shard.number)
            await landing.in_thread(_follow, landing, buffer, hasher, executor=thread)
            hasher.end_shard()
            on_hashed(shard.number)
    finally:
        thread.shutdown(wait=False)


def _follow(landing: Landing, buffer: memoryview, hasher: PayloadHasher) -> None:
    """Hash a growing landing, until whole or closed; in a thread."""
    position = 0
    while position < landing.shard.size:
        end = landing.wait_for_prefix(position, len(buffer))
        if end <= position:
            return
        while position < end:
            count = landing.read_into(position, buffer[: min(len(buffer), end - position)])
            if not count:
                raise AssertionError(f"pieces of shard {landing.shard.number} are missing from its landing")
            hasher.update(buffer[:count])
            position += count
