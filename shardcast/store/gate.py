"""A gate for threads that touch files whose names may become another version's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shardcast.errors import ShardcastError


class Gate:
    """Lets threads touch a version's files until it is closed, and waits for them then: afterwards its names
    may be another version's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._error: ShardcastError | None = None

    @contextmanager
    def passed(self) -> Iterator[None]:
        """
        Raises:
            ShardcastError: it is closed, and why.
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
        """Let nobody in any more, and wait until nobody is inside."""
        with self._changed:
            self._error = self._error or error
            self._changed.wait_for(lambda: not self._inside)
