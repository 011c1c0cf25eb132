"""Pieces that a node exchanges are verified and written, on the event loop or in threads."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.policy.landing_place import MAX_SECONDS, THREADS_SECONDS
from shardcast.protocol.manifest import Shard
from shardcast.store import landing as landing_module
from shardcast.store.landing import Landing, WrongPiece
from shardcast.swarm.piece_writer import PieceWriter
from tests.support.payloads import PIECE, manifest, random_bytes

DATA = random_bytes(4 * PIECE)
SHARD: Shard = manifest(DATA, shard_size=len(DATA)).shards[0]


@contextmanager
def opened(path: Path) -> Iterator[Landing]:
    """Open a landing of four pieces."""
    found = Landing(SHARD, PIECE, path=path, descriptor=os.open(path, os.O_RDWR | os.O_CREAT))
    try:
        yield found
    finally:
        found.close()


class Clock:
    """A clock that goes on by so many seconds with each look."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each piece was written by the thread of the event loop."""
    threads, write = list[bool](), os.pwrite

    def noted(descriptor: int, data: bytes, offset: int) -> int:
        threads.append(threading.current_thread() is threading.main_thread())
        return write(descriptor, data, offset)

    monkeypatch.setattr(landing_module.os, "pwrite", noted)
    return threads


async def test_pieces_go_to_threads_while_the_disk_is_slow(tmp_path: Path, writers: list[bool]) -> None:
    clock = Clock()
    writer = PieceWriter(clock=clock)
    with opened(tmp_path / "part") as landing:
        for number, step in enumerate((MAX_SECONDS, 0.0, 0.0)):
            clock.step = step
            await writer.write(landing, number * PIECE, DATA[number * PIECE : (number + 1) * PIECE])
        clock.now += THREADS_SECONDS
        await writer.write(landing, 3 * PIECE, DATA[3 * PIECE :])
        assert landing.whole
    assert writers == [True, False, False, True]
    assert (tmp_path / "part").read_bytes() == DATA


async def test_room_on_a_full_disk_is_made_by_a_thread_that_waits_for_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, write = [True], os.pwrite

    def refused(descriptor: int, data: bytes, offset: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data, offset)

    def make_room(size: int, error: OSError) -> bool:
        assert threading.current_thread() is not threading.main_thread(), "the loop would wait for itself"
        full.clear()
        return True

    monkeypatch.setattr(landing_module.os, "pwrite", refused)
    with opened(tmp_path / "part") as landing:
        landing.make_room = make_room
        await PieceWriter().write(landing, 0, DATA[:PIECE])
        assert landing.verified_bytes == PIECE


async def test_room_that_was_not_reserved_is_taken_by_a_thread(tmp_path: Path) -> None:
    taken = list[int]()

    def extend(start: int, size: int) -> None:
        assert threading.current_thread() is not threading.main_thread(), "the loop would wait for itself"
        taken.append(size)

    with opened(tmp_path / "part") as landing:
        landing.extend = extend
        await PieceWriter().write(landing, 0, DATA[:PIECE])
    assert taken == [PIECE]


async def test_wrong_piece_and_closed_landing_are_told(tmp_path: Path) -> None:
    with opened(tmp_path / "part") as landing:
        with pytest.raises(WrongPiece):
            await PieceWriter().write(landing, 0, bytes(PIECE))
        landing.close()
        with pytest.raises(LocalDiskError, match="not open any more"):
            await PieceWriter().write(landing, 0, DATA[:PIECE])
