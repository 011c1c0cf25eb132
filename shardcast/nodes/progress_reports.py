"""Calls of a program's function with the progress of work in an event loop, beside the work."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from shardcast.concurrency import cancel, run_to_completion
from shardcast.nodes.release import NEIGHBOURS, Release
from shardcast.progress import REPORT_INTERVAL, OnProgress, Progress, checked_progress
from shardcast.progress_bar import ProgressBar

if TYPE_CHECKING:
    from shardcast.transfer.workers import Transfer

T = TypeVar("T")
Look = Callable[[], Progress | None]
"""Returns the present progress; None while there is none."""


class ProgressReports:
    """Calls a function with the progress of work: ten times a second at most, and once at the end.

    It is called in the event loop, one call after the other; an awaitable that it returns is awaited, and
    ``show`` of a bar runs in a thread. Its exception cancels the work.
    """

    def __init__(self, progress: OnProgress | bool | None, look: Look) -> None:
        """Call nothing yet.

        Args:
            progress: the function; True for a bar.
            look: looks at the work.

        Raises:
            UsageError: ``progress`` is neither, or a bar needs a package that is not installed.
        """
        checked = checked_progress(progress)
        self._bar = ProgressBar() if checked is True else None
        self._function = None if isinstance(checked, bool) else checked
        self._look = look

    async def beside(self, work: Awaitable[T], final: Callable[[T], Progress]) -> T:
        """Return the result of work, and tell its progress meanwhile.

        Args:
            work: the work; cancelled when the function raises.
            final: returns the progress to tell at the end, of the result.

        Raises:
            BaseException: whatever the work or the function raised.
        """
        if self._bar is None and self._function is None:
            return await work
        over = asyncio.Event()
        working, telling = asyncio.ensure_future(work), asyncio.ensure_future(self._tell(over))
        try:
            await asyncio.wait([working, telling], return_when=asyncio.FIRST_COMPLETED)
            over.set()
            if working.done():
                result = working.result()  # a failure of the work comes before one of the function
                await telling
                await self._call(final(result))
                return result
            telling.result()
            raise AssertionError("progress is told until the work is over")
        finally:
            await cancel([working, telling])
            for task in (working, telling):
                if not task.cancelled():
                    task.exception()  # retrieved, so that asyncio logs no warning
            if self._bar:
                self._bar.close()

    async def _tell(self, over: asyncio.Event) -> None:
        """Tell the progress until the work is over."""
        while not over.is_set():
            if progress := self._look():
                await run_to_completion(self._call(progress))  # the last call comes after this one's end
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_INTERVAL):
                    await over.wait()

    async def _call(self, progress: Progress) -> None:
        """Call the function, or draw the bar."""
        if self._bar:
            await asyncio.to_thread(self._bar.show, progress)
        elif self._function:
            result = self._function(progress)
            if inspect.isawaitable(result):
                await result


class WatchedTransfer:
    """The transfer of a client that began last."""

    def __init__(self, watch: Callable[[Transfer], None] | None = None) -> None:
        """Know no transfer.

        Args:
            watch: called with each transfer, too.
        """
        self._transfer: Transfer | None = None
        self._watch = watch

    def begin(self, transfer: Transfer) -> None:
        """Look at this transfer from now on."""
        self._transfer = transfer
        if self._watch:
            self._watch(transfer)

    def progress(self) -> Progress | None:
        """Return the progress of the transfer; None while there is none."""
        if self._transfer is None:
            return None
        state, manifest = self._transfer.progress, self._transfer.manifest
        received = {url: server.received for url, server in state.servers.items()}
        if state.neighbours.received:
            received[NEIGHBOURS] = state.neighbours.received
        rate = state.neighbours.rate + sum(server.rate for server in state.servers.values())
        return Progress(manifest.version, state.done, manifest.final_size, rate, received)

    def finish(self, release: Release) -> Progress:
        """Forget the transfer, and return the progress at its end: all is here."""
        self._transfer = None
        size = release.manifest.size
        rate = size / release.seconds if release.seconds and release.received else 0.0
        return Progress(release.version, size, size, rate, release.received)
