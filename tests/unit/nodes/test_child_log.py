"""Lines of a child's log as records, whatever the child writes."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.nodes.child_log import ChildLog, record_of
from tests.support.processes import wait_until

LINE = {
    "time": "2026-11-29T10:00:00.250Z",
    "level": "ERROR",
    "logger": "shardcast.nodes.publisher",
    "message": "100% of v3",
    "version": "v3",
}


def test_message_keeps_its_level_logger_time_and_fields() -> None:
    record = record_of(json.dumps({**LINE, "traceback": "Traceback"}).encode())
    assert (record.levelno, record.levelname, record.name) == (40, "ERROR", "shardcast.nodes.publisher")
    assert (record.getMessage(), record.exc_text) == ("100% of v3", "Traceback")
    assert record.created == datetime(2026, 11, 29, 10, 0, 0, 250_000, UTC).timestamp()
    assert vars(record)["version"] == "v3"
    assert logging.Formatter("%(message)s").format(record) == "100% of v3\nTraceback"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (b"Listening on http://127.0.0.1:8000", logging.INFO),
        (b"Traceback (most recent call last):", logging.WARNING),
        (b"\xff\x1b[2J", logging.WARNING),
        (b"[1]", logging.WARNING),
        (json.dumps({**LINE, "level": "LOUD"}).encode(), logging.WARNING),
        (json.dumps({**LINE, "time": "now"}).encode(), logging.WARNING),
        (json.dumps({**LINE, "time": 5}).encode(), logging.WARNING),
    ],
)
def test_other_lines_are_printable_messages(line: bytes, level: int) -> None:
    record = record_of(line)
    assert (record.name, record.levelno) == ("shardcast", level)
    assert record.getMessage().isprintable()


@given(st.dictionaries(st.sampled_from([*LINE, "traceback", "shard"]), st.none() | st.text() | st.integers()))
def test_any_object_is_a_record(values: dict[str, Any]) -> None:
    for written in (values, {**LINE, **values}):
        record = record_of(json.dumps(written).encode())
        shown = logging.Formatter("%(name)s %(asctime)s %(message)s").format(record)
        assert shown.startswith(f"{record.name} ") and record.getMessage() in shown


class Stuck(logging.Handler):
    """A handler that blocks until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.told, self.going = list[str](), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.going.wait(30)
        self.told.append(record.getMessage())


def test_child_never_waits_for_handlers_that_block() -> None:
    stuck, logger = Stuck(), logging.getLogger("shardcast")
    logger.addHandler(stuck)
    try:
        child_log = ChildLog()
        child = os.dup(child_log.descriptor)
        os.set_blocking(child, False)
        child_log.start()
        line = json.dumps(LINE).encode() + b"\n"
        for _ in range(5000):  # more than a pipe and the queue take
            written = 0
            while written < len(line):
                try:
                    written += os.write(child, line[written:])
                except BlockingIOError:
                    threading.Event().wait(0.001)
        os.close(child)
        stuck.going.set()
        child_log.finish(30)
        lost = [text for text in stuck.told if "were dropped" in text]
        assert lost
        assert len(stuck.told) < 5000
        wait_until(lambda: not any(thread.is_alive() for thread in child_log._threads))
    finally:
        logger.removeHandler(stuck)
