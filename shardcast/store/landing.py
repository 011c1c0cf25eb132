"""A shard that is arriving: each piece counts when its digest is right, never before."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from shardcast.concurrency import Notifier
from shardcast.digest import PIECE_DIGEST_SIZE, Buffer, piece_digest, pieces_of
from shardcast.disk_errors import disk_errors, is_full
from shardcast.open_files import close
from shardcast.protocol.manifest import Shard

T = TypeVar("T")


_ENDING = 1.0
"""Seconds that threads which use a file have to end when it is closed."""


class WrongPiece(Exception):
    """A piece's digest is not right; those before it were kept."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the piece at byte {offset} is wrong")
        self.offset = offset


class Landing:
    """One shard, at ``base`` in an open file, which it closes at its end.

    A shard without piece digests (old nodes) is taken as it comes: it counts as landed, and only the
    whole payload's digest can say whether it is right.

    Threads write and the event loop reads: a byte of ``_landed`` goes from 0 to 1, never back, and
    ``_prefix`` grows, both under ``_advanced``. Several of them are counted in a copy, made in one step: in
    the original a piece may land between two looks. The open file, ``_at_work``, ``_closing`` and ``readers``
    are changed by the event loop alone; a thread is begun with ``in_thread``, and the file stays open until
    it has ended.

    ``writing`` is held while the file is written: the system lets one writer at a time into a file, and those
    who wait there spin.

    Attributes:
        shard: what arrives.
        path: the file that it arrives in.
        piece_size: bytes of a piece.
        readers: those that take it as it arrives, from its beginning to its end.
        make_room: called in the thread that writes when the disk is full, with the bytes that did not
            fit, and the error; returns whether to write them again.
        extend: called in the thread that writes with the place in the file and the number of bytes for which
            no room was reserved; raises where there is none. None where all room was reserved.
    """

    def __init__(
        self,
        shard: Shard,
        piece_size: int,
        path: Path,
        descriptor: int,
        base: int,
        writing: threading.Lock | None = None,
    ) -> None:
        self.shard = shard
        self.path = path
        self.piece_size = piece_size
        self.descriptor = descriptor
        self.readers = 0
        self.make_room: Callable[[int, OSError], bool] = lambda size, error: False
        self.extend: Callable[[int, int], None] | None = None
        self._base = base
        self._writing = writing or threading.Lock()
        self._landed = bytearray(-(-shard.size // piece_size))
        self._prefix = 0
        self._advanced = threading.Condition()
        self._notifier = Notifier()
        self._at_work: set[asyncio.Future[Any]] = set()
        self._closing = False

    @property
    def whole(self) -> bool:
        return self._prefix == len(self._landed)

    @property
    def prefix(self) -> int:
        """Bytes from the shard's start that are all there."""
        return min(self._prefix * self.piece_size, self.shard.size)

    @property
    def landed(self) -> int:
        """Bytes that are there."""
        landed = bytes(self._landed)
        if not landed:
            return 0
        last = self.shard.size - (len(landed) - 1) * self.piece_size
        return (sum(landed) - landed[-1]) * self.piece_size + landed[-1] * last

    def missing(self) -> list[tuple[int, int]]:
        """The ranges that are not there: offsets of their first byte and of the byte after their last."""
        landed, ranges = bytes(self._landed), list[tuple[int, int]]()
        start = landed.find(0)
        while start >= 0:
            end = landed.find(1, start)
            stop = len(landed) if end < 0 else end
            ranges.append((start * self.piece_size, min(stop * self.piece_size, self.shard.size)))
            start = landed.find(0, stop)
        return ranges

    async def land(self, start: int, data: Buffer) -> None:
        """Verify and write bytes that begin at a piece and end at a piece's or the shard's end.

        Raises:
            WrongPiece: one of the pieces is wrong; those before it are there now.
            LocalDiskError: they could not be written.
        """
        await self.in_thread(self.land_here, start, data)

    def land_here(self, start: int, data: Buffer) -> None:
        """The same from a thread that was begun with ``in_thread``."""
        good = self._write(start, data)
        self._mark(start // self.piece_size, -(-good // self.piece_size))
        if good < len(data):
            raise WrongPiece(start + good)

    def _write(self, start: int, data: Buffer) -> int:
        """How many bytes were right, and so written."""
        good = 0
        for piece in pieces_of(data, self.piece_size):
            if not self._right((start + good) // self.piece_size, piece):
                break
            good += len(piece)
        with disk_errors("could not write", self.path), self._writing:
            view, offset = memoryview(data)[:good], self._base + start
            if view and self.extend:
                self.extend(offset, len(view))
            while view:
                try:
                    written = os.pwrite(self.descriptor, view, offset)
                except OSError as error:
                    if is_full(error) and self.make_room(len(view), error):
                        continue
                    raise
                view, offset = view[written:], offset + written
        return good

    def _right(self, index: int, piece: Buffer) -> bool:
        digests = self.shard.pieces
        if not digests:
            return True
        return piece_digest(piece) == digests[index * PIECE_DIGEST_SIZE : (index + 1) * PIECE_DIGEST_SIZE]

    def _mark(self, first: int, count: int) -> None:
        with self._advanced:
            self._landed[first : first + count] = b"\1" * count
            following = self._landed.find(0, self._prefix)
            self._prefix = len(self._landed) if following < 0 else following
            self._advanced.notify_all()
        self._notifier.notify()

    def reach(self, position: int) -> int:
        """Where the bytes that are there from ``position`` on end; ``position`` itself if it isn't there."""
        missing = self._landed.find(0, position // self.piece_size)
        end = self.shard.size if missing < 0 else missing * self.piece_size
        return max(position, min(end, self.shard.size))

    async def reach_beyond(self, position: int) -> int:
        """Wait until the bytes from ``position`` on are there, as far as they are; ``position`` itself when
        the landing was closed instead."""
        await self._notifier.wait_for(lambda: self.reach(position) > position or self._closing)
        return self.reach(position)

    @contextmanager
    def read_along(self) -> Iterator[tuple[BinaryIO, int]]:
        """For a reader that takes it as it arrives: its file, opened once more, and where in it the shard
        begins.

        Raises:
            OSError: it is closed.
        """
        with os.fdopen(os.dup(self.descriptor), "rb", buffering=0) as file:
            self.readers += 1
            try:
                yield file, self._base
            finally:
                self.readers -= 1

    def prefix_beyond(self, position: int) -> int:
        """Wait, in a thread that was begun with ``in_thread``, until the prefix is longer than
        ``position``; returns it. It is not longer when the landing was closed instead."""
        with self._advanced:
            self._advanced.wait_for(lambda: self.prefix > position or self._closing)
            return self.prefix

    def take_whole(self) -> None:
        """Count every piece as there: it was verified before, and is unchanged."""
        self._mark(0, len(self._landed))

    async def recall(self, seeds: Sequence[int] = ()) -> None:
        """Verify what the file holds of the shard already, and count what is right.

        What is missing then is looked for at the same place of other open files, ``seeds``, such as the
        version that was here before.
        """
        if self.shard.pieces:
            for index in await self.in_thread(self._recall, seeds):
                self._mark(index, 1)

    def _recall(self, seeds: Sequence[int]) -> list[int]:
        found = []
        with disk_errors("could not read", self.path):
            present = set(self._present())
            for index in range(len(self._landed)):
                start = index * self.piece_size
                length = min(self.piece_size, self.shard.size - start)
                if index in present and self._right(
                    index, os.pread(self.descriptor, length, self._base + start)
                ):
                    found.append(index)
                    continue
                for seed in seeds:
                    piece = self._read_seed(seed, start, length)
                    if piece and self._right(index, piece):
                        self._write(start, piece)
                        found.append(index)
                        break
        return found

    def _read_seed(self, descriptor: int, start: int, length: int) -> bytes:
        """Return a piece as another file has it; nothing where it can't be read: nothing depends on it."""
        try:
            return os.pread(descriptor, length, self._base + start)
        except OSError:
            return b""

    def _present(self) -> Iterator[int]:
        """The pieces of which the file holds anything but holes."""
        position, end = self._base, min(self._base + self.shard.size, os.fstat(self.descriptor).st_size)
        while position < end:
            try:
                data = os.lseek(self.descriptor, position, os.SEEK_DATA)
                hole = os.lseek(self.descriptor, data, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                data, hole = position, end  # the file system doesn't tell
            first = (max(data, self._base) - self._base) // self.piece_size
            yield from range(first, -(-(min(hole, end) - self._base) // self.piece_size))
            position = hole

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Read bytes that are there; how many."""
        with disk_errors("could not read", self.path):
            return os.preadv(self.descriptor, [buffer], self._base + start)

    async def in_thread(self, work: Callable[..., T], *args: Any, executor: Executor | None = None) -> T:
        """Run what uses the file in a thread. Who waits for it may be cancelled; the file stays open until
        it has ended, so that it never writes into another one that got the same descriptor."""
        under_way = asyncio.get_running_loop().run_in_executor(executor, work, *args)
        self._at_work.add(under_way)
        under_way.add_done_callback(self._ended)
        return await asyncio.shield(under_way)

    def _ended(self, under_way: asyncio.Future[T]) -> None:
        self._at_work.discard(under_way)
        if not under_way.cancelled():
            under_way.exception()  # told to who waits, if anybody still does
        if self._closing:
            self.close()

    @property
    def at_work(self) -> frozenset[asyncio.Future[Any]]:
        """What threads do with the file now."""
        return frozenset(self._at_work)

    def close(self) -> None:
        """Close the file, as soon as no thread uses it."""
        with self._advanced:
            self._closing = True
            self._advanced.notify_all()
        self._notifier.notify()
        if self.descriptor >= 0 and not self._at_work:
            close(self.descriptor)
            self.descriptor = -1


async def close_landings(landings: Iterable[Landing]) -> None:
    """Close files, and give threads that use them a moment to end: an event loop that ended next would leave
    theirs open, and what is locked by them locked."""
    closing = list(landings)
    for landing in closing:
        landing.close()
    at_work = {one for landing in closing for one in landing.at_work}
    if at_work:
        await asyncio.wait(at_work, timeout=_ENDING)
