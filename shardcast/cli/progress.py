"""Progress for people: a bar on a terminal, else a plain line every few seconds. Always on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import click

from shardcast.sizes import format_rate, format_size

if TYPE_CHECKING:
    from shardcast.transfer.limits import Progress
    from shardcast.transfer.workers import Transfer

log = logging.getLogger(__name__)

_LINE_INTERVAL = 5.0
"""Seconds between two plain lines."""
_FRAME = 0.1
"""Seconds between two looks of the bar."""
_MOST_SERVERS = 4
"""Servers that are named beside the bar."""


class Display(Protocol):
    """Where progress is shown."""

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        """``done`` of ``size`` bytes (None while unknown), with a few words beside them."""

    def rest(self) -> None:
        """There is nothing to show for now."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """There is nothing to show any more."""


class _Silent:
    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        """Nothing: --quiet."""

    def rest(self) -> None:
        """Nothing: --quiet."""

    def note(self, text: str) -> None:
        """Nothing: --quiet."""

    def close(self) -> None:
        """Nothing: --quiet."""


class _Lines:
    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._at_first: int | None = None  # what was there before is not this one's speed

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        now = time.monotonic()
        if self._at_first is None:
            self._at_first, self._begun, self._last = done, now, now
        if now - self._last < _LINE_INTERVAL:
            return
        self._last = now
        share = f"{done / size:4.0%} of {format_size(size)}" if size else format_size(done)
        rate = format_rate((done - self._at_first) / (now - self._begun))
        click.echo(f"{what}: {share} at {rate}, {detail}", err=True)

    def rest(self) -> None:
        self._at_first = None

    def note(self, text: str) -> None:
        click.echo(text, err=True)

    def close(self) -> None:
        """Nothing: the lines are there."""


class _Bar:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=Console(stderr=True),
            transient=True,
            expand=True,
            auto_refresh=False,  # needs a thread, which a process may not have
            redirect_stdout=False,  # would print results to stderr
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None, detail="", visible=False)
        self._drawn = 0.0
        self._progress.start()

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        self._progress.update(
            self._task, description=what, completed=done, total=size, detail=detail, visible=True
        )
        now = time.monotonic()
        if now - self._drawn >= _FRAME:
            self._drawn = now
            self._progress.refresh()

    def rest(self) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.refresh()

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


class _Guarded:
    """A display that shows nothing more once showing has failed: that never ends the work."""

    def __init__(self, open_display: Callable[[], Display]) -> None:
        self._display: Display = _Silent()
        self._do(lambda: setattr(self, "_display", open_display()))

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        self._do(lambda: self._display.show(what, done, size, detail))

    def rest(self) -> None:
        self._do(lambda: self._display.rest())

    def note(self, text: str) -> None:
        self._do(lambda: self._display.note(text))

    def close(self) -> None:
        self._do(lambda: self._display.close())

    def _do(self, tell: Callable[[], object]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001  whatever it is
            log.debug("progress is no longer shown: %r", error)
            self._display = _Silent()


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Display]:
    """The display that fits where stderr goes. Its methods raise nothing."""
    display = _Guarded(_Silent if quiet else _Bar if sys.stderr.isatty() else _Lines)
    try:
        yield display
    finally:
        display.close()


def notes(quiet: bool) -> Display:
    """The display of a command that has notes and no progress."""
    return _Silent() if quiet else _Lines()


class ShowTransfer:
    """Shows a transfer for as long as it runs."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._transfer: Transfer | None = None

    def watch(self, transfer: Transfer) -> None:
        """Show this one from now on."""
        self._transfer = transfer

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._display.note(text)

    def rest(self) -> None:
        """Show none until the next one."""
        self._transfer = None
        self._display.rest()

    async def forever(self) -> None:
        """Until it is cancelled."""
        while True:
            if self._transfer:
                now = self._transfer.progress
                what = self._transfer.manifest.version
                self._display.show(what, now.done, now.size, _detail(now))
            await asyncio.sleep(_FRAME)


def _detail(now: Progress) -> str:
    shards = f"shard {now.shards_done}/{now.shards}"
    busy = sorted(
        ((one.rate, url) for url, one in now.servers.items() if one.under_way), key=lambda one: -one[0]
    )
    named = [f"{urlsplit(url).netloc} {format_rate(rate)}" for rate, url in busy[:_MOST_SERVERS]]
    more = [f"and {len(busy) - _MOST_SERVERS} more"] if len(busy) > _MOST_SERVERS else []
    return ", ".join([shards, *named, *more])
