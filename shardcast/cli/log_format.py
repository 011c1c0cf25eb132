"""Format of the log: one line for each message, whatever the message contains."""

from __future__ import annotations

import logging
from types import TracebackType

from shardcast.plain_text import one_line

_MAX_LINE = 8000
"""Maximum characters of a line of the log."""


class LogFormat(logging.Formatter):
    """Formatter that gives each message one line of printable characters.

    Messages contain names and errors from other machines. The lines of a traceback are indented, so that none
    of them passes for a message.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the message on one line."""
        record.message = one_line(record.message, _MAX_LINE)
        return super().formatMessage(record)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return the traceback with each line indented and printable."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {one_line(line, _MAX_LINE)}" for line in lines)
