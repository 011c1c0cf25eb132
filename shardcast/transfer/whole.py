"""The digest of the whole payload, computed in order right behind the shards as they land."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from shardcast.sharding import CHUNK_SIZE, Survey
from shardcast.store.landing import Landing

_PORTION = 16 << 20
"""Bytes hashed between two looks at whether more has landed."""


async def hash_whole(
    numbers: Iterable[int],
    landing_of: Callable[[int], Awaitable[Landing]],
    hashed: Callable[[int], None],
    survey: Survey,
) -> None:
    """Feed the shards' bytes to ``survey`` in their order; ``hashed`` is called after each shard.

    Raises:
        LocalDiskError: what landed can't be read.
    """
    buffer = memoryview(bytearray(CHUNK_SIZE))
    for number in numbers:
        landing = await landing_of(number)
        position = 0
        while position < landing.shard.size:
            end = min(landing.prefix, position + _PORTION)
            if position == end:
                await landing.changed()
                continue
            await landing.in_thread(_feed, landing, position, end, buffer, survey)
            position = end
        survey.end_shard()
        hashed(number)


def _feed(landing: Landing, position: int, end: int, buffer: memoryview, survey: Survey) -> None:
    while position < end:
        count = landing.read_into(position, buffer[: min(len(buffer), end - position)])
        if not count:
            raise AssertionError(f"what landed of shard {landing.shard.number} is not there")
        survey.update(buffer[:count])
        position += count
