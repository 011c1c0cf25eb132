"""A log in a file that is rotated by size, on a disk that may fill up."""

from __future__ import annotations

import logging
import os
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

import click

from shardcast.disk_errors import error_text
from shardcast.errors import LocalDiskError

_KEPT = 5
"""Earlier files that stay, as ``FILE.1`` to ``FILE.5``."""
_TOLD_AGAIN = 60.0
"""Seconds until a failure to write is told again."""


class LogFile(RotatingFileHandler):
    """Handler that writes to a file, and says on stderr where that fails; the program goes on."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open a file, whose messages so far stay.

        Args:
            path: the file.
            max_bytes: size beyond which it becomes ``FILE.1``, and a new one begins.

        Raises:
            LocalDiskError: it can't be written.
        """
        try:
            super().__init__(path, maxBytes=max_bytes, backupCount=_KEPT, encoding="utf-8", errors="replace")
        except OSError as error:
            raise LocalDiskError(f"--log-file: {error_text(error)}") from error
        self._told_at: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message to the file that has the name now; another program may have moved the last one."""
        if self.stream is not None and self._is_moved(self.stream.fileno()):
            self.stream.close()
            self.stream = None  # opened anew by the next line
        super().emit(record)

    def doRollover(self) -> None:
        """Begin a new file; go on with this one where its folder doesn't let it be renamed."""
        try:
            super().doRollover()
        except OSError:
            self._tell_failure()

    def _is_moved(self, descriptor: int) -> bool:
        """Return whether the open file no longer has its name."""
        try:
            return not os.path.samestat(Path(self.baseFilename).stat(), os.fstat(descriptor))
        except OSError:
            return True

    def handleError(self, record: logging.LogRecord) -> None:
        """Say why the log can't be written."""
        self._tell_failure()

    def _tell_failure(self) -> None:
        """Tell the error that is being handled, once a minute."""
        now, error = time.monotonic(), sys.exc_info()[1]
        if self._told_at is None or now - self._told_at > _TOLD_AGAIN:
            self._told_at = now
            why = error_text(error) if isinstance(error, OSError) else repr(error)
            click.echo(f"Warning: could not write the log file {self.baseFilename}: {why}", err=True)
