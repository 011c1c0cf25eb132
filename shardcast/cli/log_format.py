"""Formats of the log: one line for each message, as text or as JSON, whatever the message contains."""

from __future__ import annotations

import json
import logging
import time
from types import TracebackType

from shardcast.log_fields import fields_of
from shardcast.plain_text import one_line

_MAX_LINE = 8000
"""Maximum characters of a message; of each line of a traceback, too."""


class LogFormat(logging.Formatter):
    """Formatter that gives each message one line of printable characters.

    Messages contain names and errors from other machines. The lines of a traceback are indented, so none of
    them looks like a message.
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


class JsonFormat(LogFormat):
    """Formatter that gives each message a line with a JSON object, for programs that collect logs.

    ``time`` is in UTC; ``version``, ``shard`` and ``server`` are there where a message is about one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        message = one_line(record.getMessage(), _MAX_LINE)
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            **fields_of(record),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values)


def log_format(name: str) -> logging.Formatter:
    """Return the formatter ``text`` or ``json``."""
    if name == "json":
        return JsonFormat()
    return LogFormat("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
