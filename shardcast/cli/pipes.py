"""Reading from and writing to what may let us wait: pipes, terminals, sockets. A signal ends each such wait.

A thread in ``read(2)`` or ``write(2)`` can't be called back, and a process that ends waits for its threads.
So they only ever wait in ``poll(2)``, for a moment, and look whether they are still wanted.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_AGAIN = 100
"""Milliseconds until a thread that waits looks whether that is still wanted."""


def open_input(path: str) -> int:
    """Open a file for reading. A named pipe is not waited for here, but by the first who reads.

    Raises:
        OSError: it can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor


async def read_some(descriptor: int, most: int) -> bytes:
    """Return the bytes that come next, as many as are there up to ``most``; none at the end.

    Raises:
        OSError: it can't be read.
    """
    return await _in_thread(lambda unwanted: _read(descriptor, most, unwanted))


async def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """
    Raises:
        BrokenPipeError: the reader has gone.
        OSError: it can't be written.
    """
    await _in_thread(lambda unwanted: _write(descriptor, memoryview(data), unwanted))


async def _in_thread(work: Callable[[Callable[[], bool]], T]) -> T:
    """Have ``work(unwanted)`` done in a thread; it has ended when this has."""
    cancelled = threading.Event()
    job = asyncio.ensure_future(asyncio.to_thread(work, cancelled.is_set))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([job])
        raise


def _read(descriptor: int, most: int, unwanted: Callable[[], bool]) -> bytes:
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    pieces: list[bytes] = []
    while most and not unwanted():
        if not ready.poll(0 if pieces else _LOOK_AGAIN):
            if pieces:
                break
            continue
        piece = os.read(descriptor, most)
        if not piece:
            break
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _write(descriptor: int, left: memoryview, unwanted: Callable[[], bool]) -> None:
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    # A pipe that is ready takes so much without making us wait.
    portion = len(left) if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
    while left and not unwanted():
        if ready.poll(_LOOK_AGAIN):
            left = left[os.write(descriptor, left[:portion]) :]
