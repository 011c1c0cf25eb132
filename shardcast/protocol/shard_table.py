"""The shards of a manifest in memory: some 90 bytes each beside their pieces' digests.

A million ``Shard`` objects take 350 MB, and any server can list a million shards of one byte.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from shardcast.protocol.manifest import Shard


class ShardTable(Sequence[Shard]):
    """Shards in their order, from the first byte of the payload on, without gaps.

    One thread adds while others read: a shard becomes visible with its end, appended last.
    """

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self._sha256 = bytearray()
        self._pieces = bytearray()
        self._piece_ends = array("Q")
        self._ends = array("Q")
        self.extend(shards)

    @property
    def end(self) -> int:
        """Bytes of all shards together."""
        ends = self._ends
        return ends[-1] if ends else 0

    @property
    def memory(self) -> int:
        """Bytes of memory of the table."""
        return len(self._sha256) + len(self._pieces) + 8 * (len(self._piece_ends) + len(self._ends))

    def append(self, shard: Shard) -> None:
        """Add the next shard, whose digest is known."""
        assert shard.sha256 is not None and shard.offset == self.end
        self._sha256 += bytes.fromhex(shard.sha256)
        self._pieces += shard.pieces
        self._piece_ends.append(len(self._pieces))
        self._ends.append(shard.end)

    def extend(self, shards: Iterable[Shard]) -> None:
        """Add the next shards."""
        for shard in shards:
            self.append(shard)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Shard, ...]: ...
    def __getitem__(self, index: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(index, slice):
            return tuple(map(self._shard, range(*index.indices(len(self)))))
        count = len(self)
        at = index + count if index < 0 else index
        if not 0 <= at < count:
            raise IndexError(index)
        return self._shard(at)

    def _shard(self, at: int) -> Shard:
        """Return the shard at an index from 0."""
        offset, piece_start = (self._ends[at - 1], self._piece_ends[at - 1]) if at else (0, 0)
        sha256 = self._sha256[32 * at : 32 * at + 32].hex()
        pieces = bytes(self._pieces[piece_start : self._piece_ends[at]])
        return Shard(at + 1, offset, self._ends[at] - offset, sha256, pieces)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]
