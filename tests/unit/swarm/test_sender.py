"""The frames that an end sends: whole and in order, however much the connection takes at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardcast.protocol.swarm_frames import HaveFrame, RefuseFrame, RefuseReason, encode
from shardcast.protocol.swarm_reader import FrameReader, Piece
from shardcast.swarm.links import GivenPiece
from shardcast.swarm.sender import MAX_UNSENT, PORTION, FileChanged, FrameSender
from tests.support.payloads import patient

LENGTHS = (3 * PORTION + 5, 7, PORTION, 2 * PORTION)
DATA = os.urandom(sum(LENGTHS))
"""The pieces of four requests, one after the other."""


class DosedOutlet:
    """A connection that takes as many bytes as it is told to, and keeps them.

    Attributes:
        taken: the bytes.
        room: how many more it takes now.
    """

    def __init__(self, *, has_sendfile: bool) -> None:
        self.has_sendfile = has_sendfile
        self.taken = bytearray()
        self.room = 0
        self.writable: Callable[[], None] | None = None
        self.failure: OSError | None = None

    def send(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> int:
        if self.failure:
            raise self.failure
        part = bytes(data[: self.room])
        self.taken += part
        self.room -= len(part)
        return len(part)

    def send_file(self, file: int, offset: int, count: int) -> int:
        return self.send(os.pread(file, count, offset))

    def notify(self, writable: Callable[[], None] | None) -> None:
        self.writable = writable

    def close(self) -> None:
        self.writable = None

    def take(self, size: int) -> None:
        """Take some more bytes, as a socket does that has room again."""
        self.room = size
        if self.writable:
            self.writable()


def read(data: bytes | bytearray) -> tuple[dict[int, bytes], list[object]]:
    """Return the pieces that frames bring, by request, and the small frames."""
    reader = FrameReader(lambda request: LENGTHS[request], max(LENGTHS))
    pieces, small, at = dict[int, bytes](), list[object](), 0
    while at < len(data):
        buffer = reader.get_buffer()
        size = min(len(buffer), len(data) - at)
        buffer[:size] = data[at : at + size]
        reader.received(size)
        at += size
        while frame := reader.next_frame():
            if isinstance(frame, Piece):
                pieces[frame.request] = bytes(frame.data)
            else:
                small.append(frame)
                if isinstance(frame, RefuseFrame):
                    reader.drop(frame.request)
    assert not reader.is_amid
    return pieces, small


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the pieces."""
    path = tmp_path_factory.mktemp("sender") / "payload"
    path.write_bytes(DATA)
    return path


@settings(patient, max_examples=60)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 2 * PORTION)), max_size=25),
)
@example(True, [(4, 887), (0, 81254), (2, 80233)])
@example(True, [(5, PORTION), (0, 1), (1, 1), (2, 1)])
def test_requests_end_whole_or_refused_whatever_happens(
    path: Path, has_sendfile: bool, steps: list[tuple[int, int]]
) -> None:
    """Steps 0 to 3 give up a request, 4 sends a small frame, 5 and 6 let the connection take bytes."""

    async def run() -> None:
        outlet = DosedOutlet(has_sendfile=has_sendfile)
        failures: list[OSError] = []
        sender = FrameSender(outlet, failures.append)
        before, told = open_files(), 0
        with path.open("rb", buffering=0) as file:
            gifts = [
                asyncio.ensure_future(
                    sender.give(request, GivenPiece(file, sum(LENGTHS[:request]), LENGTHS[request]))
                )
                for request in range(4)
            ]
            await asyncio.sleep(0)
            for step, size in steps:
                if step < 4:
                    gifts[step].cancel()
                elif step == 4:
                    told += 1
                    sender.send(encode(HaveFrame(told)))
                else:
                    outlet.take(size)
                for _ in range(size % 4):
                    await asyncio.sleep(0)
            for _ in range(1000):
                outlet.take(1 << 20)
                await asyncio.sleep(0 if has_sendfile else 0.001)
                if not sender.is_busy and all(gift.done() for gift in gifts):
                    break
        pieces, small = read(outlet.taken)
        refused = [frame.request for frame in small if isinstance(frame, RefuseFrame)]
        assert sorted([*pieces, *refused]) == [0, 1, 2, 3]
        assert all(data == piece_of(request) for request, data in pieces.items())
        assert all(gifts[request].cancelled() for request in refused)
        assert [frame for frame in small if isinstance(frame, HaveFrame)] == [
            HaveFrame(number) for number in range(1, told + 1)
        ]
        assert not failures
        sender.close()
        assert open_files() == before

    asyncio.run(run())


def open_files() -> int:
    """Return how many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def piece_of(request: int) -> bytes:
    """Return the piece of a request."""
    return DATA[sum(LENGTHS[:request]) :][: LENGTHS[request]]


async def test_small_frame_goes_before_the_next_portion(path: Path) -> None:
    outlet = DosedOutlet(has_sendfile=True)
    sender = FrameSender(outlet, lambda error: None)
    with path.open("rb", buffering=0) as file:
        gift = asyncio.ensure_future(sender.give(0, GivenPiece(file, 0, LENGTHS[0])))
        await asyncio.sleep(0)
        outlet.take(100)
        sender.send(encode(HaveFrame(1)))
        outlet.take(PORTION + 8 - 100 + len(encode(HaveFrame(1))))
        assert outlet.taken.endswith(encode(HaveFrame(1)))
        outlet.take(1 << 20)
        await gift
    assert read(outlet.taken) == ({0: piece_of(0)}, [HaveFrame(1)])


async def test_end_of_connection_fails_who_gives(path: Path) -> None:
    outlet, failures = DosedOutlet(has_sendfile=True), list[OSError]()
    sender = FrameSender(outlet, failures.append)
    with path.open("rb", buffering=0) as file:
        gift = asyncio.ensure_future(sender.give(0, GivenPiece(file, 0, LENGTHS[0])))
        await asyncio.sleep(0)
        outlet.failure = ConnectionResetError("reset")
        outlet.take(100)
        with pytest.raises(ConnectionResetError, match="reset"):
            await gift
        assert failures == [outlet.failure]
        with pytest.raises(ConnectionResetError, match="the stream has ended"):
            await sender.give(0, GivenPiece(file, 0, 1))


@pytest.mark.parametrize("has_sendfile", [True, False])
@pytest.mark.parametrize("sent", [0, 100, 3 * PORTION + 30])
async def test_piece_whose_file_changes_before_its_last_bytes_go_does_not_come_whole(
    path: Path, sent: int, has_sendfile: bool
) -> None:
    outlet, failures, unchanged = DosedOutlet(has_sendfile=has_sendfile), list[OSError](), True
    sender = FrameSender(outlet, failures.append)
    with path.open("rb", buffering=0) as file:
        piece = GivenPiece(file, 0, LENGTHS[0], lambda: unchanged)
        gift = asyncio.ensure_future(sender.give(0, piece))
        while len(outlet.taken) < sent and not gift.done():
            outlet.take(sent - len(outlet.taken))
            await asyncio.sleep(0.001)
        unchanged = False
        for _ in range(100):
            outlet.take(1 << 20)
            await asyncio.sleep(0.001)
        if has_sendfile or sent < PORTION:
            with pytest.raises(FileChanged):
                await gift
            assert len(outlet.taken) < LENGTHS[0] + 4 * 8
        else:
            await gift, "its last bytes had been read and checked"
        assert sender.is_busy is False


async def test_end_that_takes_nothing_is_left_before_memory_grows() -> None:
    failures = list[OSError]()
    sender = FrameSender(DosedOutlet(has_sendfile=True), failures.append)
    frame = encode(HaveFrame((1 << 500_000) // 3))
    for _ in range(MAX_UNSENT // len(frame) + 1):
        sender.send(frame)
    assert [type(error).__name__ for error in failures] == ["TooSlow"]
    assert not sender.is_busy


def test_reason_of_a_cancelled_request_is_told(path: Path) -> None:
    async def run() -> bytearray:
        outlet = DosedOutlet(has_sendfile=True)
        sender = FrameSender(outlet, lambda error: None)
        with path.open("rb", buffering=0) as file:
            gift = asyncio.ensure_future(sender.give(0, GivenPiece(file, 0, LENGTHS[0])))
            await asyncio.sleep(0)
            outlet.take(100)
            gift.cancel()
            await asyncio.sleep(0)
            outlet.take(1 << 20)
        return outlet.taken

    taken = asyncio.run(run())
    assert read(taken) == ({}, [RefuseFrame(0, RefuseReason.CANCELLED)])
    assert len(taken) == 8 + PORTION + len(encode(RefuseFrame(0, RefuseReason.CANCELLED)))
