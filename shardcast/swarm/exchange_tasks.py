"""The tasks of one version's exchange, and the first failure of any of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from shardcast.concurrency import cancel
from shardcast.errors import ShardcastError
from shardcast.log_fields import about

log = logging.getLogger(__name__)


class ExchangeTasks:
    """Tasks that take pieces, until the first failure.

    Attributes:
        failure: the first one; None while there is none.
    """

    def __init__(self, version: str, failed: Callable[[], None]) -> None:
        """Run nothing yet.

        Args:
            version: the name of the version, for the log.
            failed: called after the first failure.
        """
        self.failure: BaseException | None = None
        self._version = version
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work beside the caller."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    @contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """Record an exception of the block as ``failure``, unless there is one, and raise it on."""
        try:
            yield
        except Exception as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Record the first failure, and log one that is no failed disk or server: a fault of this program."""
        if self.failure is not None:
            return
        self.failure = error
        self._failed()
        if not isinstance(error, (ShardcastError, OSError)):
            log.error(
                "pieces of %s are fetched no more: %r",
                self._version,
                error,
                exc_info=error,
                extra=about(version=self._version),
            )

    async def end(self) -> None:
        """Cancel all tasks."""
        await cancel(list(self._tasks))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Forget an ended task, but not its failure."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)
