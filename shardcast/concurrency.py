"""Tasks that are ended for good, threads, and waking those who wait."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from shardcast.errors import LocalLimit

T = TypeVar("T")
P = ParamSpec("P")

log = logging.getLogger(__name__)

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


async def in_thread(work: Callable[..., T], *words: object, undo: Callable[[T], object] | None = None) -> T:
    """Work done in a thread, which has ended when this has; see ``to_its_end``."""
    return await to_its_end(asyncio.to_thread(work, *words), undo)


async def in_pool(pool: Executor, work: Callable[..., T], *words: object) -> T:
    """Work done in a thread of a pool: it has ended when this has, or was never begun."""
    job = pool.submit(work, *words)
    try:
        return await asyncio.shield(asyncio.wrap_future(job))
    except asyncio.CancelledError:
        if not job.cancel():
            await to_its_end(_ended(job))
        raise


async def _ended(job: Future[Any]) -> None:
    await asyncio.wait([asyncio.wrap_future(job)])


async def to_its_end(work: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None) -> T:
    """Work that has ended when this has, also when this is cancelled. What came of it then, which nobody
    wants any more, is handed to ``undo``."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # also when it is cancelled again
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if task.exception() is None and undo:
            undo(task.result())
        raise


async def staggered(
    works: Iterable[Callable[[], Coroutine[Any, Any, T]]],
    patience: float,
    progress: Callable[[], object] = lambda: None,
) -> AsyncGenerator[asyncio.Task[T] | None, None]:
    """Begin one work after the other, and yield each once it has ended. The next one begins when one has
    ended, or when ``progress`` has not changed for ``patience`` seconds; None is yielded then when all have
    begun. What still runs at the end is cancelled.
    """
    left, running, done = iter(works), set[asyncio.Task[T]](), set[asyncio.Task[T]]()
    due = silent = False
    try:
        while True:
            work = next(left, None) if due or not running else None
            if work:
                running.add(asyncio.ensure_future(work()))
            elif not running:
                return
            elif silent:
                yield None
            seen = progress()
            done, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            silent = not done and progress() == seen
            due = silent or bool(done)
            while done:  # what came of one is not kept until the next
                yield done.pop()
    finally:
        await cancel(running)
        for task in running | done:
            if not task.cancelled():
                task.exception()  # it was told to whoever wanted to know


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have work done in the background while this is entered; that it fails is told, and ends nothing."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        await cancel([task])


class Notifier:
    """Wakes coroutines, of any loop and from any thread, to look again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until the predicate holds; it is asked at once, and after each notification."""
        while not predicate():
            await self._wait(predicate)

    async def change(self) -> None:
        """Wait for the next notification."""
        await self._wait(lambda: False)

    async def _wait(self, predicate: Callable[[], bool]) -> None:
        waiting = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.add(waiting)
        try:
            if not predicate():  # a thread may have notified between the last look and this wait
                await waiting
        finally:
            with self._lock:
                self._waiting.discard(waiting)

    def notify(self) -> None:
        """Wake all who wait now."""
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for one in waiting:
            if one.get_loop() is here:
                _wake(one)
            else:
                with suppress(RuntimeError):  # its loop has ended, and nobody waits any more
                    one.get_loop().call_soon_threadsafe(_wake, one)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Threads(ThreadPoolExecutor):
    """Threads for work, started as they are needed.

    Where the system gives no more of them, work waits for those that there are. With ``alone`` it doesn't: it
    has a thread from the start, or fails.
    """

    def __init__(
        self, most: int, name: str, begin: Callable[[], object] | None = None, alone: bool = False
    ) -> None:
        """``begin``: what each thread does first."""
        super().__init__(most, name, begin)
        self._alone = alone
        self._under_way: set[Future[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _adjust_thread_count(self) -> None:
        """Start a thread when none is idle; ``submit`` calls it when the work is in the queue already.

        Raises:
            LocalLimit: it can't be started, and no other thread does the work.
        """
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            limit = LocalLimit.of(error)
            if limit is None:
                raise
            # A thread whose work has ended counts as idle only a moment after others learn of that.
            if not self._threads or (self._alone and len(self._under_way) >= len(self._threads)):
                raise limit from error


def _tell_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception():
        log.error("what was done beside failed", exc_info=task.exception())
