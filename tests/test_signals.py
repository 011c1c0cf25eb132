"""SIGINT and SIGTERM end whatever a command waits for."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import TracebackType

import pytest

from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.cli.serving import Session
from shardcast.errors import NodeFailed
from shardcast.file_locks import ENDING
from shardcast.nodes.runtime import run


class Starting:
    """A node whose start waits for ever, and whether it was ended."""

    url = "http://127.0.0.1:1"

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self.cut_off = False

    async def __aenter__(self) -> Starting:
        os.kill(os.getpid(), self._number)
        try:
            await asyncio.Event().wait()
        finally:
            self.cut_off = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise AssertionError("it never ran")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cuts_off_a_start_that_waits(number: signal.Signals) -> None:
    node = Starting(number)
    run(Session(None, None).serve(node))
    assert node.cut_off
    assert not ENDING.is_set(), "the next to run in this process waits for locks as ever"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large file"])
async def test_a_status_file_that_is_no_small_file_is_refused(kind: str, tmp_path: Path) -> None:
    status = tmp_path / "status"
    if kind == "pipe":
        os.mkfifo(status)
    elif kind == "device":
        status = Path("/dev/full")  # gives zeros without an end
    elif kind == "folder":
        status.mkdir()
    else:
        status.touch()
        os.truncate(status, 1 << 40)
    with pytest.raises(NodeFailed, match=f"the status file {status} can't be read: it is"):
        async with StoreServer.running(StoreSettings(tmp_path), status_file=status):
            pass
