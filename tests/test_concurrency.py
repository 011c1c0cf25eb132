"""Tasks end when they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from shardcast.concurrency import cancel, in_thread


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


async def test_work_in_a_thread_has_ended_when_who_waits_for_it_is_cancelled_however_often() -> None:
    may_end, ended, undone = threading.Event(), threading.Event(), list[int]()

    def work() -> int:
        may_end.wait(10)
        ended.set()
        return 7

    task = asyncio.ensure_future(in_thread(work, undo=undone.append))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    assert not task.done()
    may_end.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert ended.is_set()
    assert undone == [7]
    assert await in_thread(work, undo=undone.append) == 7
    assert undone == [7], "who got it keeps it"
