"""Handle of following, in the background of a blocking client."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from shardcast.api.background import Background


class Followed:
    """Handle of following in the background: each new version is downloaded.

    Following ends by ``stop``, or with the ``with`` block.
    """

    def __init__(self, work: Background[None], calling: set[int]) -> None:
        """Take over the work.

        Args:
            work: the following coroutine.
            calling: identifiers of the threads running a callback.
        """
        self._work = work
        self._calling = calling

    def stop(self) -> None:
        """Stop following, and wait for the end of a running callback.

        A callback may call ``stop`` itself; then ``stop`` does not wait. Arrived pieces are kept for the next
        run.
        """
        # A callback waiting for its own end would wait for ever.
        if threading.get_ident() in self._calling:
            self._work.request_cancel()
        else:
            self._work.cancel()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of following: a failure, or ``stop`` in another thread.

        Args:
            timeout: maximum seconds to wait; None for no maximum.

        Raises:
            TimeoutError: following goes on after ``timeout`` seconds.
            LocalDiskError: a file could not be written.
            ShardcastError: following failed in another way.
            BaseException: the function ``progress`` raised it, and so ended the following.
        """
        if not self._work.wait(timeout):
            raise TimeoutError(f"following goes on after {timeout:g} s")
        with contextlib.suppress(asyncio.CancelledError):
            self._work.result()

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
