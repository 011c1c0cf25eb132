"""The writing end of a version's named pipe: a program writes the payload, and waits for a slower origin."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import NodeFailed, TransferFailed

PORTION = 1 << 20
"""Bytes of the pipe's buffer, if the system allows, and bytes worth one write."""
PATIENCE = 600.0
"""Maximum seconds without any byte taken by the origin, for example behind earlier broadcasts."""
_CHECK_SECONDS = 0.2
"""Seconds between two looks at whether another thread aborted the version."""


class PipeWriter:
    """The writing end of a named pipe.

    One thread writes; any thread may abort. The lock keeps the descriptor from being closed, and its number
    from being another file's, during a write.
    """

    def __init__(self, path: str, version: str, data_dir: Path) -> None:
        """Open the pipe of a version's payload, and make it as large as the system allows.

        Raises:
            LocalDiskError: this machine cannot open the pipe.
            OSError: the origin of ``data_dir`` has ended.
        """
        self._version = version
        self._data_dir = data_dir
        self._aborted = False
        self._writing = threading.Lock()
        with _local_errors("could not open", path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, PORTION)

    def write(self, data: bytearray | memoryview) -> None:
        """Write all of ``data``; waits while the pipe is full.

        Raises:
            TransferFailed: another thread aborted.
            LocalDiskError: writing failed on this machine.
            BrokenPipeError: the origin closed its end.
            NodeFailed: the origin took nothing for ``PATIENCE``.
        """
        with self._writing:
            self._check_aborted()
            view = memoryview(data)
            room = select.poll()
            room.register(self._descriptor, select.POLLOUT)
            deadline = time.monotonic() + PATIENCE
            while view:
                self._check_aborted()
                if not room.poll(_CHECK_SECONDS * 1000):
                    if time.monotonic() > deadline:
                        raise NodeFailed(
                            f"the origin of {self._data_dir} took no bytes of {self._version} for "
                            f"{PATIENCE:g} s, so this was aborted; see the origin's log, start it again "
                            "if it hangs, and broadcast again"
                        )
                    continue
                with contextlib.suppress(BlockingIOError):
                    with _local_errors(f"could not hand {self._version} over to", self._data_dir):
                        view = view[os.write(self._descriptor, view) :]
                    deadline = time.monotonic() + PATIENCE

    def _check_aborted(self) -> None:
        """Check that no other thread aborted.

        Raises:
            TransferFailed: another thread aborted.
        """
        if self._aborted:
            raise TransferFailed(f"{self._version} was aborted")

    def close(self) -> None:
        """Close the pipe after the last write; a second call does nothing.

        Raises:
            OSError: the system reports a failure of closing.
        """
        with self._writing:
            if self._descriptor >= 0:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)

    def abort(self) -> None:
        """Close the pipe from any thread; a running write ends within ``_CHECK_SECONDS``."""
        self._aborted = True
        self.close()


@contextlib.contextmanager
def _local_errors(doing: str, path: Path | str) -> Iterator[None]:
    """Turn errors of this machine into ``LocalDiskError``.

    Errors of a pipe whose origin has ended or takes no bytes pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ENOENT, errno.ENXIO, errno.EAGAIN):
            raise
        with disk_errors(doing, path):
            raise
