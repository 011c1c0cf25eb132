"""The log of an origin's process in the program that started the origin."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardcast import NodeFailed, OriginServer
from shardcast.control.running import find_origin
from tests.support.processes import wait_until

CODE = """
import logging, sys, shardcast
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s|%(levelname)s|%(message)s")
shardcast.initialize(sys.argv[1], 0, log=True)
version = shardcast.broadcast(sys.argv[2])
shardcast.shutdown(wait=0)
"""


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(b"x" * 1000)
    return file


def test_lines_come_through_logging_with_level_and_name(payload: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", CODE, str(tmp_path / "data"), str(payload)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "shardcast|INFO|Listening on http://" in done.stdout
    named = [line.split("|", 2) for line in done.stdout.splitlines()]
    complete = [line for line in named if line[2].startswith("v1 is complete")]
    assert [line[1] for line in complete] == ["INFO"]
    assert complete[0][0].startswith("shardcast.")
    assert done.stderr == ""


def test_log_goes_on_after_a_restart_and_for_an_attached_process(
    payload: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = OriginServer(tmp_path / "data", 0)
    attached = OriginServer(tmp_path / "data", attach=True, log=True)
    try:
        attached.broadcast(payload)
        assert "v1 is complete" not in caplog.text, "that origin is the other's"
        first.shutdown(wait=0)
        assert attached.broadcast(payload) == "v2"
        wait_until(lambda: "v2 is complete" in caplog.text, what="the log of the origin started again")
        running = find_origin(tmp_path / "data")
        assert running is not None
        assert running.options is not None
        assert "--log-format" not in running.options, "another process that starts it has a log of its own"
    finally:
        attached.shutdown(wait=0)
        first.shutdown(wait=0)


def test_log_goes_on_after_a_kill(payload: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    origin = OriginServer(tmp_path / "data", 0, log=True)
    try:
        os.kill(origin._process.pid, signal.SIGKILL)
        assert origin.broadcast(payload) == "v1"
        wait_until(lambda: "v1 is complete" in caplog.text, what="the log after a kill")
    finally:
        origin.shutdown(wait=0)


def test_origin_that_cannot_start_leaves_no_descriptor(tmp_path: Path) -> None:
    running = OriginServer(tmp_path / "data", 0)
    try:
        before = descriptors()
        with pytest.raises(NodeFailed):
            OriginServer(tmp_path / "other", running.port, log=True)
        wait_until(lambda: descriptors() <= before, what="the pipe to be closed")
    finally:
        running.shutdown(wait=0)
