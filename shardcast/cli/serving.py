"""What the commands of nodes that serve have in common: say where they listen, end when they are told to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import click

from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError
from shardcast.file_locks import ENDING
from shardcast.nodes.child_process import report_ready
from shardcast.nodes.runtime import process_gone


class Running(Protocol):
    """A node that runs."""

    @property
    def url(self) -> str: ...


Node = TypeVar("Node", bound=Running)


class ForegroundNode:
    """Serves until SIGINT, SIGTERM or the end of the process that started this one; a start is cut off then,
    and running answers have 5 s left."""

    def __init__(self, ready_fd: int | None, parent: int | None) -> None:
        self._ready_fd = ready_fd
        self._parent = parent

    async def serve(
        self, node: AbstractAsyncContextManager[Node], started: object = None, until: object = None
    ) -> None:
        """Run a node; ``started(node)`` is awaited once it listens. It ends when ``until(node)`` does, too.

        Raises:
            ShardcastError: it can't start, or ``started`` failed.
        """
        loop, told = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            told.set()
            ENDING.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        watching: list[asyncio.Future[Any]] = [asyncio.ensure_future(told.wait())]
        if self._parent:
            watching.append(asyncio.ensure_future(process_gone(self._parent)))
        try:
            try:
                running = await _unless(watching, node.__aenter__())
            except ShardcastError as error:
                self._report(None, error)
                raise
            if running is None:
                return
            try:
                click.echo(f"Listening on {running.url}", err=True)
                self._report(running.url)
                if callable(started):
                    watching.append(asyncio.ensure_future(_then_forever(started(running))))
                if callable(until):
                    watching.append(asyncio.ensure_future(until(running)))
                done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                await node.__aexit__(None, None, None)
        finally:
            for task in watching:
                task.cancel()

    def _report(self, url: str | None, error: ShardcastError | None = None) -> None:
        if self._ready_fd is not None:
            report_ready(self._ready_fd, url, error)


async def _unless(ends: list[asyncio.Future[Any]], start: Coroutine[Any, Any, Node]) -> Node | None:
    """Await ``start``, which may wait for a file, a lock or a disk; None where one of ``ends`` came first."""
    starting = asyncio.ensure_future(start)
    try:
        await asyncio.wait([starting, *ends], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            return starting.result()
    finally:
        await cancel([starting])
    ended = starting.cancelled() or starting.exception() is not None  # waits that end are errors
    return None if ended else starting.result()


async def _then_forever(work: object) -> None:
    assert asyncio.iscoroutine(work)
    await work
    await asyncio.Event().wait()
