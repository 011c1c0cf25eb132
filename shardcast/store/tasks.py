"""Tasks, ended for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN = 0.5
"""Seconds until a task that goes on is cancelled again."""


async def cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until they have ended, however they do.

    One that goes on is cancelled again: before Python 3.12, ``asyncio.wait_for`` forgets that it was
    cancelled when what it waits for ends at that very moment.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN)
