"""A node in the foreground: print the address, serve, and end by a signal or with the parent process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import click

from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError
from shardcast.file_locks import PROCESS_ENDING
from shardcast.nodes.child_process import report_ready
from shardcast.nodes.runtime import wait_for_exit


class Running(Protocol):
    """A running node."""

    @property
    def url(self) -> str:
        """Base URL of the node's listener."""


Node = TypeVar("Node", bound=Running)
T = TypeVar("T")


class ForegroundNode:
    """A node that serves until SIGINT, SIGTERM or the end of the parent process.

    Then a start still waiting is cancelled; running answers get 5 s to end.
    """

    def __init__(self, ready_fd: int | None, parent: int | None) -> None:
        """Note the process to report to.

        Args:
            ready_fd: descriptor for the node's URL or the error of the start; None for none.
            parent: process whose end ends the node; None for none.
        """
        self._ready_fd = ready_fd
        self._parent = parent

    def prepare(self, load: Callable[[], T]) -> T:
        """Return the result of ``load``, needed for the node's start; report an error as one of the start.

        Raises:
            ShardcastError: ``load`` failed; the parent process was told.
        """
        try:
            return load()
        except ShardcastError as error:
            self._report(None, error)
            raise

    async def serve(
        self, node: AbstractAsyncContextManager[Node], started: object = None, until: object = None
    ) -> None:
        """Run a node until a signal, the end of the parent, or the end of ``until``; print the URL on stderr.

        Args:
            node: the node; entering starts it.
            started: coroutine function, called with the listening node; None for none.
            until: coroutine function, called with the node; its end ends the node; None for none.

        Raises:
            ShardcastError: the node can't start, or ``started`` or ``until`` failed.
        """
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            ended.set()
            PROCESS_ENDING.set()  # threads that wait for a lock see only this

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        watching: list[asyncio.Future[Any]] = [asyncio.ensure_future(ended.wait())]
        if self._parent:
            watching.append(asyncio.ensure_future(wait_for_exit(self._parent)))
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
        """Report the URL, or the error of the start, to the parent process."""
        if self._ready_fd is not None:
            report_ready(self._ready_fd, url, error)


async def _unless(ends: list[asyncio.Future[Any]], start: Coroutine[Any, Any, Node]) -> Node | None:
    """Await ``start``, possibly a wait for a file, a lock or a disk, unless one of ``ends`` comes first.

    Returns:
        The node; None after a cancelled start, or a failure due to the cancellation.
    """
    starting = asyncio.ensure_future(start)
    try:
        await asyncio.wait([starting, *ends], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            return starting.result()
    finally:
        await cancel([starting])
    # A wait for a lock raises an error if ENDING interrupts it; the signal is the cause, so the error is not
    # reported.
    failed = starting.cancelled() or starting.exception() is not None
    return None if failed else starting.result()


async def _then_forever(work: object) -> None:
    """Await ``work``, and never return: only a failure of ``work`` ends the node."""
    assert asyncio.iscoroutine(work)
    await work
    await asyncio.Event().wait()
