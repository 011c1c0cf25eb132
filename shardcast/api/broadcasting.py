"""A broadcast under way, as the process that asked for it sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BroadcastProgress:
    """How far a broadcast has come.

    Attributes:
        done: bytes cut, hashed and stored.
        size: bytes of the payload; None while it waits for an earlier broadcast.
    """

    done: int
    size: int | None


class Broadcast:
    """A broadcast under way.

    Attributes:
        version: its name, ``v7``.
    """

    def __init__(self, said: Iterator[Mapping[str, Any]]) -> None:
        self.version = str(next(said)["version"])
        self._progress = BroadcastProgress(0, None)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._listen, args=(said,), name="shardcast", daemon=True).start()

    @property
    def progress(self) -> BroadcastProgress:
        """How far it has come."""
        return self._progress

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> str:
        """Wait until the version is complete and return its name.

        Raises:
            TimeoutError: it wasn't within ``timeout`` seconds; it goes on.
            ShardcastError: it failed.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.version} is not complete after {timeout:g} s; it goes on")
        if self._error:
            raise self._error
        return self.version

    def _listen(self, said: Iterator[Mapping[str, Any]]) -> None:
        try:
            for line in said:
                if "progress" in line:
                    self._progress = BroadcastProgress(line["progress"]["done"], line["progress"]["size"])
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            self._error = error
        finally:
            self._ended.set()
