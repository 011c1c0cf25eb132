"""SIGINT and SIGTERM end whatever a command waits for."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.cli.serving import ForegroundNode
from shardcast.errors import NodeFailed
from shardcast.file_locks import PROCESS_ENDING
from shardcast.nodes.runtime import run
from tests.support.payloads import random_bytes, sha256
from tests.support.processes import command, environment
from tests.support.stores import fill


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
def test_signal_ends_a_waiting_start(number: signal.Signals) -> None:
    node = Starting(number)
    run(ForegroundNode(None, None).serve(node))
    assert node.cut_off
    assert not PROCESS_ENDING.is_set(), "the next to run in this process waits for locks as ever"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large file"])
async def test_status_file_that_is_large_or_special_is_refused(kind: str, tmp_path: Path) -> None:
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


@contextmanager
def waiting_store(*words: str, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """``shardcast store WORDS…``, killed at the end if it still runs."""
    process = subprocess.Popen(
        command("store", *words),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **streams,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def assert_interrupted(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (130, "Interrupted.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_put_whose_writer_pauses(number: signal.Signals, tmp_path: Path) -> None:
    directory = tmp_path / "store"
    directory.mkdir()
    with waiting_store("put", "-d", str(directory), "-q", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write("half")
        process.stdin.flush()
        room = select.poll()  # until the half has been read
        while fcntl.ioctl(process.stdin, termios.FIONREAD, b"\0" * 4) != b"\0" * 4:
            room.poll(10)
        assert_interrupted(process, number)
    assert not fill_of(directory)


def test_signal_ends_put_of_pipe_without_writer(tmp_path: Path) -> None:
    directory, pipe = tmp_path / "store", tmp_path / "pipe"
    directory.mkdir()
    os.mkfifo(pipe)
    with waiting_store("put", "-d", str(directory), "-q", str(pipe)) as process:
        writer = opened_by_reader(pipe)
        assert_interrupted(process, signal.SIGTERM)
        os.close(writer)
    assert not fill_of(directory)


def test_pipe_is_put_once_it_has_a_writer(tmp_path: Path) -> None:
    directory, pipe, data = tmp_path / "store", tmp_path / "pipe", random_bytes(300_000)
    directory.mkdir()
    os.mkfifo(pipe)
    with waiting_store("put", "-d", str(directory), "-q", str(pipe), stdout=subprocess.PIPE) as process:
        pipe.write_bytes(data)
        assert process.stdout is not None
        assert process.stdout.read() == f"{sha256(data)}\n"
    assert fill_of(directory) == [sha256(data)]


def test_signal_ends_get_without_reader(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    (digest,) = fill(directory, random_bytes(3_000_000))
    with waiting_store("get", "-d", str(directory), "-q", digest, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        select.select([process.stdout], [], [])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130


def fill_of(directory: Path) -> list[str]:
    return [file.name for file in directory.glob("??/*")]


def opened_by_reader(pipe: Path) -> int:
    """Open a named pipe for writing, once somebody has it open for reading."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO
            select.poll().poll(10)
