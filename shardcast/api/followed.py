"""Handle of versions that a blocking client follows in the background."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from shardcast.api.background import Background


class Followed:
    """Handle of versions that are followed in the background.

    Following ends by ``stop``, or with the ``with`` block.
    """

    def __init__(self, work: Background[None], calling: set[int]) -> None:
        """Take over the work.

        Args:
            work: the coroutine that follows.
            calling: identifiers of the threads that run a callback now.
        """
        self._work = work
        self._calling = calling

    def stop(self) -> None:
        """Stop following, and wait until a running callback has returned.

        A callback may call this itself; then it does not wait. Arrived pieces are kept for the next run.
        """
        # Waiting for the callback inside of it would never end.
        if threading.get_ident() in self._calling:
            self._work.request_cancel()
        else:
            self._work.cancel()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until following has ended: it failed, or another thread called ``stop``.

        Args:
            timeout: maximum seconds to wait; None for no maximum.

        Raises:
            TimeoutError: following goes on after ``timeout`` seconds.
            LocalDiskError: a file could not be written.
            ShardcastError: following failed in another way.
        """
        if not self._work.wait(timeout):
            raise TimeoutError(f"it goes on after {timeout:g} s")
        with contextlib.suppress(asyncio.CancelledError):
            self._work.result()

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
