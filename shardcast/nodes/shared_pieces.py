"""Where the pieces of a shared version lie: in a client's output, or in the files of a middle's version."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import BinaryIO, Protocol

from shardcast.protocol.manifest import Shard
from shardcast.store.interfaces import Shelf
from shardcast.store.output_pieces import OutputPieces
from shardcast.swarm.links import GivenPiece

_MAX_OPEN = 16
"""Files of shards kept open for neighbours."""


class SharedPieces(Protocol):
    """The files of a shared version (a ``PieceFiles``)."""

    @property
    def unchanged(self) -> bool:
        """Whether the files still have the verified bytes."""

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        """Return a verified piece of a shard; None where the piece has gone."""

    def complete(self, found: os.stat_result | None) -> None:
        """Note that the whole version is here; ``found`` is the state of the output at its rename."""

    def close(self) -> None:
        """Close the files."""


class SharedOutput:
    """The pieces in the output of a client."""

    def __init__(self, output: OutputPieces, shards: Sequence[Shard]) -> None:
        """Give pieces of ``output``; ``shards`` are the version's shards so far."""
        self._output = output
        self._shards = shards

    @property
    def unchanged(self) -> bool:
        """Whether the output still has the verified bytes."""
        return self._output.unchanged

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        """Return a piece, unless the output was changed since its verification."""
        if not self._output.unchanged:
            return None
        offset = self._shards[shard - 1].offset + start
        return GivenPiece(self._output.file, offset, length, lambda: self._output.unchanged)

    def complete(self, found: os.stat_result | None) -> None:
        """Note the state of the output at its rename; from then on the output belongs to the user."""
        if found is not None:
            self._output.mark_named(found)

    def close(self) -> None:
        """Close the output."""
        self._output.close()


class SharedFolder:
    """The pieces in the folder of a middle's version, whole or arriving."""

    def __init__(self, shelf: Shelf, version: str) -> None:
        """Give pieces of a version of a Shelf."""
        self._shelf = shelf
        self._version = version
        self._open: OrderedDict[int, tuple[BinaryIO, int, ExitStack]] = OrderedDict()

    @property
    def unchanged(self) -> bool:
        """Whether the version is still here."""
        return self._shelf.has(self._version)

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        """Return a piece of a local or arriving shard; None if the file can't be opened."""
        opened = self._open.get(shard)
        if opened is None:
            try:
                opened = self._open_shard(shard)
            except OSError:
                return None
            self._open[shard] = opened
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)[1][2].close()
        self._open.move_to_end(shard)
        file, base, _ = opened
        return GivenPiece(file, base + start, length)

    def _open_shard(self, shard: int) -> tuple[BinaryIO, int, ExitStack]:
        """Open the file of a shard.

        Returns:
            The file, the offset of the shard in the file, and a stack to close the file with.

        Raises:
            OSError: the file can't be opened.
        """
        with ExitStack() as stack:
            span = self._shelf.shard(self._version, shard)
            file: BinaryIO
            if span is not None:
                file, base = stack.enter_context(span.path.open("rb", buffering=0)), span.offset
            else:
                landing = self._shelf.landing(self._version, shard)
                if landing is None:
                    raise FileNotFoundError("the shard is not here")
                file, base = stack.enter_context(landing.opened())
            return file, base, stack.pop_all()

    def complete(self, found: os.stat_result | None) -> None:
        """Do nothing: no one else writes to the folder."""

    def close(self) -> None:
        """Close all files."""
        while self._open:
            with suppress(OSError):
                self._open.popitem()[1][2].close()
