"""The verified and written pieces of an arriving shard, and the wait for more of them."""

from __future__ import annotations

import threading

from shardcast.concurrency import Notifier

_DIGITS = bytes.maketrans(b"\0\1", b"01")
"""The bytes of the map as binary digits."""


class PieceMap:
    """A byte a piece: 1 once the piece is verified and written, 0 before.

    Threads mark pieces while the event loop and other threads read. A byte goes from 0 to 1, never back, and
    ``_prefix`` only grows; both change under ``_advanced``. Several bytes are counted in a copy, made in one
    step: in the original a piece may land between two looks.
    """

    def __init__(self, size: int, piece_size: int) -> None:
        """Begin with no piece.

        Args:
            size: bytes of the shard.
            piece_size: bytes of a piece; the last piece may be shorter.
        """
        self._size = size
        self._piece_size = piece_size
        self._landed = bytearray(-(-size // piece_size))
        self._prefix = 0
        self._closed = False
        self._awaited: list[int] = []  # prefixes that threads wait for
        self._advanced = threading.Condition()
        self._notifier = Notifier()

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._landed)

    @property
    def whole(self) -> bool:
        """Whether all pieces are here."""
        return self._prefix == len(self._landed)

    @property
    def prefix(self) -> int:
        """Bytes from the shard's start without a gap."""
        return min(self._prefix * self._piece_size, self._size)

    @property
    def byte_count(self) -> int:
        """Bytes of the local pieces."""
        landed = bytes(self._landed)
        if not landed:
            return 0
        last = self._size - (len(landed) - 1) * self._piece_size
        return (sum(landed) - landed[-1]) * self._piece_size + landed[-1] * last

    @property
    def mask(self) -> int:
        """The local pieces, as an integer whose bit ``n`` stands for piece ``n``."""
        return int(self._landed[::-1].translate(_DIGITS) or b"0", 2)

    def missing(self) -> list[tuple[int, int]]:
        """Return the missing ranges, each as offsets of the first byte and after the last."""
        landed, ranges = bytes(self._landed), list[tuple[int, int]]()
        start = landed.find(0)
        while start >= 0:
            end = landed.find(1, start)
            stop = len(landed) if end < 0 else end
            ranges.append((start * self._piece_size, min(stop * self._piece_size, self._size)))
            start = landed.find(0, stop)
        return ranges

    def reach(self, position: int) -> int:
        """Return the end of the local bytes from ``position`` on; ``position`` itself without any."""
        missing = self._landed.find(0, position // self._piece_size)
        end = self._size if missing < 0 else missing * self._piece_size
        return max(position, min(end, self._size))

    def mark(self, first: int, count: int) -> None:
        """Count pieces as here, and wake all waiting readers."""
        with self._advanced:
            self._landed[first : first + count] = b"\1" * count
            following = self._landed.find(0, self._prefix)
            self._prefix = len(self._landed) if following < 0 else following
            if any(self.prefix >= end for end in self._awaited):
                self._advanced.notify_all()
        self._notifier.notify()

    def close(self) -> None:
        """Wake all waiting readers: no more pieces come."""
        with self._advanced:
            self._closed = True
            self._advanced.notify_all()
        self._notifier.notify()

    async def wait_for_reach(self, position: int) -> int:
        """Wait until bytes from ``position`` on are here, or no more come; return ``reach(position)``."""
        await self._notifier.wait_for(lambda: self.reach(position) > position or self._closed)
        return self.reach(position)

    def wait_for_prefix(self, position: int, least: int = 1) -> int:
        """Wait in a thread until the prefix is ``least`` bytes longer than ``position``, or no more comes.

        Args:
            position: bytes at the caller.
            least: further bytes to wait for, unless the shard ends before: waking a thread for each piece
                costs as much as hashing the piece.

        Returns:
            The prefix.
        """
        end = min(position + least, self._size)
        with self._advanced:
            self._awaited.append(end)
            try:
                self._advanced.wait_for(lambda: self.prefix >= end or self._closed)
            finally:
                self._awaited.remove(end)
            return self.prefix
