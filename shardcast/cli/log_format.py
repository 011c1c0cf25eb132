"""How the log looks: a message a line, whatever is in it."""

from __future__ import annotations

import logging
from types import TracebackType

from shardcast.plain_text import one_line

_LONGEST_LINE = 8000
"""Characters of a line of the log."""


class LogFormat(logging.Formatter):
    """Gives each message one line of printable characters. The lines of a traceback are indented, so that
    none of them passes for a message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message, _LONGEST_LINE)
        return super().formatMessage(record)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {one_line(line, _LONGEST_LINE)}" for line in lines)
