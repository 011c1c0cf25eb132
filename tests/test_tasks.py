"""Tasks end when they are told to."""

from __future__ import annotations

import asyncio
import contextlib

from shardcast.store.tasks import cancel


async def test_a_task_that_forgets_that_it_was_cancelled_ends_all_the_same() -> None:
    told = 0

    async def forgetful() -> None:
        nonlocal told
        while told < 2:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            told += 1
        await asyncio.sleep(60)

    task = asyncio.ensure_future(forgetful())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel([task]), 10)
    assert task.cancelled()


async def test_tasks_that_ended_already_are_left_alone() -> None:
    async def fails() -> None:
        raise ValueError("long ago")

    task = asyncio.ensure_future(fails())
    await asyncio.wait([task])
    await cancel([task])
    assert isinstance(task.exception(), ValueError)
    await cancel([])
