"""An arriving shard between large files: each piece goes into the small files around it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError
from shardcast.folders.places import FolderPlaces, TarDiffers
from shardcast.protocol.manifest import Header, Shard
from shardcast.store.landing import Landing, MakeRoom

_RECENT = 32 << 20
"""Bytes of pieces kept in memory for hashing, since opening small files again costs more."""
_TINY = 16 << 10
"""Bytes of a file below which writing threads take turns: system calls are so short that the threads would
mostly contend for the interpreter lock. 30 000 files of 1 KiB take 1.6 s in turns, else 1.9."""


class RecentPieces:
    """Written pieces waiting to be hashed, bounded for all landings of one folder."""

    def __init__(self, limit: int = _RECENT) -> None:
        """Keep no piece yet."""
        self._left = limit
        self._lock = threading.Lock()

    def reserve(self, size: int) -> bool:
        """Reserve room for a piece, and return whether there was enough."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def release(self, size: int) -> None:
        """Give room back."""
        with self._lock:
            self._left += size


class ScatteredLanding(Landing):
    """A shard of headers, padding and small files.

    The descriptor is the folder's; no file holds the shard's bytes in their order.
    """

    def __init__(
        self, shard: Shard, places: FolderPlaces, recent: RecentPieces, *, header: Header, path: Path
    ) -> None:
        """Count no piece as here yet.

        Args:
            shard: the shard.
            places: the files of the folder.
            recent: room for pieces in memory.
            header: of the version.
            path: of the arriving folder, for errors.

        Raises:
            OSError: this process has no descriptor left.
        """
        super().__init__(
            shard,
            header.piece_size,
            path=path,
            descriptor=places.open_root(),
            writing=places.writing if _has_tiny_files(places, shard) else nullcontext(),
        )
        self._places = places
        self._version = header.version
        self._room = recent
        self._recent: dict[int, memoryview] = {}

    def put(self, start: int, view: memoryview, make_room: MakeRoom) -> None:
        """Write right bytes to their files, and keep a copy for hashing while there is room.

        Args:
            start: offset of the bytes in the shard.
            view: the bytes.
            make_room: not called: no version is removed for a folder.

        Raises:
            IntegrityError: the tar differs from the one made from the list of entries.
            OSError: the bytes can't be written.
        """
        try:
            self._places.write(self.shard.offset + start, view)
        except TarDiffers as error:
            raise IntegrityError(
                f"{self._version} shard {self.shard.number}: {error}, so that old and new clients would see "
                "different folders; nothing was kept under a final name; name other servers, or broadcast it "
                "again"
            ) from None
        if not self._room.reserve(len(view)):
            return
        kept = memoryview(bytes(view))
        for offset in range(0, len(kept), self.piece_size):
            index = (start + offset) // self.piece_size
            self._forget(index)
            self._recent[index] = kept[offset : offset + self.piece_size]

    def get(self, start: int, length: int) -> bytes:
        """Return the bytes of a piece, built from the local files."""
        return self._places.read(self.shard.offset + start, length)

    def present_pieces(self) -> Iterator[int]:
        """Yield the indices of the pieces whose files are all here, with right bytes or wrong ones."""
        for index in range(-(-self.shard.size // self.piece_size)):
            start = self.shard.offset + index * self.piece_size
            end = min(start + self.piece_size, self.shard.offset + self.shard.size)
            if self._places.is_present(start, end):
                yield index

    def leave_out(self) -> None:
        """Count the pieces without bytes of wanted files as here: they are neither fetched nor written."""
        selection, layout = self._places.selection, self._places.layout
        for index in range(len(self._pieces)):
            start = self.shard.offset + index * self.piece_size
            end = min(start + self.piece_size, self.shard.end)
            if not any(map(selection.has_bytes_of, layout.files_between(start, end))):
                self._pieces.mark(index, 1)

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Read local bytes, and return their number; each byte is read once, in order.

        Raises:
            LocalDiskError: a file can't be read.
        """
        index, skipped = divmod(start, self.piece_size)
        recent = self._recent.get(index)
        if recent is None:
            length = min(len(buffer), self.piece_size - skipped, self.shard.size - start)
            with disk_errors("could not read", self.path):
                buffer[:length] = self.get(start, length)
            return length
        data = recent[skipped : skipped + len(buffer)]
        buffer[: len(data)] = data
        if skipped + len(data) == len(recent):
            self._forget(index)
        return len(data)

    def _forget(self, index: int) -> None:
        """Give the memory of a piece back."""
        known = self._recent.pop(index, None)
        if known is not None:
            self._room.release(len(known))

    def close(self) -> None:
        """Close the folder, and forget the pieces in memory."""
        super().close()
        for index in list(self._recent):
            self._forget(index)


def _has_tiny_files(places: FolderPlaces, shard: Shard) -> bool:
    """Return whether the entries of a shard are small enough, on average, for writers to take turns."""
    count = places.layout.entries_before(shard.end) - places.layout.entries_before(shard.offset)
    return count * _TINY > shard.size
