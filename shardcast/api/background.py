"""Coroutines in a thread with an event loop of its own, for callers with or without a running loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from shardcast.api.completion import Completion
from shardcast.nodes.runtime import run

T = TypeVar("T")


class Background(Generic[T]):
    """A coroutine running in a thread of its own.

    Attributes:
        ended: set at the end of the coroutine.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        """Start a thread, and run ``work`` in an event loop there."""
        self._work = work
        self._outcome: list[T] = []
        self._failure: BaseException | None = None
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._started = threading.Event()
        # Waited for instead of the thread: before Python 3.13 an interrupted join takes the thread for ended.
        self.ended = Completion()
        self._thread = threading.Thread(target=self._run, name="shardcast", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Run the work to its end and store the outcome; the thread's function."""

        async def body() -> T:
            task = asyncio.current_task()
            assert task
            self._running = asyncio.get_running_loop(), task
            self._started.set()
            return await self._work

        try:
            self._outcome.append(run(body()))
        except BaseException as error:  # noqa: BLE001  result() raises it in the caller's thread
            self._failure = error
        finally:
            self._started.set()
            self.ended.set()

    def request_cancel(self) -> None:
        """Cancel the work without waiting for its end."""
        self._started.wait()
        if self._running:
            loop, task = self._running
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                pass  # the loop is closed: the work has just ended

    def cancel(self) -> None:
        """Cancel the work, again each 0.5 s, and wait for its end; do nothing after that."""
        self._started.wait()
        while not self.ended.is_set():
            self.request_cancel()
            self.ended.wait(_CANCEL_INTERVAL)
        self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds for the end of the work; return whether the work has ended."""
        return self.ended.wait(timeout)

    def result(self) -> T:
        """Wait for the result and return the result; an interrupt of the wait cancels the work.

        Raises:
            BaseException: any exception of the work.
        """
        try:
            self.ended.wait()
        except BaseException:
            self.cancel()
            raise
        if self._failure:
            raise self._failure
        return self._outcome[0]


_CANCEL_INTERVAL = 0.5
"""Seconds until unfinished work is cancelled again: a task can swallow a cancellation."""
