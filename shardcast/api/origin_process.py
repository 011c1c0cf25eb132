"""The origin of a data directory: a child of this process, or one that runs already."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from shardcast.access.secret import Secret
from shardcast.api.process_tree import is_descendant_of
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.control.running import RunningOrigin, find_origin
from shardcast.control.waiting import finish
from shardcast.errors import DataDirInUse, NodeFailed, NoNode, ShardcastError, UsageError
from shardcast.nodes.child_process import NodeProcess, pid_namespace
from shardcast.policy.backoff import Backoff

T = TypeVar("T")

log = logging.getLogger("shardcast")

_RESTART_INTERVAL = 60.0
"""Seconds within which a dead origin is restarted only once by one process."""
_DEATH_TIMEOUT = 1.0
"""Seconds to wait for the exit of an origin whose socket failed, which comes a moment before."""
_ANSWER_TIMEOUT = 15.0
"""Seconds from the moment another process has the data directory until its origin must answer."""
_POLL = Backoff(first=0.01, longest=0.2)


class OriginProcess:
    """The origin that this process uses: its child, or another process's that it is attached to.

    An attached process leaves the origin alone, except when it has died: then the first attached process
    that notices starts it again, as its own child, and the others attach to that one. The lock on the data
    directory decides who is first.

    Attributes:
        url: where the origin listens.
    """

    url: str

    def __init__(
        self,
        data_dir: Path,
        port: int | None,
        keep: int | None,
        options: Sequence[tuple[str, str | None]],
        *,
        attach: bool,
    ) -> None:
        """Start the origin and wait until it listens, or attach to it.

        Args:
            data_dir: the data directory, absolute.
            port: TCP port; None for the usual one, or that of an origin that runs.
            keep: number of versions to keep; None likewise.
            options: further options of the command, each with its value.
            attach: whether an origin is used that a process runs from which this one does not descend.

        Raises:
            DataDirInUse: another process works on the data directory.
            UsageError: the origin that runs has another port, keeps another number of versions, or has not
                one of the options.
            NodeFailed: the origin could not start, or does not answer.
            ShardcastError: the origin could not start for another reason.
        """
        self.data_dir = data_dir
        self._child: NodeProcess | None = None
        self._started_by = os.getpid()
        # Reentrant: a signal handler may call stop() while its thread is starting the child again.
        self._starting = threading.RLock()
        self._restarted_at: float | None = None
        self._shut_down = False
        words = [word for pair in options for word in pair if word is not None]
        self._command = ["--data-dir", str(data_dir), "--keep", str(keep or MAX_DISTRIBUTION_FOLDERS), *words]
        self._variables: dict[str, Secret] = {}
        self._is_restartable = True

        def check(running: RunningOrigin) -> None:
            if not attach and not _descends(running):
                raise DataDirInUse(
                    f"the data directory {data_dir} is in use by a shardcast origin at {running.url}; "
                    "attach=True uses that one, else choose another data_dir",
                    "origin",
                )
            _check_same(running, data_dir, port, keep, options)

        self._find_or_start(HTTP_PORT if port is None else port, check, patient=attach)

    @property
    def port(self) -> int:
        """TCP port that the origin listens on."""
        return int(self.url.rsplit(":", 1)[1])

    @property
    def pid(self) -> int:
        """Process id of the child."""
        assert self._child
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the origin runs."""
        return self._child.running if self._child else find_origin(self.data_dir) is not None

    @property
    def is_attached(self) -> bool:
        """Whether the origin is another process's."""
        return self._child is None

    def _find_or_start(self, port: int, check: Callable[[RunningOrigin], None], *, patient: bool) -> None:
        """Attach to the origin that runs, else start one; of several processes that start, one does.

        Args:
            port: TCP port of an origin that is started.
            check: raises where the origin that runs may not be used.
            patient: whether to wait for an origin that another process is starting.

        Raises:
            ShardcastError: no origin can be used or started.
        """
        deadline, looks = time.monotonic() + _ANSWER_TIMEOUT, 0
        while True:
            running = self._look()
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
                        f"{error}; it does not say where it listens: it hangs, or is of an earlier shardcast"
                    ) from error
            time.sleep(_POLL.pause(looks))
            looks += 1

    def _look(self) -> RunningOrigin | None:
        """Return the origin that runs; None for one that does not answer, whose lock then decides."""
        try:
            return find_origin(self.data_dir)
        except NodeFailed as error:
            log.debug("%s", error)
            return None

    def _attach(self, running: RunningOrigin) -> None:
        """Use an origin that runs, and start it again as it was started."""
        self._child, self.url = None, running.url
        if running.options is None:
            self._is_restartable = False
            return
        self._is_restartable = True
        self._command = list(running.options[: running.options.index("--port")])
        self._variables = {name: Secret(value) for name, value in running.variables.items()}

    def _start(self, port: int) -> None:
        """Start the origin as a child, and wait until it listens."""
        child = NodeProcess("origin", [*self._command, "--port", str(port)], secrets=self._variables)
        child.wait_until_listening()
        self._child, self.url = child, child.url

    # Death of the origin

    def restart_if_dead(self) -> bool:
        """Start the origin again on the same port if it has died, unless another process has done so.

        A forked worker does not start the origin of its parent, and returns False.

        Returns:
            Whether this process started it again.

        Raises:
            NodeFailed: it has died again within a minute, was shut down, or can't be started.
            DataDirInUse: another process has taken the data directory meanwhile.
        """
        if self._child and not self._child.is_owned:
            return False
        if self._started_by != os.getpid():  # a forked process, in which no thread holds the lock
            self._starting, self._started_by = threading.RLock(), os.getpid()
        with self._starting:
            self._check_not_shut_down()
            cause = self._death()
            if cause is None:
                return False
            self._check_restartable(cause)
            return self._restart(cause)

    def _death(self) -> str | None:
        """Return how the origin ended, in words; None while it runs."""
        if self._child:
            return self._child.exit_reason(0)
        return "" if find_origin(self.data_dir) is None else None

    def _check_restartable(self, cause: str) -> None:
        """Check that this process may start the origin again.

        Raises:
            NoNode: a person or a service manager started it.
            NodeFailed: it died again within a minute.
        """
        if not self._is_restartable:
            raise NoNode(
                f"the origin of {self.data_dir} has ended; it was started by its command, which starts it "
                f"again: shardcast-origin --data-dir {self.data_dir} --port {self.port}"
            )
        ago = math.inf if self._restarted_at is None else time.monotonic() - self._restarted_at
        if self._child and ago < _RESTART_INTERVAL:
            raise NodeFailed(
                f"the origin of {self.data_dir} died again ({cause}), {ago:.0f} s after it was "
                "restarted, and is not restarted twice in a minute; its log on stderr may tell why, or "
                "the kernel's log, when memory ran out"
            )

    def _restart(self, cause: str) -> bool:
        """Start the origin again, or attach to the one that another process started meanwhile."""
        port, had_child = self.port, self._child is not None
        if had_child:
            log.warning("the origin of %s has died (%s) and is started again", self.data_dir, cause)

        def check(running: RunningOrigin) -> None:
            if running.port != port:
                raise DataDirInUse(
                    f"the data directory {self.data_dir} is in use by another origin meanwhile, "
                    f"at {running.url} instead of port {port}",
                    "origin",
                )

        self._find_or_start(port, check, patient=True)
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
            NodeFailed: it was.
        """
        if self._shut_down:
            raise NodeFailed(f"the origin of {self.data_dir} was shut down")

    def restarting(self, request: Callable[[], T]) -> T:
        """Return the result of ``request``, and repeat it once after a restart if the origin dies of it.

        Raises:
            NodeFailed: the origin has ended and could not be started again, or not by this process.
            ShardcastError: whatever ``request`` raised.
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
            if not self._dies():
                raise
        self.restart_if_dead()
        return request()

    def _dies(self) -> bool:
        """Return whether the origin, whose socket failed, ends within a moment."""
        if self._child:
            return self._child.exit_reason(_DEATH_TIMEOUT) is not None
        deadline = time.monotonic() + _DEATH_TIMEOUT
        while self._look() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL.first)
        return True

    def stop(self, wait: float | None) -> None:
        """End the origin, unless it is another process's; see ``OriginServer.shutdown``."""
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


def _descends(running: RunningOrigin) -> bool:
    """Return whether this process descends from the one that started an origin."""
    if running.parent is None or running.namespace != pid_namespace():
        return False
    return is_descendant_of(running.parent)


def _check_same(
    running: RunningOrigin,
    data_dir: Path,
    port: int | None,
    keep: int | None,
    options: Sequence[tuple[str, str | None]],
) -> None:
    """Check that an origin that runs is as this process wants it.

    Raises:
        UsageError: it has another port, keeps another number of versions, or lacks one of ``options``.
    """
    where = f"the origin that runs on {data_dir}"
    if port not in (None, 0, running.port):
        raise UsageError(f"{where} listens on port {running.port}, not on {port}; give its port, or none")
    if keep not in (None, running.keep):
        raise UsageError(
            f"{where} keeps {running.keep} versions, not {keep}; give max_distribution_folders="
            f"{running.keep}, or none"
        )
    if running.options is None:
        return
    words = list(running.options)
    for name, value in options:
        given = words[words.index(name) + 1] if name in words else None
        if name not in words or (value is not None and given != value):
            differs = f"has {name} {given}" if given is not None else f"has no {name}"
            raise UsageError(f"{where} {differs}, not {name}{'' if value is None else f' {value}'}")
