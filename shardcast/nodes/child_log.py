"""The log of a child process, passed on to ``logging`` in this one."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shardcast.json_text import parse_json
from shardcast.open_files import close
from shardcast.plain_text import one_line
from shardcast.protocol.lines import LineReader, LineTooLong

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_MAX_LINE = 1 << 20
"""Bytes of a line: a message with a long traceback."""
_MAX_WAITING = 1000
"""Lines that wait for the program's handlers; further ones are counted and dropped."""
_MAX_TEXT = 8000
"""Characters of a line of the child that is no message, and of a logger's name."""
_FIELDS = ("version", "shard", "server")
"""Fields of a message that records get as attributes."""


class ChildLog:
    """The reader of a child's stderr: each line becomes a record of the logger that the child names.

    One thread empties the pipe, and another calls the program's handlers: handlers that block, or that take
    long, never stop the child.

    Attributes:
        descriptor: the child's stderr; closed here by ``start``.
        words: options of the child's command.
    """

    words = ("--log-format", "json")

    def __init__(self) -> None:
        """Make the pipe."""
        self._read, self.descriptor = os.pipe()
        self._lines = queue.Queue[bytes | None](_MAX_WAITING)
        self._lost = 0
        self._threads = [
            threading.Thread(target=work, name="shardcast log", daemon=True)
            for work in (self._empty_pipe, self._pass_on)
        ]

    def start(self) -> None:
        """Start to read, and close ``descriptor`` here; call once the child has the descriptor."""
        close(self.descriptor)
        for thread in self._threads:
            thread.start()

    def discard(self) -> None:
        """Close the pipe of a child that did not start."""
        close(self.descriptor)
        close(self._read)

    def finish(self, timeout: float) -> None:
        """Wait until the handlers have the last lines of an ended child.

        ``timeout``: maximum seconds for each of the two threads.
        """
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _empty_pipe(self) -> None:
        """Take the lines out of the pipe; a thread's function."""
        reader = LineReader(_MAX_LINE)
        while chunk := os.read(self._read, _CHUNK):
            try:
                for line in reader.feed(chunk):
                    self._take(line)
            except LineTooLong as error:
                reader = LineReader(_MAX_LINE)
                self._take(f"dropped {error}".encode())
        close(self._read)
        self._lines.put(None)

    def _take(self, line: bytes) -> None:
        """Queue a line for the handlers; count it as lost where too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def _pass_on(self) -> None:
        """Call the program's handlers with each line; a thread's function."""
        while (line := self._lines.get()) is not None:
            emit(record_of(line))
            lost, self._lost = self._lost, 0
            if lost:
                log.warning("%d lines of the origin's log were dropped: the handlers are too slow", lost)


def record_of(line: bytes) -> logging.LogRecord:
    """Return the record of a line of a child's log.

    A line that is no message, such as one of a traceback of a crash, becomes a warning; the one with the
    address is for information.
    """
    try:
        values = parse_json(line)
        level = logging.getLevelNamesMapping()[values["level"]]
        created = datetime.fromisoformat(values["time"]).timestamp()
        name, message = str(values["logger"])[:_MAX_TEXT], str(values["message"])
    except (ValueError, TypeError, KeyError, LookupError, OverflowError):
        text = one_line(line.decode(errors="backslashreplace"), _MAX_TEXT)
        level = logging.INFO if text.startswith("Listening on ") else logging.WARNING
        return _record("shardcast", level, text, {})
    fields = {key: values[key] for key in _FIELDS if key in values}
    fields |= {"created": created, "msecs": created % 1 * 1000}
    if "traceback" in values:
        fields["exc_text"] = str(values["traceback"])
    return _record(name, level, message, fields)


def _record(name: str, level: int, message: str, fields: Mapping[str, Any]) -> logging.LogRecord:
    record = logging.LogRecord(name, level, "", 0, "%s", (message,), None)
    record.processName = "shardcast origin"
    record.process = None
    vars(record).update(fields)
    return record


def emit(record: logging.LogRecord) -> None:
    """Hand a record to the handlers of its logger; their exceptions go to ``Handler.handleError``."""
    logger = logging.getLogger(record.name)
    try:
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # noqa: BLE001  a filter of the program, for instance
        logging.Handler().handleError(record)
