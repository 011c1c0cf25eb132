"""A gate for threads with files whose names may become another version's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shardcast.errors import ShardcastError


class Gate:
    """A gate to let threads touch a version's files until closed.

    Closing waits for the threads inside, because the names may be another version's afterwards.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._error: ShardcastError | None = None

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Stay inside the gate, and so delay the closing.

        Raises:
            ShardcastError: the gate is closed; the error given at the closing.
        """
        with self._changed:
            if self._error:
                raise self._error
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self, error: ShardcastError) -> None:
        """Refuse further threads with ``error``, and wait until no thread is inside; blocks.

        The first error stays where the gate is closed twice.
        """
        with self._changed:
            self._error = self._error or error
            self._changed.wait_for(lambda: not self._inside)
