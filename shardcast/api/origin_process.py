"""The origin of a data directory: a child of this process, or an origin already running."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from shardcast.access.secret import Secret
from shardcast.api.origin_settings import OriginSettings, options_to_start_again
from shardcast.constants import SHUTDOWN_GRACE
from shardcast.control.running import RunningOrigin, find_origin
from shardcast.control.waiting import finish
from shardcast.errors import DataDirInUse, NodeEnding, NodeFailed, NoNode, ShardcastError
from shardcast.nodes.child_log import ChildLog
from shardcast.nodes.child_process import NodeProcess
from shardcast.policy.backoff import Backoff

T = TypeVar("T")

log = logging.getLogger("shardcast")

_RESTART_INTERVAL = 60.0
"""Minimum seconds between two restarts of a dead origin by one process."""
_DEATH_TIMEOUT = 1.0
"""Seconds to wait for the exit of an origin with a failed socket; the socket fails a moment before the exit.
"""
_END_TIMEOUT = SHUTDOWN_GRACE + 5.0
"""Seconds to wait for the exit of an origin after its announcement of the end."""
_ANSWER_TIMEOUT = 60.0
"""Seconds until the origin of another process must answer, from the moment that process holds the data
directory: as long as a starter waits for its node."""
_START_INTERVAL = 1.0
"""Seconds to wait for another process's origin before trying again to start an own one; each try costs a
process."""
_LAST_LINES = 1.0
"""Seconds to wait for the handlers to take the last lines of the log of an ended origin."""
_POLL = Backoff(first=0.01, longest=0.2)


class OriginProcess:
    """The origin used by this process: a child, or another process's origin after attaching.

    An attached process leaves the origin alone, unless the origin has died: then the first attached process
    to notice starts the origin again, as its own child, and the others attach to the new one. The lock on the
    data directory decides the first.

    Attributes:
        url: the origin's URL.
    """

    url: str

    def __init__(self, data_dir: Path, settings: OriginSettings) -> None:
        """Start the origin and wait until it listens, or attach to a running one.

        Args:
            data_dir: the data directory, absolute.
            settings: this program's requirements of the origin.

        Raises:
            DataDirInUse: another process works on the data directory.
            UsageError: the running origin has another port, keeps another number of versions, or lacks one of
                the options or has another value.
            NodeFailed: the origin could not start, or does not answer.
            ShardcastError: the origin could not start for another reason.
        """
        self.data_dir = data_dir
        self._child: NodeProcess | None = None
        # Each process has its own lock: at a fork a thread of the parent may hold the parent's. Reentrant: a
        # signal handler may call stop() while its thread is starting the child again.
        self._locks: dict[int, threading.RLock] = {}
        self._restarted_at: float | None = None
        self._shut_down = False
        self._words, self._passes_log_on = settings.words(), settings.log
        self._log: ChildLog | None = None
        self._variables: dict[str, Secret] = {}
        self._is_restartable = True

        def check(running: RunningOrigin) -> None:
            settings.check(running, data_dir)

        self._find_or_start(settings.first_port, check, patient=settings.attach)

    @property
    def port(self) -> int:
        """TCP port of the origin."""
        return urlsplit(self.url).port or 0

    @property
    def pid(self) -> int:
        """Process id of the child."""
        assert self._child
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the origin runs."""
        child = self._own_child
        return child.running if child else find_origin(self.data_dir) is not None

    @property
    def is_attached(self) -> bool:
        """Whether another process started the origin; in a forked worker, the parent."""
        return self._own_child is None

    @property
    def _own_child(self) -> NodeProcess | None:
        """The origin as a child of this process; None if another process started the origin."""
        return self._child if self._child and self._child.is_owned else None

    @property
    def _starting(self) -> threading.RLock:
        """The lock of this process for starting and stopping the origin."""
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def _find_or_start(self, port: int, check: Callable[[RunningOrigin], None], *, patient: bool) -> None:
        """Attach to a running origin, else start one; if several processes start, only one origin starts.

        Args:
            port: TCP port for a new origin.
            check: raises if the running origin may not be used.
            patient: whether to wait for an origin being started by another process.

        Raises:
            ShardcastError: no origin can be used or started.
        """
        deadline, within = time.monotonic() + _ANSWER_TIMEOUT, 0.0
        while True:
            running = self._look(within)
            if running:
                check(running)
                self._attach(running)
                return
            try:
                self._start(port)
                return
            except DataDirInUse as error:
                if error.role != "origin" or not patient:
                    hint = "; with attach=True that one is used" if error.role == "origin" else ""
                    raise DataDirInUse(f"{error}{hint}", error.role) from None
                if time.monotonic() > deadline:
                    raise NodeFailed(
                        f"{error}; it does not say where it listens: it hangs, runs on another machine, or "
                        "is of an earlier shardcast"
                    ) from error
            within = _START_INTERVAL

    def _look(self, within: float) -> RunningOrigin | None:
        """Return the origin running now or within ``within`` seconds.

        Returns:
            None also for an origin without an answer; then the lock decides.
        """
        deadline, looks = time.monotonic() + within, 0
        while True:
            try:
                running = find_origin(self.data_dir)
            except NodeFailed as error:
                log.debug("%s", error)
                running = None
            if running or time.monotonic() >= deadline:
                return running
            time.sleep(_POLL.pause(looks))
            looks += 1

    def _attach(self, running: RunningOrigin) -> None:
        """Use a running origin, and remember its options for a restart."""
        self._child, self.url = None, running.url
        self._is_restartable = running.options is not None
        if running.options is not None:
            self._words = options_to_start_again(running.options)
            self._variables = {name: Secret(value) for name, value in running.variables.items()}

    def _start(self, port: int) -> None:
        """Start the origin as a child, and wait until it listens."""
        words = ["--data-dir", str(self.data_dir), "--port", str(port), *self._words]
        child = self._start_child(words)
        child.wait_until_listening()
        self._child, self.url = child, child.url

    def _start_child(self, words: list[str]) -> NodeProcess:
        """Start the origin as a child, whose log comes here where the program wants that."""
        if not self._passes_log_on:
            return NodeProcess("origin", words, secrets=self._variables)
        child_log = ChildLog()
        try:
            child = NodeProcess(
                "origin", words, child_log.descriptor, self._variables, own_words=child_log.words
            )
        except BaseException:
            child_log.discard()
            raise
        child_log.start()
        self._log = child_log
        return child

    # Death of the origin

    def restart_if_dead(self) -> bool:
        """Start a dead origin again on the same port, unless another process has done so.

        A forked worker does not start its parent's origin, and returns False.

        Returns:
            Whether this process started the origin.

        Raises:
            NodeFailed: the origin has died again within a minute, was shut down, or cannot be started.
            DataDirInUse: another process has taken the data directory meanwhile.
        """
        if self._child and not self._child.is_owned:
            return False
        with self._starting:
            self._check_not_shut_down()
            cause = self._death()
            if cause is None:
                return False
            self._check_restartable(cause)
            return self._restart(cause)

    def _death(self) -> str | None:
        """Return in words how the origin ended, "" for another process's; None while one runs, or hangs.

        Raises:
            DataDirInUse: another origin runs instead.
        """
        if self._child:
            return self._child.exit_reason(0)
        try:
            running = find_origin(self.data_dir)
        except NodeFailed as error:
            log.debug("%s", error)
            return None  # it is there; the next request finds out whether it hangs or ends
        if running is None:
            return ""
        self._check_same(running)
        return None

    def _check_same(self, running: RunningOrigin) -> None:
        """Check that an origin listens at the old address, known to the nodes below.

        Raises:
            DataDirInUse: the origin listens elsewhere.
        """
        if running.port != self.port:
            raise DataDirInUse(
                f"the data directory {self.data_dir} is in use by another origin meanwhile, at {running.url} "
                f"instead of port {self.port}",
                "origin",
            )

    def _check_restartable(self, cause: str) -> None:
        """Check that this process may start the origin again.

        Raises:
            NoNode: a person, a service manager or another user started the origin.
            NodeFailed: the origin died again within a minute.
        """
        if not self._is_restartable:
            raise NoNode(
                f"the origin of {self.data_dir} has ended; it was started by its command or by another user, "
                f"who starts it again: shardcast-origin --data-dir {self.data_dir} --port {self.port}"
            )
        ago = math.inf if self._restarted_at is None else time.monotonic() - self._restarted_at
        if self._child and ago < _RESTART_INTERVAL:
            raise NodeFailed(
                f"the origin of {self.data_dir} died again ({cause}), {ago:.0f} s after it was "
                "restarted, and is not restarted twice in a minute; its log may tell why, or "
                "the kernel's log, when memory ran out"
            )

    def _restart(self, cause: str) -> bool:
        """Start the origin again, or attach to one started by another process meanwhile.

        Returns:
            Whether this process started the origin.

        Raises:
            NodeFailed: the origin cannot be started, or ``stop`` was called meanwhile.
            DataDirInUse: another process has taken the data directory, or an origin listens elsewhere.
        """
        had_child = self._child is not None
        if had_child:
            log.warning("the origin of %s has died (%s) and is started again", self.data_dir, cause)
        self._find_or_start(self.port, self._check_same, patient=True)
        if self._child is None:
            return False
        if not had_child:
            log.warning(
                "the origin of %s had ended; this process, attached to it, started it again", self.data_dir
            )
        self._restarted_at = time.monotonic()
        try:
            self._check_not_shut_down()  # a signal handler may have called stop() meanwhile
        except NodeFailed:
            self._child.stop()
            raise
        return True

    def _check_not_shut_down(self) -> None:
        """Check that ``stop`` was not called.

        Raises:
            NodeFailed: ``stop`` was called.
        """
        if self._shut_down:
            raise NodeFailed(
                f"the origin of {self.data_dir} was shut down by this program; start one again with "
                "initialize() or a new OriginServer"
            )

    def restarting(self, request: Callable[[], T]) -> T:
        """Return the result of ``request``; if the origin dies meanwhile, restart it and repeat once.

        Raises:
            NodeFailed: the origin has ended and could not be started again, or not by this process.
            ShardcastError: any error of ``request``.
        """
        self.restart_if_dead()
        try:
            return request()
        except NodeFailed as error:
            if self._child and not self._child.is_owned:
                if isinstance(error, NoNode):
                    raise NoNode(
                        f"the origin of {self.data_dir} has ended; only the process that started it "
                        f"({self._child.owner}) can start it again, by its next broadcast"
                    ) from error
                raise
            if not self._dies(_END_TIMEOUT if isinstance(error, NodeEnding) else _DEATH_TIMEOUT):
                raise
        self.restart_if_dead()
        return request()

    def _dies(self, within: float) -> bool:
        """Return whether the origin, whose socket failed, ends within so many seconds."""
        if self._child:
            return self._child.exit_reason(within) is not None
        deadline, looks = time.monotonic() + within, 0
        while True:
            with contextlib.suppress(NodeFailed):  # it does not answer: it hangs, or ends in this moment
                if find_origin(self.data_dir) is None:
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL.pause(looks))
            looks += 1

    def stop(self, wait: float | None) -> None:
        """End the origin, unless another process started it; see ``OriginServer.shutdown``."""
        if self._child and not self._child.is_owned:
            return
        try:
            with self._starting:
                self._shut_down = True
            if wait != 0 and self._child and self._child.running:
                finish(self.data_dir, wait)
        except ShardcastError as error:
            log.debug("no wait for the nodes below: %s", error)
        finally:
            if self._child:
                self._child.stop()
            if self._log:
                self._log.finish(_LAST_LINES)
