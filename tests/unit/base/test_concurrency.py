"""Tasks end when they are told to, and those who wait are woken."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial

from shardcast.concurrency import Notifier, ThreadPool, cancel, in_pool, in_thread, start_staggered


async def test_task_swallowing_cancellation_is_cancelled_again() -> None:
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


async def test_finished_tasks_are_not_cancelled() -> None:
    async def fails() -> None:
        raise ValueError("long ago")

    task = asyncio.ensure_future(fails())
    await asyncio.wait([task])
    await cancel([task])
    assert isinstance(task.exception(), ValueError)
    await cancel([])


async def test_thread_work_completes_before_repeatedly_cancelled_caller() -> None:
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


async def test_cancelled_pool_work_has_completed_or_never_started() -> None:
    begun, may_end = list[str](), threading.Event()

    def work(name: str) -> None:
        begun.append(name)
        may_end.wait(10)
        begun.append(f"{name} ended")

    with ThreadPool(1, "work") as pool:
        first, second = (asyncio.ensure_future(in_pool(pool, work, name)) for name in ("first", "second"))
        while not begun:
            await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.wait([second], timeout=10)
        assert second.cancelled(), "it waits for the work before it"
        for _ in range(3):
            first.cancel()
            await asyncio.sleep(0.01)
        assert not first.done()
        may_end.set()
        await asyncio.wait([first])
        assert first.cancelled()
        assert begun == ["first", "first ended"]
        assert await in_pool(pool, len, "third") == 5
    assert begun == ["first", "first ended"]


async def test_staggered_work_starts_next_on_end_or_timeout() -> None:
    begun, ended = list[str](), list[str]()

    async def work(name: str, seconds: float) -> str:
        begun.append(name)
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(name)
        if name == "fails":
            raise ValueError(name)
        return name

    works = [partial(work, "hangs", 60), partial(work, "fails", 0), partial(work, "works", 0)]
    async with contextlib.aclosing(start_staggered([*works, partial(work, "never", 0)], 0.05)) as tasks:
        first, second = await anext(tasks), await anext(tasks)
        assert first
        assert second
        assert isinstance(first.exception(), ValueError)
        assert second.result() == "works"
    assert (begun, ended) == (["hangs", "fails", "works"], ["fails", "works", "hangs"])


async def test_staggered_work_waits_while_there_is_progress() -> None:
    count, others = 0, list[int]()

    async def slow() -> str:
        nonlocal count
        for _ in range(20):
            await asyncio.sleep(0.02)
            count += 1
        return "slow"

    async def other() -> str:
        others.append(count)
        return "other"

    async with contextlib.aclosing(start_staggered([slow, other], 0.1, lambda: count)) as tasks:
        ended = [task.result() async for task in tasks if task]
    assert (ended, others) == (["slow", "other"], [20])


async def test_staggered_work_yields_none_when_waiting_on_the_last() -> None:
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "came"

    async with contextlib.aclosing(start_staggered([wait], 0.01)) as tasks:
        assert await anext(tasks) is None
        gate.set()
        found = [task.result() async for task in tasks if task]
    assert found == ["came"]


def test_notifier_loses_no_notification_from_thread() -> None:
    rounds, rung, answered = 3000, [0], [0]
    notifier, back = Notifier(), threading.Semaphore(0)

    def ring() -> None:
        for _ in range(rounds):
            rung[0] += 1
            notifier.notify()
            assert back.acquire(timeout=30), f"lost at {rung[0]}"

    async def listen() -> None:
        while answered[0] < rounds:
            await asyncio.wait_for(notifier.wait_for(lambda: rung[0] > answered[0]), 30)
            answered[0] += 1
            back.release()

    ringer = threading.Thread(target=ring)
    ringer.start()
    asyncio.run(listen())
    ringer.join()
    assert answered == rung == [rounds]


async def test_notifier_wakes_all_waiters_and_drops_cancelled_ones() -> None:
    notifier, so = Notifier(), [False]
    waiting = [asyncio.ensure_future(notifier.wait_for(lambda: so[0])) for _ in range(3)]
    gone = asyncio.ensure_future(notifier.wait_for(lambda: False))
    await asyncio.sleep(0)
    gone.cancel()
    notifier.notify()
    await asyncio.sleep(0.01)
    assert not any(one.done() for one in waiting)
    so[0] = True
    notifier.notify()
    await asyncio.wait_for(asyncio.gather(*waiting), 30)
    assert not notifier._waiting


async def test_change_waits_for_the_next_notification_only() -> None:
    notifier = Notifier()
    notifier.notify()
    waiting = asyncio.ensure_future(notifier.change())
    await asyncio.sleep(0)
    assert not waiting.done(), "what was notified before counts no more"
    notifier.notify()
    await asyncio.wait_for(waiting, 30)


def test_notifier_wakes_coroutines_of_another_loop() -> None:
    notifier, waiting, woken = Notifier(), threading.Event(), threading.Event()

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(waiting.set)
        await notifier.change()
        woken.set()

    other = threading.Thread(target=lambda: asyncio.run(wait()))
    other.start()

    async def notify() -> None:
        assert await asyncio.to_thread(waiting.wait, 30)
        notifier.notify()

    asyncio.run(notify())
    assert woken.wait(30)
    other.join()
    notifier.notify()  # nobody waits, and its loop has ended
