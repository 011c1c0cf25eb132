"""Progress on stderr: one line drawn again on a terminal, elsewhere a plain line every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import click

from shardcast.cli.progress_line import progress_line
from shardcast.progress import RecentRate
from shardcast.sizes import format_count, format_rate, format_size

if TYPE_CHECKING:
    from shardcast.transfer.limits import NeighbourProgress, TransferProgress
    from shardcast.transfer.workers import Transfer

log = logging.getLogger(__name__)

_LINE_INTERVAL = 5.0
"""Seconds between two plain lines."""
_FRAME_INTERVAL = 0.1
"""Seconds between two frames of the bar."""
_MAX_SERVERS = 2
"""Maximum servers named, the fastest ones, where there is room."""
_CLEAR_LINE = "\r\x1b[K"
"""Moves a terminal's cursor to the start of the line, and clears the line."""
_FALLBACK_WIDTH = 80
"""Columns of a terminal of unknown width."""


class Display(Protocol):
    """A place to show progress and notes."""

    def show(self, what: str, done: int, size: int | None, *detail: str) -> None:
        """Show progress.

        Args:
            what: name of the work.
            done: bytes done.
            size: bytes in all; None while unknown.
            *detail: words beside the numbers, the most important first.
        """

    def pause(self) -> None:
        """Show no progress until the next ``show``."""

    def erase(self) -> None:
        """Remove the progress until the next ``show``, for a line of another writer."""

    def note(self, text: str) -> None:
        """Print a permanent line."""

    def close(self) -> None:
        """Remove the progress, for good."""


class _Silent:
    """A display without output, for ``--quiet``."""

    def show(self, what: str, done: int, size: int | None, *detail: str) -> None:
        """Ignore the progress."""

    def pause(self) -> None:
        """Do nothing."""

    def erase(self) -> None:
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

    def show(self, what: str, done: int, size: int | None, *detail: str) -> None:
        """Print a line if the last one is 5 s old."""
        now = time.monotonic()
        if self._done_at_start is None:
            self._done_at_start, self._started, self._last = done, now, now
        if now - self._last < _LINE_INTERVAL:
            return
        self._last = now
        share = f"{done / size:4.0%} of {format_size(size)}" if size else format_size(done)
        rate = format_rate((done - self._done_at_start) / (now - self._started))
        click.echo(", ".join([f"{what}: {share} at {rate}", *filter(None, detail)]), err=True)

    def pause(self) -> None:
        """Begin a new rate with the next ``show``."""
        self._done_at_start = None

    def erase(self) -> None:
        """Do nothing: printed lines stay."""

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)

    def close(self) -> None:
        """Do nothing: printed lines stay."""


class _Bar:
    """A display on a terminal: one line, drawn again ten times a second, without wrapping."""

    def __init__(self) -> None:
        self._rate = RecentRate()
        self._drawn: float | None = None  # when the line was drawn that is on the terminal now

    def show(self, what: str, done: int, size: int | None, *detail: str) -> None:
        """Draw the line again if the last drawing was 0.1 s ago."""
        now = time.monotonic()
        if self._drawn is not None and now - self._drawn < _FRAME_INTERVAL:
            return
        rate = self._rate.observe(now, done)
        line = progress_line(_terminal_width(), what, done, size, rate, detail)
        click.echo(f"{_CLEAR_LINE}{line}", nl=False, err=True)
        self._drawn = now

    def pause(self) -> None:
        """Remove the line, and begin a new rate with the next ``show``."""
        self.erase()
        self._rate = RecentRate()

    def note(self, text: str) -> None:
        """Print a line in place of the progress; the progress is drawn again below."""
        self.erase()
        click.echo(text, err=True)

    def close(self) -> None:
        """Remove the line."""
        self.erase()

    def erase(self) -> None:
        """Remove the line until the next drawing."""
        if self._drawn is not None:
            click.echo(_CLEAR_LINE, nl=False, err=True)
            self._drawn = None


def _terminal_width() -> int:
    """Return the present columns of the terminal at stderr; a user may resize the terminal any time."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _FALLBACK_WIDTH
    except OSError:
        return _FALLBACK_WIDTH


class _Guarded:
    """A display whose failure never ends the work: after the first error nothing more is shown."""

    def __init__(self, open_display: Callable[[], Display]) -> None:
        self._display: Display = _Silent()
        self._do(lambda: setattr(self, "_display", open_display()))

    def show(self, what: str, done: int, size: int | None, *detail: str) -> None:
        """Show progress."""
        self._do(lambda: self._display.show(what, done, size, *detail))

    def pause(self) -> None:
        """Show no progress until the next ``show``."""
        self._do(lambda: self._display.pause())

    def erase(self) -> None:
        """Remove the progress until the next ``show``."""
        self._do(lambda: self._display.erase())

    def note(self, text: str) -> None:
        """Print a permanent line."""
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
    """Open the right display for stderr, and close the display at the end.

    Yields:
        The display; the methods raise nothing.
    """
    display = _Guarded(_Silent if quiet else _Bar if _can_redraw() else _Lines)
    try:
        with _erased_for_log(display):
            yield display
    finally:
        display.close()


@contextlib.contextmanager
def _erased_for_log(display: Display) -> Iterator[None]:
    """Erase the progress before each line of the log, or the line would be appended to the progress."""

    def erase(_record: logging.LogRecord) -> bool:
        display.erase()
        return True

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(erase)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(erase)


def _can_redraw() -> bool:
    """Return whether stderr is a terminal able to redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def note_display(quiet: bool) -> Display:
    """Return the display of a command with notes and no progress."""
    return _Silent() if quiet else _Lines()


class Interrupted(click.Abort):
    """Ctrl-C, with a message about the kept work."""


@contextlib.contextmanager
def interruptible(words: str) -> Iterator[None]:
    """Report at Ctrl-C the kept part of the work, and how to continue.

    Raises:
        Interrupted: instead of ``KeyboardInterrupt``.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(words) from None


class ShowTransfer:
    """Shows the progress of one transfer after the other."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._transfer: Transfer | None = None

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Report at Ctrl-C the kept part of the shown transfer, and how to continue.

        Raises:
            Interrupted: instead of ``KeyboardInterrupt``, while a transfer is shown.
        """
        try:
            yield
        except KeyboardInterrupt:
            if self._transfer is None:
                raise
            version = self._transfer.manifest.version
            raise Interrupted(
                f"Received bytes of {version} are kept; repeat the command to continue."
            ) from None

    def watch(self, transfer: Transfer) -> None:
        """Show this transfer from now on."""
        self._transfer = transfer

    def note(self, text: str) -> None:
        """Print a permanent line."""
        self._display.note(text)

    def pause(self) -> None:
        """Show no transfer until the next ``watch``."""
        self._transfer = None
        self._display.pause()

    async def run(self) -> None:
        """Show the progress ten times a second, until cancelled."""
        while True:
            if self._transfer:
                manifest, state = self._transfer.manifest, self._transfer.progress
                self._display.show(manifest.version, state.done, manifest.final_size, *_detail(state))
            await asyncio.sleep(_FRAME_INTERVAL)


def _detail(state: TransferProgress) -> list[str]:
    """Return the numbers of shards and of sending servers, the neighbours' part, the fastest servers."""
    busy = sorted(
        ((server.rate, url) for url, server in state.servers.items() if server.under_way or server.rate),
        key=lambda rate_and_url: -rate_and_url[0],
    )
    named = [f"{urlsplit(url).netloc} {format_rate(rate)}" for rate, url in busy[:_MAX_SERVERS]]
    from_servers = sum(server.received for server in state.servers.values())
    return [
        f"shard {state.shards_done}/{state.shards}",
        format_count(len(busy), "server"),
        *neighbour_words(state.neighbours, from_servers),
        *named,
    ]


def neighbour_words(neighbours: NeighbourProgress, from_servers: int) -> list[str]:
    """Return the activity of the neighbours in a swarm, in words; nothing without neighbours.

    Args:
        neighbours: the activity.
        from_servers: bytes received from servers.
    """
    if neighbours == type(neighbours)():
        return []
    received = neighbours.received + from_servers
    part = f"{neighbours.received / received:.0%}" if received else "nothing"
    count = f"{neighbours.count} neighbour{'' if neighbours.count == 1 else 's'}"
    return [f"{part} from {count}", f"{format_size(neighbours.given)} given"]
