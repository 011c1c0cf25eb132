"""The pipe of a broadcast: all bytes arrive, and an abort or a reader that goes away ends a write."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.control.client import node_errors
from shardcast.control.pipe import PORTION, PipeWriter
from shardcast.errors import NodeFailed, ShardcastError, TransferFailed
from tests.support.payloads import random_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def reader(path: Path) -> Iterator[int]:
    """Yield the reading end of a pipe that nothing is read from yet."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    yield descriptor
    os.close(descriptor)


def test_write_waits_for_slower_reader(reader: int, path: Path) -> None:
    payload, received = random_bytes(3 * PORTION), bytearray()

    def read_all() -> None:
        while chunk := os.read(reader, 100_000):
            received.extend(chunk)

    writer = PipeWriter(str(path), "v7", path.parent)  # first: a pipe without a writer is at its end
    thread = threading.Thread(target=read_all)
    thread.start()
    writer.write(memoryview(payload))
    writer.close()
    thread.join(30)
    assert received == payload


def test_abort_ends_write_to_full_pipe(reader: int, path: Path) -> None:
    writer = PipeWriter(str(path), "v7", path.parent)
    timer = threading.Timer(0.1, writer.abort)
    timer.start()
    with pytest.raises(TransferFailed, match="v7 was aborted"):
        writer.write(memoryview(bytes(4 * PORTION)))
    timer.join()
    with pytest.raises(TransferFailed):
        writer.write(memoryview(b"more"))


def test_write_after_reader_closed_raises(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = PipeWriter(str(path), "v7", path.parent)
    os.close(descriptor)
    with pytest.raises(BrokenPipeError):
        writer.write(memoryview(b"bytes"))
    writer.close()


def test_origin_that_takes_nothing_is_named(reader: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardcast.control.pipe.PATIENCE", 0.1)
    writer = PipeWriter(str(path), "v7", path.parent)
    words = r"took no bytes of v7 for 0\.1 s, so this was aborted"
    with pytest.raises(NodeFailed, match=words), node_errors("the origin went away"):
        writer.write(memoryview(bytes(4 * PORTION)))
    writer.close()


def test_silent_node_is_told_from_one_that_ended() -> None:
    with pytest.raises(NodeFailed, match=r"went away \(nothing came in time"), node_errors("it went away"):
        raise TimeoutError("a line took too long")
    with pytest.raises(NodeFailed, match=r"went away$"), node_errors("it went away"):
        raise ConnectionResetError


def test_pipe_without_reader_is_no_local_failure(path: Path) -> None:
    with pytest.raises(OSError, match="No such device") as caught:
        PipeWriter(str(path), "v7", path.parent)
    assert not isinstance(caught.value, ShardcastError)


def test_second_close_does_nothing(reader: int, path: Path) -> None:
    writer = PipeWriter(str(path), "v7", path.parent)
    writer.close()
    writer.close()
    writer.abort()
