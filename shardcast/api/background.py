"""A coroutine in a thread of its own, so that it also works beside a running event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from shardcast.nodes.runtime import run

T = TypeVar("T")


class Background(Generic[T]):
    """Work that has begun."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._outcome: list[T] = []
        self._failure: BaseException | None = None
        self._under_way: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._begun = threading.Event()
        # Waited for instead of the thread: before Python 3.13, a join that is interrupted takes it for ended.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shardcast", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        async def body() -> T:
            task = asyncio.current_task()
            assert task
            self._under_way = asyncio.get_running_loop(), task
            self._begun.set()
            return await self._work

        try:
            self._outcome.append(run(body()))
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that asks for the result
            self._failure = error
        finally:
            self._begun.set()
            self._ended.set()

    def tell_to_end(self) -> None:
        """End it, soon."""
        self._begun.wait()
        if self._under_way:
            loop, task = self._under_way
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                pass  # it has just ended

    def cancel(self) -> None:
        """End it, and wait until it has ended; what arrived is kept."""
        self._begun.wait()
        while not self._ended.is_set():
            self.tell_to_end()
            self._ended.wait(_AGAIN)
        self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended, within so many seconds."""
        return self._ended.wait(timeout)

    def result(self) -> T:
        """Wait for its result; who is interrupted meanwhile ends it."""
        try:
            self._ended.wait()
        except BaseException:
            self.cancel()
            raise
        if self._failure:
            raise self._failure
        return self._outcome[0]


_AGAIN = 0.5
"""Seconds until work that goes on is cancelled again."""
