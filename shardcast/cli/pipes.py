"""Interruptible reads and writes of descriptors that may block: pipes, terminals, sockets.

A thread in ``read(2)`` or ``write(2)`` can't be interrupted, and an ending process waits for its threads. So
threads block only in ``poll(2)``, 0.1 s at a time, and check for cancellation in between.
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

_POLL_MILLISECONDS = 100
"""Maximum milliseconds for a cancelled thread to go on waiting."""


def open_input(path: str) -> int:
    """Open a file for reading, and return a blocking descriptor.

    Opening a named pipe does not wait for a writer; the first read does.

    Raises:
        OSError: the file can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor


async def read_some(descriptor: int, max_bytes: int) -> bytes:
    """Wait for bytes, and return the available ones, at most ``max_bytes``; none at the end.

    Raises:
        OSError: the descriptor can't be read.
    """
    return await _in_thread(lambda cancelled: _read(descriptor, max_bytes, cancelled))


async def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes, as fast as the reader takes them.

    Raises:
        BrokenPipeError: the reader has gone.
        OSError: the descriptor can't be written.
    """
    await _in_thread(lambda cancelled: _write(descriptor, memoryview(data), cancelled))


async def _in_thread(work: Callable[[Callable[[], bool]], T]) -> T:
    """Run ``work(cancelled)`` in a thread; when this returns or raises, the work has ended.

    ``cancelled()`` becomes true when this task is cancelled, and ``work`` returns soon after.
    """
    cancelled = threading.Event()
    job = asyncio.ensure_future(asyncio.to_thread(work, cancelled.is_set))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([job])
        raise


def _read(descriptor: int, max_bytes: int, cancelled: Callable[[], bool]) -> bytes:
    """Wait for the first bytes, then return the available ones without another wait."""
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    pieces: list[bytes] = []
    while max_bytes and not cancelled():
        if not ready.poll(0 if pieces else _POLL_MILLISECONDS):
            if pieces:
                break
            continue
        piece = os.read(descriptor, max_bytes)
        if not piece:
            break
        pieces.append(piece)
        max_bytes -= len(piece)
    return b"".join(pieces)


def _write(descriptor: int, data: memoryview, cancelled: Callable[[], bool]) -> None:
    """Write in portions small enough not to block a ready descriptor."""
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    # A pipe ready in poll accepts PIPE_BUF bytes without blocking; more only perhaps.
    portion = len(data) if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
    while data and not cancelled():
        if ready.poll(_POLL_MILLISECONDS):
            data = data[os.write(descriptor, data[:portion]) :]
