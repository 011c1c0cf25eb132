"""The pieces of a folder received or held by a sharing client, for its neighbours."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import BinaryIO

from shardcast.digest import PIECE_DIGEST_SIZE, piece_digest
from shardcast.folders.layout import FolderShard
from shardcast.folders.pieces import FolderPieces
from shardcast.nodes.shared_pieces import SharedOutput, SharedPieces
from shardcast.protocol.manifest import Shard
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_pieces import OutputPieces
from shardcast.swarm.links import GivenPiece

_MAX_OPEN = 16
"""Large files kept open for neighbours."""
_MAX_BUILT = 64
"""Pieces built of small files and kept in memory for neighbours: 16 MiB."""


class SharedFolderOutput:
    """The pieces in a folder (a ``SharedPieces``)."""

    def __init__(self, pieces: FolderPieces, shards: Sequence[Shard], piece_size: int) -> None:
        """Give pieces.

        Args:
            pieces: the files of the folder.
            shards: those of the version by now.
            piece_size: bytes of a piece.
        """
        self._pieces = pieces
        self._shards = shards
        self._piece_size = piece_size
        self._placed: list[FolderShard] = list(pieces.layout.shards())
        self._entries = len(pieces.layout.table)
        self._large: OrderedDict[int, BinaryIO] = OrderedDict()
        self._built: OrderedDict[tuple[int, int], BinaryIO] = OrderedDict()

    @property
    def unchanged(self) -> bool:
        """Whether the folder still has its name; single pieces are checked in ``find``."""
        return self._pieces.unchanged

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        """Return a piece; None if the bytes can't be read, or have changed since their verification."""
        placed = self._place(shard)
        try:
            if placed.index is None:
                return self._build(shard, start, length)
            file = self._open(placed.index)
        except OSError:
            return None
        is_unchanged = partial(self._pieces.is_unchanged, placed.index, file.fileno())
        return GivenPiece(file, placed.file_offset + start, length, is_unchanged) if is_unchanged() else None

    def _place(self, shard: int) -> FolderShard:
        """Return the place of a shard; the list of a folder written file by file grows meanwhile."""
        entries = len(self._pieces.layout.table)
        if entries != self._entries:
            self._placed, self._entries = list(self._pieces.layout.shards()), entries
        return self._placed[shard - 1]

    def _open(self, index: int) -> BinaryIO:
        """Return an open large file.

        Raises:
            OSError: the file can't be opened.
        """
        file = self._large.pop(index, None)
        if file is None:
            file = os.fdopen(self._pieces.open_large(index), "rb", buffering=0)
        self._large[index] = file
        while len(self._large) > _MAX_OPEN:
            self._large.popitem(last=False)[1].close()
        return file

    def _build(self, shard: int, start: int, length: int) -> GivenPiece | None:
        """Return a piece of headers and small files, as a file in memory; None if the digest is wrong.

        Raises:
            OSError: a file can't be read, or this process has no descriptor left.
        """
        file = self._built.pop((shard, start), None)
        if file is None:
            data = self._pieces.read(self._placed[shard - 1].offset + start, length)
            index = start // self._piece_size
            digests = self._shards[shard - 1].pieces
            if piece_digest(data) != digests[index * PIECE_DIGEST_SIZE : (index + 1) * PIECE_DIGEST_SIZE]:
                return None
            file = _file_in_memory()
            os.pwrite(file.fileno(), data, 0)
        self._built[shard, start] = file
        while len(self._built) > _MAX_BUILT:
            self._built.popitem(last=False)[1].close()
        return GivenPiece(file, 0, length)

    def complete(self, found: os.stat_result | None) -> None:
        """Do nothing: the folder's files are recorded at its rename (``FolderPieces.mark_named``)."""

    def close(self) -> None:
        """Close all files."""
        for opened in (*self._large.values(), *self._built.values()):
            opened.close()
        self._large.clear()
        self._built.clear()
        self._pieces.close()


def shared_pieces(opened: OutputPieces | FolderPieces, live: LiveManifest) -> SharedPieces:
    """Return the pieces of a client's output, a file or a folder."""
    if isinstance(opened, FolderPieces):
        return SharedFolderOutput(opened, live.shards, live.header.piece_size)
    return SharedOutput(opened, live.shards)


def _file_in_memory() -> BinaryIO:
    """Return a new file without a name: in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("piece", os.MFD_CLOEXEC), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
