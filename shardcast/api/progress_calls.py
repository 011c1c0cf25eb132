"""Calls of a program's function with progress, in threads: beside an event loop, and beside a broadcast."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from shardcast.progress import REPORT_INTERVAL, OnProgress, Progress, checked_progress
from shardcast.progress_bar import ProgressBar


def called_in_thread(
    progress: OnProgress | bool | None, calling: set[int] | None = None
) -> OnProgress | bool:
    """Return an argument ``progress`` for the asynchronous client, which calls the function in a thread.

    So a slow function never keeps the event loop of a download waiting.

    Args:
        progress: the argument.
        calling: has the identifier of the thread while the function runs, which may end the work but not wait
            for its end.

    Raises:
        UsageError: it is neither a function nor True, or a bar needs a package that is not installed.
    """
    checked = checked_progress(progress)
    if checked is True:
        ProgressBar()  # fails here rather than in the background
    if isinstance(checked, bool):
        return checked

    calling = set() if calling is None else calling

    def call(progress: Progress) -> None:
        calling.add(threading.get_ident())
        try:
            checked(progress)
        except StopIteration as error:  # no future takes it
            raise RuntimeError("the function for the progress raised StopIteration") from error
        finally:
            calling.discard(threading.get_ident())

    async def tell(progress: Progress) -> None:
        await asyncio.to_thread(call, progress)

    return tell


class ProgressThread:
    """A thread that calls a function with the progress of a broadcast, ten times a second at most."""

    def __init__(
        self, progress: OnProgress | bool, look: Callable[[], Progress], on_failure: Callable[[], object]
    ) -> None:
        """Start the thread.

        Args:
            progress: the function; True for a bar.
            look: returns the present progress.
            on_failure: called where the function raises.

        Raises:
            UsageError: a bar needs a package that is not installed.
        """
        self._bar = ProgressBar() if progress is True else None
        self._function = progress if callable(progress) else None
        self._look, self._on_failure = look, on_failure
        self._failure: BaseException | None = None
        self._over, self._succeeded = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="shardcast", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this thread is the caller's: the function calls."""
        return threading.current_thread() is self._thread

    def finish(self, *, succeeded: bool) -> BaseException | None:
        """Wait for the last call, and return the function's exception; None where it raised none.

        Args:
            succeeded: whether the broadcast succeeded; then the function is called once more.
        """
        self._succeeded = succeeded
        self._over.set()
        self._thread.join()
        return self._failure

    def _run(self) -> None:
        """Call the function until the broadcast is over; the thread's function."""
        try:
            while not self._over.wait(REPORT_INTERVAL):
                self._call()
            if self._succeeded:
                self._call()
        except BaseException as error:  # noqa: BLE001  finish() returns it
            self._failure = error
            self._on_failure()
        finally:
            if self._bar:
                self._bar.close()

    def _call(self) -> None:
        progress = self._look()
        if self._bar:
            self._bar.show(progress)
        elif self._function:
            self._function(progress)
