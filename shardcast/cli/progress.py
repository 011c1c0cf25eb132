"""Progress on stderr: a bar on a terminal, elsewhere a plain line every few seconds."""

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
    from shardcast.transfer.limits import NeighbourProgress, Progress
    from shardcast.transfer.workers import Transfer

log = logging.getLogger(__name__)

_LINE_INTERVAL = 5.0
"""Seconds between two plain lines."""
_FRAME_INTERVAL = 0.1
"""Seconds between two frames of the bar."""
_MAX_SERVERS = 4
"""Maximum servers named beside the bar."""


class Display(Protocol):
    """A place that shows progress and notes."""

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        """Show progress.

        Args:
            what: name of the work.
            done: bytes that are done.
            size: bytes in all; None while unknown.
            detail: a few words beside the numbers.
        """

    def pause(self) -> None:
        """Show no progress until the next ``show``."""

    def note(self, text: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Remove the progress, for good."""


class _Silent:
    """A display that shows nothing, for ``--quiet``."""

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        """Ignore the progress."""

    def pause(self) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Ignore the note."""

    def close(self) -> None:
        """Do nothing."""


class _Lines:
    """A display of plain lines, one every 5 s at most."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._done_at_start: int | None = None  # bytes of an earlier run do not count for the rate

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        """Print a line if the last one is 5 s old."""
        now = time.monotonic()
        if self._done_at_start is None:
            self._done_at_start, self._started, self._last = done, now, now
        if now - self._last < _LINE_INTERVAL:
            return
        self._last = now
        share = f"{done / size:4.0%} of {format_size(size)}" if size else format_size(done)
        rate = format_rate((done - self._done_at_start) / (now - self._started))
        click.echo(f"{what}: {share} at {rate}, {detail}", err=True)

    def pause(self) -> None:
        """Begin a new rate with the next ``show``."""
        self._done_at_start = None

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)

    def close(self) -> None:
        """Do nothing: printed lines stay."""


class _Bar:
    """A display on a terminal: a bar that is redrawn ten times a second."""

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
            auto_refresh=False,  # would need a thread, and a limit of the process may allow none
            redirect_stdout=False,  # else rich prints results to stderr
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None, detail="", visible=False)
        self._drawn = 0.0
        self._progress.start()

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        """Update the bar, and redraw it if the last frame is 0.1 s old."""
        self._progress.update(
            self._task, description=what, completed=done, total=size, detail=detail, visible=True
        )
        now = time.monotonic()
        if now - self._drawn >= _FRAME_INTERVAL:
            self._drawn = now
            self._progress.refresh()

    def pause(self) -> None:
        """Hide the bar."""
        self._progress.update(self._task, visible=False)
        self._progress.refresh()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


class _Guarded:
    """A display whose failure never ends the work: after the first error it shows nothing more."""

    def __init__(self, open_display: Callable[[], Display]) -> None:
        self._display: Display = _Silent()
        self._do(lambda: setattr(self, "_display", open_display()))

    def show(self, what: str, done: int, size: int | None, detail: str) -> None:
        """Show progress."""
        self._do(lambda: self._display.show(what, done, size, detail))

    def pause(self) -> None:
        """Show no progress until the next ``show``."""
        self._do(lambda: self._display.pause())

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._do(lambda: self._display.note(text))

    def close(self) -> None:
        """Remove the progress."""
        self._do(lambda: self._display.close())

    def _do(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  a terminal, its description or rich can fail in any way
            log.debug("progress is no longer shown: %r", error)
            self._display = _Silent()


@contextlib.contextmanager
def progress_display(quiet: bool) -> Iterator[Display]:
    """Open the display that fits stderr, and close it at the end.

    Yields:
        The display; its methods raise nothing.
    """
    display = _Guarded(_Silent if quiet else _Bar if sys.stderr.isatty() else _Lines)
    try:
        yield display
    finally:
        display.close()


def note_display(quiet: bool) -> Display:
    """Return the display of a command that has notes and no progress."""
    return _Silent() if quiet else _Lines()


class ShowTransfer:
    """Shows the progress of one transfer after the other."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._transfer: Transfer | None = None

    def watch(self, transfer: Transfer) -> None:
        """Show this transfer from now on."""
        self._transfer = transfer

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._display.note(text)

    def pause(self) -> None:
        """Show no transfer until the next ``watch``."""
        self._transfer = None
        self._display.pause()

    async def run(self) -> None:
        """Show the progress ten times a second, until cancelled."""
        while True:
            if self._transfer:
                state = self._transfer.progress
                version = self._transfer.manifest.version
                self._display.show(version, state.done, state.size, _detail(state))
            await asyncio.sleep(_FRAME_INTERVAL)


def _detail(state: Progress) -> str:
    """Return the number of shards, the fastest servers that send now, and what neighbours do."""
    shards = f"shard {state.shards_done}/{state.shards}"
    busy = sorted(
        ((server.rate, url) for url, server in state.servers.items() if server.under_way or server.rate),
        key=lambda rate_and_url: -rate_and_url[0],
    )
    named = [f"{urlsplit(url).netloc} {format_rate(rate)}" for rate, url in busy[:_MAX_SERVERS]]
    more = [f"and {len(busy) - _MAX_SERVERS} more"] if len(busy) > _MAX_SERVERS else []
    servers = sum(server.received for server in state.servers.values())
    return ", ".join([shards, *named, *more, *neighbour_words(state.neighbours, servers)])


def neighbour_words(neighbours: NeighbourProgress, from_servers: int) -> list[str]:
    """Return what the neighbours in a swarm do, in words; none where there is no neighbour.

    Args:
        neighbours: what they do.
        from_servers: bytes that came from servers.
    """
    if neighbours == type(neighbours)():
        return []
    received = neighbours.received + from_servers
    part = f"{neighbours.received / received:.0%}" if received else "nothing"
    count = f"{neighbours.count} neighbour{'' if neighbours.count == 1 else 's'}"
    return [f"{part} from {count}", f"{format_size(neighbours.given)} given"]
