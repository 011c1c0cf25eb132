"""Runtime of a node in its process: the event loop, the limits, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from shardcast.concurrency import ThreadPool
from shardcast.errors import LocalLimit
from shardcast.file_locks import PROCESS_ENDING

T = TypeVar("T")

log = logging.getLogger(__name__)

_LIBUV_THREADS = 4
"""Threads started by libuv for its first name look-up."""
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
_TOLD_AGAIN = 60.0
"""Seconds until a lack of descriptors or memory for connections is logged again."""
_THREADS = 6
"""Threads for hashing, writing and fsync; more than four writers on one file only wait for each other."""
_FEW_THREADS = 2
"""The same where the system gives few threads: receiving shards needs some, too."""


class Terminated(KeyboardInterrupt):
    """The process was told to end by SIGTERM."""


def run(main: Coroutine[Any, Any, T], fast_loop: bool = False) -> T:
    """Run a coroutine to its end on an event loop of its own.

    A serving node runs on asyncio's own loop, for its sendfile; a receiving command can run on uvloop
    (``fast_loop``; figures in docs/performance.md). The library does not use uvloop: uvloop starts threads,
    and a process with threads may not survive a later fork.

    Raises:
        KeyboardInterrupt: the process was told to end (SIGINT, SIGTERM).
    """
    try:
        raise_file_limit()
        enough = _can_start(_THREADS + _LIBUV_THREADS)
        loop = _new_loop(fast_loop and enough)
        loop.set_exception_handler(_Shortage().tell)
        loop.set_default_executor(ThreadPool(_THREADS if enough else _FEW_THREADS, "shardcast"))
    except BaseException:
        main.close()
        raise
    interrupted: type[KeyboardInterrupt] | None = None
    try:
        asyncio.set_event_loop(loop)
        task = loop.create_task(main)

        def interrupt(number: int) -> None:
            nonlocal interrupted
            interrupted = Terminated if number == signal.SIGTERM else KeyboardInterrupt
            task.cancel()
            PROCESS_ENDING.set()

        handled = []
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread
                loop.add_signal_handler(number, interrupt, number)
                handled.append(number)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            if interrupted:
                raise interrupted from None
            raise
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
    finally:
        try:
            if loop.is_running():  # uvloop believes so for ever after it could not open its descriptors
                main.close()
            else:
                _end(loop)
        finally:
            asyncio.set_event_loop(None)
            PROCESS_ENDING.clear()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks left on a loop, wait for the loop's threads, and close the loop."""
    try:
        leftover = asyncio.all_tasks(loop)
        for task in leftover:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        with contextlib.suppress(RuntimeError):  # it needs a thread to wait for the others
            loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class _Shortage:
    """A log of shortages: the system lacks a descriptor or memory for a new connection.

    No connection is accepted during a shortage, and asyncio logs this in debug mode only.
    """

    def __init__(self) -> None:
        self._told_at = -math.inf

    def tell(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error of the loop: log a shortage once a minute, and any other error as asyncio does."""
        error = context.get("exception")
        limit = LocalLimit.of(error) if error else None
        if limit is None:
            loop.default_exception_handler(context)
        elif loop.time() - self._told_at >= _TOLD_AGAIN:
            self._told_at = loop.time()
            what = str(context.get("message"))
            log.error("%s: %s", "no connection is accepted for now" if "accept" in what else what, limit)


def _new_loop(fast: bool) -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's if ``fast`` and uvloop can be loaded, else asyncio's."""
    if fast and sys.platform != "win32":
        try:
            import uvloop
        except ImportError as error:  # too little memory to load it
            log.debug("uvloop is not used: %s", error)
        else:
            loop = uvloop.new_event_loop()
            # The first look-up starts libuv's threads: do it now, before other code takes the last threads.
            loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 0), _NUMERIC))
            return loop
    return asyncio.new_event_loop()


def _can_start(count: int) -> bool:
    """Return whether the system gives this process so many more threads now.

    libuv doesn't check: without threads for its look-ups, libuv aborts the process (exit code 134) without a
    message.
    """
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        return False
    finally:
        done.set()
        for thread in started:
            thread.join()
    return True


@functools.cache
def callers_file_limit() -> int:
    """Return the limit of open files at the start of this process; call before the limit is raised."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_file_limit() -> None:
    """Allow as many open files as the system does: each reader and each shard under way takes one."""
    callers_file_limit()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def wait_for_exit(pid: int) -> None:
    """Wait until the parent process has ended; ``pid`` is the parent's id at the start of this process."""
    loop = asyncio.get_running_loop()
    if os.getppid() != pid:
        return
    if sys.platform == "linux":
        gone = asyncio.Event()
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            pass
        else:
            loop.add_reader(descriptor, gone.set)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
            return
    while os.getppid() == pid:  # noqa: ASYNC110  macOS has no event for it
        await asyncio.sleep(1)
