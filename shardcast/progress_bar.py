"""The bar of ``progress=True``; beside the commands the only place that draws on a terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from shardcast.errors import UsageError
from shardcast.progress import Progress
from shardcast.sizes import format_rate, format_size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

log = logging.getLogger(__name__)


class ProgressBar:
    """A bar on stderr, or in a notebook: one for each version; elsewhere one line at the end.

    A terminal that fails never ends the work: after the first error nothing more is shown.
    """

    def __init__(self) -> None:
        """Draw nothing yet.

        Raises:
            UsageError: rich is not installed.
        """
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress
        except ImportError as error:
            raise UsageError(
                f"progress=True needs the package rich ({error}); install it, or give a function"
            ) from error
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
        )
        # The program's own stdout and stderr stay as they are: it prints while a version is followed.
        self._new_bar: Callable[[], RichProgress] = lambda: RichProgress(
            *columns,
            console=Console(stderr=True),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar: RichProgress | None = None
        self._has_failed = False

    def show(self, progress: Progress) -> None:
        """Draw the bar."""
        if not self._has_failed:
            self._guard(lambda: self._show(progress))

    def close(self) -> None:
        """Leave the bar as it is; the next version gets another one."""
        bar, self._bar = self._bar, None
        if bar:
            self._guard(bar.stop)

    def _show(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = self._new_bar()
            self._bar.start()
            self._bar.add_task("", total=None, numbers="")
        task = self._bar.task_ids[0]
        self._bar.update(
            task,
            description=progress.version or "",
            completed=progress.done,
            total=progress.size,
            numbers=numbers(progress),
        )
        self._bar.refresh()

    def _guard(self, draw: Callable[[], object]) -> None:
        try:
            draw()
        except Exception as error:  # noqa: BLE001  a terminal, its description or rich can fail in any way
            log.debug("progress is no longer shown: %r", error)
            self._has_failed = True


def numbers(progress: Progress) -> str:
    """Return the words beside a bar: how much of how many bytes, how fast, for how long still."""
    size, left = progress.size, progress.seconds_left
    of = "" if size is None else f" of {format_size(size)}"
    words = [f"{format_size(progress.done)}{of}"]
    words += [format_rate(progress.rate)] if progress.rate else []
    words += [f"{left:.0f} s left"] if left else []
    return ", ".join(words)
