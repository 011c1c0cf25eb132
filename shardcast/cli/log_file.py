"""A log file with rotation by size, on a disk that may fill up."""

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
"""Number of earlier files, ``FILE.1`` to ``FILE.5``."""
_TOLD_AGAIN = 60.0
"""Seconds until a failure to write is told again."""


class LogFile(RotatingFileHandler):
    """Handler that writes to a file, and reports a failure on stderr without stopping the program."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open a file, and append to its messages.

        Args:
            path: the file.
            max_bytes: size beyond which the file becomes ``FILE.1``, and a new one begins.

        Raises:
            LocalDiskError: the file can't be written.
        """
        try:
            super().__init__(path, maxBytes=max_bytes, backupCount=_KEPT, encoding="utf-8", errors="replace")
        except OSError as error:
            raise LocalDiskError(f"--log-file: {error_text(error)}") from error
        self._told_at: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message to the file at the path; reopen it if another program has moved the open one."""
        if self.stream is not None and self._is_moved(self.stream.fileno()):
            self.stream.close()
            self.stream = None  # opened anew by the next line
        super().emit(record)

    def doRollover(self) -> None:
        """Begin a new file; keep this one if the folder prevents the renaming."""
        try:
            super().doRollover()
        except OSError:
            self._tell_failure()

    def _is_moved(self, descriptor: int) -> bool:
        """Return whether the path no longer names the open file."""
        try:
            return not os.path.samestat(Path(self.baseFilename).stat(), os.fstat(descriptor))
        except OSError:
            return True

    def handleError(self, record: logging.LogRecord) -> None:
        """Say why the log can't be written."""
        self._tell_failure()

    def _tell_failure(self) -> None:
        """Report the present error, once a minute."""
        now, error = time.monotonic(), sys.exc_info()[1]
        if self._told_at is None or now - self._told_at > _TOLD_AGAIN:
            self._told_at = now
            why = error_text(error) if isinstance(error, OSError) else repr(error)
            click.echo(f"Warning: could not write the log file {self.baseFilename}: {why}", err=True)
