"""An arriving shard: each piece counts only after its digest was found right."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from shardcast.digest import PIECE_DIGEST_SIZE, Buffer, piece_digest, pieces_of, zeros_digest
from shardcast.disk_errors import disk_errors, is_full
from shardcast.errors import LocalDiskError
from shardcast.open_files import close
from shardcast.protocol.manifest import Shard
from shardcast.store.piece_map import PieceMap

T = TypeVar("T")
MakeRoom = Callable[[int, OSError], bool]
"""A function to make room for so many bytes after an error; returns whether to write them again."""

_CLOSE_GRACE = 1.0
"""Seconds for threads to stop using a file at its closing."""


class WrongPiece(Exception):
    """A piece with a wrong digest; the pieces before were kept.

    Attributes:
        offset: of the piece in the shard.
    """

    def __init__(self, offset: int) -> None:
        """Word the error."""
        super().__init__(f"the piece at byte {offset} is wrong")
        self.offset = offset


class Landing:
    """One shard, arriving at an offset of an open file; the landing closes the file at its end.

    A shard without piece digests (old nodes) is accepted unverified: it counts as landed, and only the whole
    payload's digest can prove it right.

    Threads write and the event loop reads. The event loop alone changes the open file, ``_at_work``,
    ``_closing`` and ``readers``; a thread is started with ``in_thread``, and the file stays open until the
    thread has ended.

    Attributes:
        shard: the shard.
        path: the file.
        piece_size: bytes of a piece.
        descriptor: the open file; -1 after closing.
        readers: local readers of the shard during its arrival, from beginning to end.
        make_room: called in the writing thread on a full disk, with the number of bytes that did not fit, and
            the error; returns whether to write them again.
        extend: called in the writing thread with the place in the file and the number of bytes without
            reserved room; raises if there is none. None with room reserved for the whole shard.
        keeps_holes: whether the file has its full size already, so a hole counts as a piece of zeros.
    """

    def __init__(
        self,
        shard: Shard,
        piece_size: int,
        *,
        path: Path,
        descriptor: int,
        base: int = 0,
        writing: AbstractContextManager[Any] | None = None,
    ) -> None:
        """Count no piece as here yet.

        Args:
            shard: the shard.
            piece_size: bytes of a piece.
            path: the file.
            descriptor: the open file, closed by the landing.
            base: offset of the shard in the file.
            writing: held during a write to a file of several landings: the system lets one writer at a time
                into a file, and waiting threads spin.
        """
        self.shard = shard
        self.path = path
        self.piece_size = piece_size
        self.descriptor = descriptor
        self.readers = 0
        self.make_room: Callable[[int, OSError], bool] = lambda size, error: False
        self.extend: Callable[[int, int], None] | None = None
        self.keeps_holes = False
        self._base = base
        self._writing = threading.Lock() if writing is None else writing
        self._pieces = PieceMap(shard.size, piece_size)
        self._at_work: set[asyncio.Future[Any]] = set()
        self._closing = False

    # Local bytes

    @property
    def whole(self) -> bool:
        """Whether all of the shard is here."""
        return self._pieces.whole

    @property
    def is_open(self) -> bool:
        """Whether pieces may still land."""
        return not self._closing

    @property
    def prefix(self) -> int:
        """Bytes from the shard's start without a gap."""
        return self._pieces.prefix

    @property
    def verified_bytes(self) -> int:
        """Bytes of the pieces here; unverified ones where the shard has no piece digests."""
        return self._pieces.byte_count

    @property
    def verified_pieces(self) -> int:
        """The local pieces, as an integer whose bit ``n`` stands for piece ``n``."""
        return self._pieces.mask

    def missing(self) -> list[tuple[int, int]]:
        """Return the missing ranges, each as offsets of the first byte and after the last."""
        return self._pieces.missing()

    def reach(self, position: int) -> int:
        """Return the end of the local bytes from ``position`` on; ``position`` itself without any."""
        return self._pieces.reach(position)

    async def wait_for_reach(self, position: int) -> int:
        """Wait until bytes from ``position`` on are here, and return their end.

        The result is ``position`` itself when the landing was closed instead.
        """
        return await self._pieces.wait_for_reach(position)

    def wait_for_prefix(self, position: int, least: int = 1) -> int:
        """Wait until the prefix has ``least`` bytes after ``position``, or the shard ends; return the prefix.

        Called in a thread started with ``in_thread``. After a closing of the landing, the prefix may be
        shorter.
        """
        return self._pieces.wait_for_prefix(position, least)

    def mark_whole(self) -> None:
        """Count every piece as here: the shard was verified before, and is unchanged."""
        self._pieces.mark(0, len(self._pieces))

    # Writing

    async def land(self, start: int, data: Buffer) -> None:
        """Verify and write bytes from the start of a piece to the end of a piece or of the shard.

        Raises:
            WrongPiece: one of the pieces is wrong; those before are here now.
            LocalDiskError: they could not be written.
        """
        await self.in_thread(self.land_in_thread, start, data)

    def land_now(self, start: int, data: Buffer) -> bool:
        """Verify and write bytes as ``land`` does, on the event loop itself.

        Returns:
            Whether they are here. Where False, call ``land``: a thread has to wait for the loop to make room.

        Raises:
            WrongPiece: one of the pieces is wrong.
            LocalDiskError: they could not be written, or the landing is closed.
        """
        if self._closing:
            raise LocalDiskError(f"could not write {self.path}: the shard is not open any more")
        if self.extend:
            return False
        try:
            self._land(start, data, lambda size, error: False)
        except LocalDiskError as error:
            if not is_full(error):
                raise
            return False
        return True

    def land_in_thread(self, start: int, data: Buffer) -> None:
        """Verify and write bytes as ``land`` does, from a thread started with ``in_thread``."""
        self._land(start, data, self.make_room)

    def _land(self, start: int, data: Buffer, make_room: MakeRoom) -> None:
        """Verify and write bytes, and count them as here."""
        good = self._write(start, data, make_room)
        self._pieces.mark(start // self.piece_size, -(-good // self.piece_size))
        if good < len(data):
            raise WrongPiece(start + good)

    def _write(self, start: int, data: Buffer, make_room: MakeRoom) -> int:
        """Write the pieces before the first wrong one, and return the number of their bytes."""
        good = 0
        for piece in pieces_of(data, self.piece_size):
            if not self._is_right((start + good) // self.piece_size, piece):
                break
            good += len(piece)
        if self.descriptor < 0 and self.whole:
            return good  # pieces of neighbours were faster than this answer, and the shard is committed
        with disk_errors("could not write", self.path), self._writing:
            self.put(start, memoryview(data)[:good], make_room)
        return good

    def put(self, start: int, view: memoryview, make_room: MakeRoom) -> None:
        """Write right bytes to their place; the caller holds the lock of the file.

        ``make_room`` is called on a full disk, like that of the landing.

        Raises:
            OSError: the bytes can't be written.
        """
        offset = self._base + start
        if view and self.extend:
            self.extend(offset, len(view))
        while view:
            try:
                written = os.pwrite(self.descriptor, view, offset)
            except OSError as error:
                if is_full(error) and make_room(len(view), error):
                    continue
                raise
            view, offset = view[written:], offset + written

    def _is_right(self, index: int, piece: Buffer) -> bool:
        """Return whether a piece has the right digest; True for any piece of a shard without digests."""
        digests = self.shard.pieces
        if not digests:
            return True
        return piece_digest(piece) == digests[index * PIECE_DIGEST_SIZE : (index + 1) * PIECE_DIGEST_SIZE]

    # Pieces of an earlier run, or of other files

    async def recover_pieces(self, seeds: Sequence[int] = ()) -> None:
        """Verify the pieces already in the file, and count the right ones.

        Does nothing for a shard without piece digests.

        Args:
            seeds: open files to search for missing pieces in the same place, such as the former version.

        Raises:
            LocalDiskError: the file can't be read, or a copied piece not be written.
        """
        if self.shard.pieces:
            for index in await self.in_thread(self._recall, seeds):
                self._pieces.mark(index, 1)

    def _recall(self, seeds: Sequence[int]) -> list[int]:
        """Return the right pieces, after copying missing ones from seeds."""
        found = []
        with disk_errors("could not read", self.path):
            present = set(self.present_pieces())
            for index in range(len(self._pieces)):
                start = index * self.piece_size
                length = min(self.piece_size, self.shard.size - start)
                if index in present and self._is_right(index, self.get(start, length)):
                    found.append(index)
                    continue
                if index not in present and self.keeps_holes and self._is_zeros(index, length):
                    found.append(index)
                    continue
                for seed in seeds:
                    piece = _read_seed(seed, length, self._base + start)
                    if piece and self._is_right(index, piece):
                        self._write(start, piece, self.make_room)
                        found.append(index)
                        break
        return found

    def get(self, start: int, length: int) -> bytes:
        """Return the bytes in the place of a piece, verified or not.

        Raises:
            OSError: they can't be read.
        """
        return os.pread(self.descriptor, length, self._base + start)

    def _is_zeros(self, index: int, length: int) -> bool:
        """Return whether a piece is all zeros, by its digest."""
        digests = self.shard.pieces
        return zeros_digest(length) == digests[index * PIECE_DIGEST_SIZE : (index + 1) * PIECE_DIGEST_SIZE]

    def present_pieces(self) -> Iterator[int]:
        """Yield the pieces with anything but holes in the file."""
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

    # Reading

    @contextmanager
    def read_along(self) -> Iterator[tuple[BinaryIO, int]]:
        """Count a reader that follows the shard's arrival.

        Yields:
            The file, opened once more, and the offset of the shard in the file.

        Raises:
            OSError: the landing is closed.
        """
        with self.opened() as opened:
            self.readers += 1
            try:
                yield opened
            finally:
                self.readers -= 1

    @contextmanager
    def opened(self) -> Iterator[tuple[BinaryIO, int]]:
        """Open the file once more, to read landed pieces.

        Yields:
            The file, and the offset of the shard in the file.

        Raises:
            OSError: the landing is closed.
        """
        with os.fdopen(os.dup(self.descriptor), "rb", buffering=0) as file:
            yield file, self._base

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Read landed bytes, and return their number.

        Raises:
            LocalDiskError: the file can't be read.
        """
        with disk_errors("could not read", self.path):
            return os.preadv(self.descriptor, [buffer], self._base + start)

    # The open file

    async def in_thread(self, work: Callable[..., T], *args: Any, executor: Executor | None = None) -> T:
        """Run work on the file in a thread, and return the result.

        The caller may be cancelled; the file stays open until the thread has ended. Otherwise the thread
        could write into another file with the same descriptor.
        """
        under_way = asyncio.get_running_loop().run_in_executor(executor, work, *args)
        self._at_work.add(under_way)
        under_way.add_done_callback(self._ended)
        return await asyncio.shield(under_way)

    def _ended(self, under_way: asyncio.Future[T]) -> None:
        """Forget an ended thread, and close the file after the last one."""
        self._at_work.discard(under_way)
        if not under_way.cancelled():
            under_way.exception()  # retrieved, so that a caller who was cancelled leaves no warning
        if self._closing:
            self.close()

    @property
    def at_work(self) -> frozenset[asyncio.Future[Any]]:
        """The threads using the file now."""
        return frozenset(self._at_work)

    def close(self) -> None:
        """Let no more pieces land, wake waiting readers, and close the file as soon as no thread uses it."""
        self._closing = True
        self._pieces.close()
        if self.descriptor >= 0 and not self._at_work:
            close(self.descriptor)
            self.descriptor = -1


async def close_landings(landings: Iterable[Landing]) -> None:
    """Close files, and give threads at work a moment to end.

    If the event loop ended first, the threads' files would stay open, and the locks on them held.
    """
    closing = list(landings)
    for landing in closing:
        landing.close()
    at_work = {future for landing in closing for future in landing.at_work}
    if at_work:
        await asyncio.wait(at_work, timeout=_CLOSE_GRACE)


def _read_seed(descriptor: int, length: int, offset: int) -> bytes:
    """Return a piece of another file; nothing on an error, since nothing depends on a seed."""
    try:
        return os.pread(descriptor, length, offset)
    except OSError:
        return b""
