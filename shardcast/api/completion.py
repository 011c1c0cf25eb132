"""The end of work in a thread: waiting for the end, and calling functions at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

log = logging.getLogger("shardcast")


class Completion:
    """An event set at the end of work, and the functions to call then."""

    def __init__(self) -> None:
        """Begin as not ended."""
        self._lock = threading.RLock()  # reentrant: a signal handler may add a callback
        self._ended = threading.Event()
        self._callbacks: list[tuple[Callable[[], object], str]] = []

    def is_set(self) -> bool:
        """Return whether the work has ended."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end at most ``timeout`` seconds; return whether the work has ended."""
        return self._ended.wait(timeout)

    def set(self) -> None:
        """Set the event, and call the functions in the order of their addition."""
        with self._lock:
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback, work in callbacks:
            # One that raises SystemExit keeps no other from being called.
            _call(callback, work, BaseException)

    def add_callback(self, callback: Callable[[], object], work: str = "a broadcast") -> None:
        """Call a function at the end, in the thread of the work; at once where the work has ended.

        An exception of the function is logged, with ``work`` as the name of the work.
        """
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append((callback, work))
                return
        _call(callback, work, Exception)

    async def reached(self) -> None:
        """Wait for the end without blocking the event loop."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: its tasks wait no more
                loop.call_soon_threadsafe(ended.set)

        self.add_callback(tell)
        await ended.wait()


def _call(callback: Callable[[], object], work: str, logged: type[BaseException]) -> None:
    """Call a function at the end of ``work``, and log an exception of the type ``logged``."""
    try:
        callback()
    except logged:
        log.exception("the callback at the end of %s failed", work)
