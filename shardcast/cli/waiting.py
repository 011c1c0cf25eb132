"""Tells a person what a command waits for, before that looks like a hang."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shardcast.sizes import format_count

if TYPE_CHECKING:
    from shardcast.waits import Waits

TOLD_AFTER = 2.0
"""Seconds of waiting after which it is told."""
_TOLD_AGAIN = 30.0
"""Seconds until it is told again that it goes on."""
_LOOK = 0.25
"""Seconds between two looks."""


async def tell_waits(
    waits: Waits,
    note: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Note what is waited for, and when that is over; for ever."""
    told_at: float | None = None  # seconds of this wait at which it was told last
    longest = 0.0
    while True:
        wait = waits.now(TOLD_AFTER)
        if wait is None:
            if told_at is not None:
                note(f"it goes on, after {format_count(round(longest), 'second')}")
            told_at, longest = None, 0.0
        else:
            longest = max(longest, wait.seconds)
            if told_at is None or longest - told_at >= _TOLD_AGAIN:
                note(f"waiting for {wait.what}, for {longest:.0f} s now")
                told_at = longest
        await sleep(_LOOK)
