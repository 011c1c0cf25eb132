"""A broadcast under way, as the process that asked for it sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardcast.control.waiting import check_copies, copies_missing, wait_for_copies
from shardcast.errors import UsageError


@dataclass(frozen=True, slots=True)
class BroadcastProgress:
    """How far a broadcast has come.

    Attributes:
        done: bytes cut, hashed and stored.
        size: bytes of the payload; None while it waits for an earlier broadcast.
        copies: nodes below that have the version whole and verified; counted only while somebody waits for
        them.
    """

    done: int
    size: int | None
    copies: int = 0


class Broadcast:
    """A broadcast under way.

    Attributes:
        version: its name, ``v7``.
    """

    def __init__(
        self,
        said: Iterator[Mapping[str, Any]],
        data_dir: Path,
        copies: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """``said``: the origin's answer. With ``copies`` it ends when so many nodes have the version too, or
        fails when they don't within ``timeout`` seconds."""
        self._begun = time.monotonic()
        self.version = str(next(said)["version"])
        self._data_dir = data_dir
        self._copies, self._timeout = copies, timeout
        self._progress = BroadcastProgress(0, None)
        self._failure: BaseException | None = None  # to publish
        self._error: BaseException | None = None  # to publish, or to have the copies in time
        self._published, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._listen, args=(said,), name="shardcast", daemon=True).start()

    @property
    def progress(self) -> BroadcastProgress:
        """How far it has come."""
        return self._progress

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> str:
        """Wait until the version is complete, and has the copies that were asked for, and return its name.

        Raises:
            TimeoutError: it wasn't within ``timeout`` seconds; it goes on.
            ShardcastError: it failed.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.version} is not complete after {timeout:g} s; it goes on")
        if self._error:
            raise self._error
        return self.version

    def wait_for(self, copies: int | None = None, timeout: float | None = None) -> str:
        """Wait until the version is complete and ``copies`` nodes below have it whole and verified, and
        return its name. Without ``copies``, as many as the broadcast was asked for. Middles count, and
        clients that follow. Nodes of 0.4.0 and 0.1.0 don't: they report no origin id, or nothing at all.

        Raises:
            UsageError: the number of copies or of seconds makes no sense.
            CopiesMissing: too few have it after ``timeout`` seconds; it stays published.
            VersionNotOffered: the origin has retired it meanwhile.
            ShardcastError: publishing failed, or the origin ended.
        """
        copies = self._copies if copies is None else copies
        if copies is None:
            raise UsageError("say for how many copies to wait: wait_for(copies=3)")
        check_copies(copies, timeout)
        begun = time.monotonic()
        self._await_published(copies, timeout)
        self._count(copies, timeout, begun)
        return self.version

    def _await_published(self, copies: int, timeout: float | None) -> None:
        if not self._published.wait(timeout):
            raise copies_missing(self.version, 0, copies, timeout or 0.0)
        if self._failure:
            raise self._failure

    def _count(self, copies: int, timeout: float | None, since: float) -> None:
        for have in wait_for_copies(self._data_dir, self.version, copies, timeout=timeout, since=since):
            self._progress = replace(self._progress, copies=have)

    def _listen(self, said: Iterator[Mapping[str, Any]]) -> None:
        try:
            for line in said:
                if "progress" in line:
                    self._progress = BroadcastProgress(line["progress"]["done"], line["progress"]["size"])
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            self._error = self._failure = error
        finally:
            self._published.set()
        try:
            if self._copies is not None and self._failure is None:
                self._count(self._copies, self._timeout, self._begun)
        except BaseException as error:  # noqa: BLE001  likewise
            self._error = error
        finally:
            self._ended.set()
