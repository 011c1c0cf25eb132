"""The end of an upload: the whole payload, checked and cut, becomes a version once its sender confirms it."""

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
    """The publishing of a whole payload, which goes on while requests about it come and go.

    A sender that does not confirm in time, because it has gone, publishes nothing.

    Attributes:
        whole: the sender's word on the payload.
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
            whole: the sender's word on the payload.
            publish: publishes it, with ``check`` and ``confirm`` of this ending, and returns the version.
            before_ready: awaited before the sender is asked to confirm.
            confirm_seconds: seconds that the sender has to confirm.
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
        """Whether it may still publish."""
        return not self._task.done()

    @property
    def is_confirmed(self) -> bool:
        """Whether the sender has confirmed."""
        return self._confirmed.is_set()

    @property
    def error(self) -> BaseException | None:
        """Why it has failed; None where it has not."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    @property
    def failed(self) -> bool:
        """Whether it has ended, and published nothing."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    def check(self, manifest: Manifest) -> None:
        """Check that the payload that was cut is the sender's.

        Raises:
            IntegrityError: it is another.
        """
        sha256 = manifest.digests["sha256"]
        if (manifest.size, sha256) != (self.whole.size, self.whole.sha256):
            raise mismatch(self.whole, manifest.size, sha256)

    async def confirm(self) -> None:
        """Wait until the sender has confirmed that it still waits for the version.

        Raises:
            NodeFailed: it does not confirm in time.
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
        """Publish, now that the sender has confirmed, and return the version; goes on if this is cancelled.

        Raises:
            NodeFailed: the sender was not asked to confirm yet.
            ShardcastError: publishing failed.
        """
        if not self._ready.is_set() and not self._task.done():
            raise NodeFailed("nothing was published: the payload is not ready to be confirmed")
        self._confirmed.set()
        return await asyncio.shield(self._task)

    async def cancel(self) -> None:
        """Publish nothing, unless the sender has confirmed, and wait until that has ended."""
        if self._confirmed.is_set():
            await asyncio.wait([self._task])
        await cancel([self._task])


def mismatch(whole: WholePayload, size: int, sha256: str) -> IntegrityError:
    """Return the error of a payload that is not what its sender sent."""
    return IntegrityError(
        f"nothing was published: the origin received {size} bytes with the SHA-256 {sha256}, and the sender "
        f"has {whole.size} bytes with {whole.sha256}; send it again"
    )
