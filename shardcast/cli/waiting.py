"""Notes about the waits of a command, printed before they look like a hang."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shardcast.sizes import format_count

if TYPE_CHECKING:
    from shardcast.waits import Waits

NOTE_AFTER = 2.0
"""Seconds of waiting before the first note."""
_REPEAT_INTERVAL = 30.0
"""Seconds between two notes about the same wait."""
_POLL_INTERVAL = 0.25
"""Seconds between two looks at ``waits``."""


async def note_waits(
    waits: Waits,
    note: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Note each wait of more than 2 s, again every 30 s, and its end; runs until cancelled.

    An idle wait is noted once, however often it begins anew, and its end is not noted.

    Args:
        waits: the waits of the running work.
        note: prints a line.
        sleep: waits for seconds; tests pass their own.
    """
    noted_at: float | None = None  # seconds of this wait at the last note
    longest = 0.0
    idle: str | None = None  # the idle wait that was noted
    while True:
        wait = waits.now(NOTE_AFTER)
        if wait is not None and wait.is_idle:
            if wait.what != idle:
                note(f"waiting for {wait.what}")
            idle, wait = wait.what, None
        if wait is None:
            if noted_at is not None:
                note(f"continuing, after {format_count(round(longest), 'second')}")
            noted_at, longest = None, 0.0
        else:
            longest = max(longest, wait.seconds)
            if noted_at is None or longest - noted_at >= _REPEAT_INTERVAL:
                note(f"waiting for {wait.what}, for {longest:.0f} s now")
                noted_at = longest
        await sleep(_POLL_INTERVAL)
