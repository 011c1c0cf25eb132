"""Tasks run to completion or cancelled for good, threads, and the notifier between them."""

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

_CANCEL_AGAIN = 0.5
"""Seconds until a still running task is cancelled again."""


async def cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until they have ended, with any result.

    A still running task is cancelled again: before Python 3.12, ``asyncio.wait_for`` swallows a cancellation
    in the same moment as the end of its inner task.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN)


async def in_thread(work: Callable[..., T], *args: object, undo: Callable[[T], object] | None = None) -> T:
    """Run ``work(*args)`` in a thread, to completion even if the caller is cancelled.

    See ``run_to_completion``.
    """
    return await run_to_completion(asyncio.to_thread(work, *args), undo)


async def in_pool(pool: Executor, work: Callable[..., T], *args: object) -> T:
    """Run ``work(*args)`` in a thread of a pool, and return the result.

    A cancelled caller waits for started work; work not yet started is dropped.
    """
    job = pool.submit(work, *args)
    try:
        return await asyncio.shield(asyncio.wrap_future(job))
    except asyncio.CancelledError:
        if not job.cancel():
            await run_to_completion(_ended(job))
        raise


async def _ended(job: Future[Any]) -> None:
    """Wait until a job has ended."""
    await asyncio.wait([asyncio.wrap_future(job)])


async def run_to_completion(work: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None) -> T:
    """Run ``work`` to completion even if the caller is cancelled.

    Args:
        work: the coroutine.
        undo: called with the result if the caller is cancelled, for example to close an open file.

    Returns:
        The result of ``work``.

    Raises:
        asyncio.CancelledError: the caller was cancelled, after the end of ``work``.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # the caller may be cancelled again while it waits
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if task.exception() is None and undo:
            undo(task.result())
        raise


async def start_staggered(
    works: Iterable[Callable[[], Coroutine[Any, Any, T]]],
    patience: float,
    progress: Callable[[], object] = lambda: None,
) -> AsyncGenerator[asyncio.Task[T] | None, None]:
    """Start works one after the other: the next one after an end, or after a time without progress.

    Without progress means an unchanged ``progress()`` for ``patience`` seconds. Works still running at the
    end are cancelled.

    Args:
        works: functions that start a work; taken one at a time.
        patience: seconds without progress until the next work starts.
        progress: returns a value that changes with any progress.

    Yields:
        The task of each ended work; None after ``patience`` without progress once all have started.
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
            while done:  # popped, so that no result is kept while the caller uses the next
                yield done.pop()
    finally:
        await cancel(running)
        for task in running | done:
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio logs no warning


@asynccontextmanager
async def background_task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``work`` in the background during the block, then cancel it; log a failure of ``work``."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        await cancel([task])


class Notifier:
    """A condition variable between threads and event loops: wakes coroutines of any loop, from any thread."""

    def __init__(self) -> None:
        """Have no waiter yet."""
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until the predicate holds; evaluate the predicate at once and after each notification."""
        while not predicate():
            await self._wait(predicate)

    async def change(self) -> None:
        """Wait for the next notification."""
        await self._wait(lambda: False)

    async def _wait(self, predicate: Callable[[], bool]) -> None:
        """Wait for one notification, unless the predicate holds already."""
        waiting = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.add(waiting)
        try:
            if (
                not predicate()
            ):  # a thread may have notified after the last look, before this future was there
                await waiting
        finally:
            with self._lock:
                self._waiting.discard(waiting)

    def notify(self) -> None:
        """Wake all waiting coroutines to evaluate their predicates; callable from any thread."""
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        for future in waiting:
            if future.get_loop() is running:
                _wake(future)
            else:
                with suppress(RuntimeError):  # the waiter's loop has ended
                    future.get_loop().call_soon_threadsafe(_wake, future)


def _wake(waiting: asyncio.Future[None]) -> None:
    """Resolve a future on its own loop, unless its waiting coroutine was cancelled."""
    if not waiting.done():
        waiting.set_result(None)


class ThreadPool(ThreadPoolExecutor):
    """A thread pool that copes with a system unable to start more threads.

    Work then waits for an existing thread. With ``dedicated`` no work waits for another: each gets a thread
    at once, or fails.
    """

    def __init__(
        self,
        max_threads: int,
        name: str,
        initializer: Callable[[], object] | None = None,
        dedicated: bool = False,
    ) -> None:
        """Start no thread yet.

        Args:
            max_threads: threads at most.
            name: prefix of the threads' names.
            initializer: called at the start of each thread.
            dedicated: whether each work gets a thread of its own at once.
        """
        super().__init__(max_threads, name, initializer)
        self._alone = dedicated
        self._running: set[Future[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn`` in a thread.

        Raises:
            LocalLimit: no thread can be started for ``fn``.
        """
        future = super().submit(fn, *args, **kwargs)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _adjust_thread_count(self) -> None:
        """Start a thread when none is idle; ``submit`` calls this when the work is in the queue already.

        Raises:
            LocalLimit: the thread can't be started, and no other thread does the work.
        """
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            limit = LocalLimit.of(error)
            if limit is None:
                raise
            # A thread counts as idle only a moment after the result of its work is available.
            if not self._threads or (self._alone and len(self._running) >= len(self._threads)):
                raise limit from error


def _log_failure(task: asyncio.Future[None]) -> None:
    """Log the exception of an ended background task, if any."""
    if not task.cancelled() and task.exception():
        log.error("a background task failed", exc_info=task.exception())
