"""Lines of the log as text and as JSON, and the file that they are written to."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.cli.log_file import LogFile
from shardcast.cli.log_format import log_format
from shardcast.errors import BadAnswer, LocalDiskError
from shardcast.log_fields import about
from tests.support.payloads import patient


def record(message: str, *words: object, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("shardcast.x", logging.INFO, "x.py", 1, message, words, exc_info)


def fields(line: logging.LogRecord) -> dict[str, object]:
    values = json.loads(log_format("json").format(line))
    return {name: values[name] for name in ("version", "shard", "server") if name in values}


def test_a_message_has_the_fields_that_it_is_about() -> None:
    log = logging.getLogger("shardcast.test_log_format")
    about_all = about(version="v3", shard=7, server="http://a:1")
    made = log.makeRecord(log.name, logging.INFO, "x.py", 1, "done", (), None, extra=about_all)
    assert fields(made) == {"version": "v3", "shard": 7, "server": "http://a:1"}
    assert fields(record("v3 at http://a:1")) == {}, "text is no field"


def test_a_message_with_a_failure_has_the_server_of_that() -> None:
    assert fields(record("%s is late: %s", "v3", BadAnswer("http://a:1", "404"))) == {"server": "http://a:1"}


@patient
@given(st.text())
def test_any_message_is_one_json_object(message: str) -> None:
    line = log_format("json").format(record("%s", message))
    assert line.isprintable()
    assert isinstance(json.loads(line)["message"], str)


def test_json_has_time_level_and_traceback() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        values = json.loads(
            log_format("json").format(record("it failed", exc_info=(ValueError, error, error.__traceback__)))
        )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", values["time"])
    assert (values["level"], values["logger"], values["message"]) == ("INFO", "shardcast.x", "it failed")
    assert "ValueError: broken" in values["traceback"]


def test_text_has_a_date() -> None:
    line = log_format("text").format(record("it works"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    it works", line)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    handler = LogFile(tmp_path / "log", 1000)
    yield handler
    handler.close()


def test_a_file_is_rotated_by_size_and_five_stay(log: LogFile, tmp_path: Path) -> None:
    for number in range(300):
        log.emit(record("%d %s", number, "x" * 90))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", *(f"log.{n}" for n in range(1, 6))]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert "299 x" in (tmp_path / "log").read_text()


def test_a_file_that_was_moved_is_begun_anew(log: LogFile, tmp_path: Path) -> None:
    log.emit(record("one"))
    (tmp_path / "log").rename(tmp_path / "moved")
    log.emit(record("two"))
    assert (tmp_path / "moved").read_text() == "one\n"
    assert (tmp_path / "log").read_text() == "two\n"


def test_a_file_that_cannot_be_renamed_is_gone_on_with(
    log: LogFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.1" / "in the way").mkdir(parents=True)
    for number in range(300):
        log.emit(record("%d %s", number, "x" * 90))
    log.close()
    assert "299 x" in (tmp_path / "log").read_text()
    assert capsys.readouterr().err.count("could not write the log file") == 1


def test_a_full_disk_is_told_once_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogFile(Path("/dev/full"), 1000)
    for _ in range(3):
        handler.emit(record("lost"))
    with pytest.raises(OSError, match="No space"):
        handler.close()
    told = capsys.readouterr().err
    assert told.count("could not write the log file /dev/full: No space left on device") == 1
    assert "Traceback" not in told


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="--log-file: "):
        LogFile(tmp_path / "no" / "log", 1000)
