"""What the commands of nodes that serve have in common: say where they listen, end when they are told to."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import click

from shardcast.errors import ShardcastError
from shardcast.file_locks import ENDING
from shardcast.nodes.child_process import report_ready
from shardcast.nodes.runtime import process_gone


class Running(Protocol):
    """A node that runs."""

    @property
    def url(self) -> str: ...


Node = TypeVar("Node", bound=Running)


class Session:
    """Serves until SIGINT, SIGTERM or the end of the process that started this one; what comes while the node
    starts ends that. Running answers have 5 s left."""

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
        loop, told, starting = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()

        def end(*_: object) -> None:
            told.set()
            ENDING.set()
            if starting:
                starting.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        watching: list[asyncio.Future[Any]] = [asyncio.ensure_future(told.wait())]
        if self._parent:
            watching.append(asyncio.ensure_future(process_gone(self._parent)))
            watching[-1].add_done_callback(end)
        try:
            try:
                running = await node.__aenter__()
            except ShardcastError as error:
                self._report(None, error)
                raise
            except asyncio.CancelledError:
                if not told.is_set():
                    raise
                return
            finally:
                starting = None
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


async def _then_forever(work: object) -> None:
    assert asyncio.iscoroutine(work)
    await work
    await asyncio.Event().wait()
