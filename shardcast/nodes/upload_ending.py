"""The end of an upload: the payload, checked and cut, becomes a version after the sender's confirmation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from shardcast.concurrency import cancel
from shardcast.errors import IntegrityError, NodeFailed
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.uploads import WholePayload

_REPORT_INTERVAL = 0.5
"""Seconds between two lines of progress."""


class UploadEnding:
    """The publication of a whole payload, independent of the requests about it.

    Nothing is published if the sender does not confirm in time: the sender has gone.

    Attributes:
        whole: the sender's size and digest of the payload.
        progress: returns the bytes done, for the lines of progress.
    """

    def __init__(
        self,
        whole: WholePayload,
        publish: Callable[[UploadEnding], Awaitable[str]],
        before_ready: Callable[[], Awaitable[None]],
        confirm_seconds: float,
    ) -> None:
        """Start to publish.

        Args:
            whole: the sender's size and digest of the payload.
            publish: publishes the payload, calling ``check`` and ``confirm`` of this ending, and returns the
                version.
            before_ready: awaited before the sender is asked to confirm.
            confirm_seconds: seconds for the sender to confirm.
        """
        self.whole = whole
        self.progress: Callable[[], Mapping[str, Any]] = lambda: {"done": 0, "size": whole.size, "shards": 0}
        self._before_ready = before_ready
        self._confirm_seconds = confirm_seconds
        self._ready, self._confirmed = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Future[str] = asyncio.ensure_future(publish(self))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def running(self) -> bool:
        """Whether the publication still runs."""
        return not self._task.done()

    @property
    def is_confirmed(self) -> bool:
        """Whether the sender has confirmed."""
        return self._confirmed.is_set()

    @property
    def error(self) -> BaseException | None:
        """The error of a failed publication; None without a failure."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    @property
    def failed(self) -> bool:
        """Whether the publication has ended without a version."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    def check(self, manifest: Manifest) -> None:
        """Check that the cut payload is the sender's.

        Raises:
            IntegrityError: size or digest differ.
        """
        sha256 = manifest.digests["sha256"]
        if (manifest.size, sha256) != (self.whole.size, self.whole.sha256):
            raise mismatch(self.whole, manifest.size, sha256)

    async def confirm(self) -> None:
        """Have the sender asked to confirm (``lines`` yields ``ready``), and wait for the confirmation.

        Raises:
            NodeFailed: the confirmation does not come in time.
        """
        await self._before_ready()
        self._ready.set()
        try:
            async with asyncio.timeout(self._confirm_seconds):
                await self._confirmed.wait()
        except TimeoutError:
            raise NodeFailed(
                f"nothing was published: the sender did not confirm it within {self._confirm_seconds:g} s"
            ) from None

    async def lines(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield lines of progress, then ``{"ready": true}`` or ``{"complete": …}``.

        Raises:
            ShardcastError: publishing failed.
        """
        waiting = asyncio.ensure_future(self._ready.wait())
        try:
            while True:
                if self._task.done():
                    yield {"complete": self._task.result()}
                    return
                if self._ready.is_set():
                    yield {"ready": True}
                    return
                yield {"progress": self.progress()}
                both: set[asyncio.Future[Any]] = {self._task, waiting}
                await asyncio.wait(both, timeout=_REPORT_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel([waiting])

    async def confirmed(self) -> str:
        """Record the sender's confirmation, and return the version once published; a cancel stops nothing.

        Raises:
            NodeFailed: the sender was not asked to confirm yet.
            ShardcastError: publishing failed.
        """
        if not self._ready.is_set() and not self._task.done():
            raise NodeFailed("nothing was published: the payload is not ready to be confirmed")
        self._confirmed.set()
        return await asyncio.shield(self._task)

    async def cancel(self) -> None:
        """Publish nothing, unless the sender has confirmed, and wait for the end of publishing."""
        if self._confirmed.is_set():
            await asyncio.wait([self._task])
        await cancel([self._task])


def mismatch(whole: WholePayload, size: int, sha256: str) -> IntegrityError:
    """Return the error about a payload that differs from the sender's."""
    return IntegrityError(
        f"nothing was published: the origin received {size} bytes with the SHA-256 {sha256}, and the sender "
        f"has {whole.size} bytes with {whole.sha256}; send it again"
    )
