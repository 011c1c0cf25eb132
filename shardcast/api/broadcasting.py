"""Handle of a broadcast in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardcast.api.completion import Completion
from shardcast.api.progress_calls import ProgressThread
from shardcast.control.waiting import check_copies, copies_missing, wait_for_copies
from shardcast.errors import UsageError
from shardcast.progress import OnProgress, Progress, RecentRate
from shardcast.sizes import format_size


@dataclass(frozen=True, slots=True)
class BroadcastProgress:
    """Progress of a broadcast.

    Attributes:
        done: bytes cut, hashed and stored.
        size: bytes of the payload; None while an earlier broadcast goes first.
        copies: nodes below with the version whole and verified; counted only while a caller waits for copies.
    """

    done: int
    size: int | None
    copies: int = 0


def describe_progress(progress: BroadcastProgress) -> str:
    """Return in words how far a broadcast is."""
    of = "" if progress.size is None else f" of {format_size(progress.size)}"
    return f"{format_size(progress.done)}{of}"


class Broadcast:
    """Handle of a running broadcast; ``await`` gives the result, too.

    Attributes:
        version: the version's name, ``v7``.
    """

    def __init__(
        self,
        messages: Iterator[Mapping[str, Any]],
        data_dir: Path,
        copies: int | None = None,
        timeout: float | None = None,
        *,
        break_off: Callable[[], object],
        on_progress: OnProgress | bool = False,
    ) -> None:
        """Read the version's name, and follow the rest of the messages in a thread.

        Args:
            messages: the origin's answer: ``version`` first, then ``progress``.
            data_dir: the origin's data directory.
            copies: number of nodes below to wait for; None for none.
            timeout: maximum seconds until these nodes have the version; None for no maximum.
            break_off: breaks off the origin's answer, unless the version is about to be complete.
            on_progress: called with the progress, in a thread; its exception aborts the broadcast. True for a
                bar, False for neither.

        Raises:
            ShardcastError: the origin refused the broadcast.
        """
        self._started = time.monotonic()
        self.version = str(next(messages)["version"])
        self._data_dir, self._break_off = data_dir, break_off
        self._copies, self._timeout = copies, timeout
        self._progress = BroadcastProgress(0, None)
        self._failure: BaseException | None = None  # to publish
        self._error: BaseException | None = None  # to publish, or to have the copies in time
        self._published, self._ended = threading.Event(), Completion()
        self._rate = RecentRate()
        self._telling = ProgressThread(on_progress, self._look, break_off) if on_progress else None
        threading.Thread(target=self._listen, args=(messages,), name="shardcast", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Broadcast of {self.version}, {self._describe()}>"

    def _describe(self) -> str:
        """Return in words how far the broadcast is."""
        if not self.done():
            return describe_progress(self._progress)
        return type(self._error).__name__ if self._error else "complete"

    @property
    def progress(self) -> BroadcastProgress:
        """Progress of the broadcast, as of the origin's last message."""
        return self._progress

    def _look(self) -> Progress:
        """Return the progress for the caller's function."""
        done, size = self._progress.done, self._progress.size
        return Progress(self.version, done, size, self._rate.observe(time.monotonic(), done) or 0.0)

    def done(self) -> bool:
        """Return whether the broadcast has ended, with success or without.

        Returns:
            True once ``result`` would not wait.
        """
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> str:
        """Wait until the version is complete, and has the copies requested from ``broadcast``.

        Args:
            timeout: maximum seconds to wait; None for no maximum.

        Returns:
            The version's name.

        Raises:
            TimeoutError: the broadcast goes on after ``timeout`` seconds.
            VersionAborted: ``cancel`` was called.
            CopiesMissing: too few nodes have the version in time; the version stays published.
            ShardcastError: publishing failed.
            BaseException: the progress function raised it, and so aborted the broadcast.
        """
        if not self._ended.wait(timeout):
            waits = self._published.is_set() and self._copies is not None
            lacks = f"does not have its {self._copies} copies" if waits else "is not complete"
            raise TimeoutError(f"{self.version} {lacks} after {timeout:g} s; the broadcast goes on")
        if self._error:
            raise self._error
        return self.version

    def add_done_callback(self, callback: Callable[[Broadcast], object]) -> None:
        """Call a function with this handle once the broadcast has ended, with success or without.

        The function is called in a thread of the library, or at once if the broadcast has ended. Its
        exceptions are logged.

        Args:
            callback: the function.
        """
        self._ended.add_callback(lambda: callback(self), f"the broadcast of {self.version}")

    def __await__(self) -> Generator[Any, None, str]:
        """Wait for the result in an event loop; a cancelled waiting leaves the broadcast running."""
        return self._await_result().__await__()

    async def _await_result(self) -> str:
        """Return the result without blocking the event loop."""
        await self._ended.reached()
        return self.result()

    def cancel(self) -> None:
        """Abort the broadcast, unless the version is complete or about to be, and wait for the outcome.

        After an abort ``result`` raises ``VersionAborted``, and every node deletes the version. A complete
        version stays; ``shardcast.withdraw`` takes it back. If the progress function calls ``cancel``,
        ``cancel`` does not wait.
        """
        self._break_off()
        if not (self._telling and self._telling.is_current):
            self._published.wait()

    def wait_for(self, copies: int | None = None, timeout: float | None = None) -> str:
        """Wait until the version is complete, and whole and verified at ``copies`` nodes below.

        Middles and following clients count. Nodes of 0.4.0 and 0.1.0 do not: they report no origin id, or
        nothing at all.

        Args:
            copies: number of nodes; None for the number requested from ``broadcast``.
            timeout: maximum seconds to wait; None for no maximum.

        Returns:
            The version's name.

        Raises:
            UsageError: the number of copies or of seconds makes no sense.
            CopiesMissing: too few nodes have the version in time; the version stays published.
            VersionNotOffered: the origin has retired the version meanwhile.
            ShardcastError: publishing failed, or the origin ended.
        """
        copies = self._copies if copies is None else copies
        if copies is None:
            raise UsageError("say for how many copies to wait: wait_for(copies=3)")
        check_copies(copies, timeout)
        started = time.monotonic()
        self._await_published(copies, timeout)
        self._count(copies, timeout, started)
        return self.version

    def _await_published(self, copies: int, timeout: float | None) -> None:
        """Wait until the version is complete.

        Raises:
            CopiesMissing: the version is not complete after ``timeout`` seconds.
            ShardcastError: publishing failed.
        """
        if not self._published.wait(timeout):
            raise copies_missing(self.version, 0, copies, timeout or 0.0)
        if self._failure:
            raise self._failure

    def _count(self, copies: int, timeout: float | None, since: float) -> None:
        """Wait for the copies and count them in ``progress``; ``since`` is when the time-out began.

        Raises:
            CopiesMissing: they are too few in time.
            ShardcastError: the origin ended, or retired the version.
        """
        for have in wait_for_copies(self._data_dir, self.version, copies, timeout=timeout, since=since):
            self._progress = replace(self._progress, copies=have)

    def _listen(self, messages: Iterator[Mapping[str, Any]]) -> None:
        """Follow the origin's messages, then the copies, and store a failure; the thread's function."""
        try:
            for message in messages:
                if "progress" in message:
                    state = message["progress"]
                    self._progress = BroadcastProgress(state["done"], state["size"])
        except BaseException as error:  # noqa: BLE001  result() and wait_for() raise it
            self._error = self._failure = error
        finally:
            self._finish_telling()
            self._published.set()
        try:
            if self._copies is not None and self._failure is None:
                self._count(self._copies, self._timeout, self._started)
        except BaseException as error:  # noqa: BLE001  result() raises it
            self._error = error
        finally:
            self._ended.set()

    def _finish_telling(self) -> None:
        """End the calls of the progress function; its exception, also from an earlier call, is the failure.

        After a success the function is called once more.
        """
        if self._telling:
            raised = self._telling.finish(succeeded=self._failure is None)
            if raised:
                self._error = self._failure = raised
