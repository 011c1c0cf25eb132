"""The numbers of a version's pieces, from 0 on through all its shards, and sets of pieces.

Pieces begin anew with each shard: a shard of ``size`` bytes has ``ceil(size / piece_size)`` of them, an empty
one none. A set of pieces is an integer; bit ``n`` stands for piece ``n``. In JSON a set is a list of runs,
``[[first, count], …]``.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from shardcast.protocol.manifest import Manifest, Shard

MAX_PIECES = 1 << 22
"""Maximum pieces of a version with a number: 1 TiB of pieces of 256 KiB, whose sets take 512 KiB."""
MAX_RUNS = 4096
"""Runs of a set in JSON."""
_FEW_RUNS = 16
"""Maximum runs put together bit by bit. Each of them copies the whole set once; with more runs, parsing text
as a binary number takes less."""


class PieceError(ValueError):
    """A value is no set of a version's pieces, or breaks a bound."""


@dataclass(frozen=True, slots=True)
class PieceRun:
    """Consecutive pieces of one shard.

    Attributes:
        first: the number of the first piece.
        count: how many pieces there are.
        shard: the number of the shard, from 1.
        offset: the first byte in the shard.
        length: the bytes of all these pieces.
    """

    first: int
    count: int
    shard: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The byte of the shard after the last one."""
        return self.offset + self.length

    @property
    def mask(self) -> int:
        """The pieces as a set."""
        return mask_of_run(self.first, self.count)


class PieceNumbers:
    """The pieces of the known shards, whose number may grow.

    Attributes:
        piece_size: bytes of each piece but the last of a shard.
    """

    def __init__(self, piece_size: int, shards: Sequence[Shard] = ()) -> None:
        """Number the pieces of the first shards of a version."""
        self.piece_size = piece_size
        self._sizes = array("Q")
        self._ends = array("Q")  # for each shard, the number of the piece after its last one
        self.extend(shards)

    @classmethod
    def of(cls, manifest: Manifest) -> PieceNumbers:
        """Number the pieces of a whole version."""
        return cls(manifest.header.piece_size, manifest.shards)

    def extend(self, shards: Sequence[Shard]) -> None:
        """Number the pieces of new shards.

        Args:
            shards: all shards of the version by now, in order; known ones are not looked at again.
        """
        for index in range(len(self._sizes), len(shards)):
            size = shards[index].size
            self._sizes.append(size)
            self._ends.append(self.count + -(-size // self.piece_size))

    @property
    def shard_count(self) -> int:
        """The number of known shards."""
        return len(self._sizes)

    @property
    def count(self) -> int:
        """The number of pieces."""
        return self._ends[-1] if self._ends else 0

    @property
    def everything(self) -> int:
        """All pieces as a set."""
        return (1 << self.count) - 1

    def shard_size(self, shard: int) -> int:
        """Return the bytes of a shard.

        Raises:
            IndexError: no such shard is known.
        """
        self._check_shard(shard)
        return self._sizes[shard - 1]

    def first_of(self, shard: int) -> int:
        """Return the number of a shard's first piece; of an empty shard, that of the piece after it.

        Raises:
            IndexError: no such shard is known.
        """
        self._check_shard(shard)
        return self._ends[shard - 2] if shard > 1 else 0

    def number_at(self, shard: int, offset: int) -> int:
        """Return the number of the piece with a given byte of a shard.

        Raises:
            IndexError: no such byte is known.
        """
        if not 0 <= offset < self.shard_size(shard):
            raise IndexError(f"shard {shard} has no byte {offset}")
        return self.first_of(shard) + offset // self.piece_size

    def run(self, first: int, max_count: int = 1) -> PieceRun:
        """Return a piece and those after it in the same shard.

        Args:
            first: the number of the first piece.
            max_count: the pieces at most, at least 1.

        Raises:
            IndexError: no such piece is known.
        """
        if not 0 <= first < self.count:
            raise IndexError(f"there is no piece {first}")
        shard = bisect_right(self._ends, first) + 1
        count = min(max_count, self._ends[shard - 1] - first)
        offset = (first - self.first_of(shard)) * self.piece_size
        length = min(count * self.piece_size, self._sizes[shard - 1] - offset)
        return PieceRun(first, count, shard, offset, length)

    def whole_within(self, shard: int, start: int, end: int) -> int:
        """Return the pieces wholly within the bytes from ``start`` to before ``end`` of a shard.

        Raises:
            IndexError: no such shard is known.
        """
        size, first = self.shard_size(shard), self.first_of(shard)
        after = -(-size // self.piece_size) if end >= size else end // self.piece_size
        begin = -(-max(0, start) // self.piece_size)
        return mask_of_run(first + begin, max(0, after - begin))

    def in_shard(self, shard: int) -> int:
        """Return all pieces of a shard.

        Raises:
            IndexError: no such shard is known.
        """
        return self.whole_within(shard, 0, self.shard_size(shard))

    def _check_shard(self, shard: int) -> None:
        """Check for a known shard.

        Raises:
            IndexError: the shard is unknown.
        """
        if not 1 <= shard <= len(self._sizes):
            raise IndexError(f"there is no shard {shard}")


def mask_of_run(first: int, count: int) -> int:
    """Return the set of ``count`` pieces from ``first`` on."""
    return ((1 << count) - 1) << first


def runs_of(mask: int) -> list[tuple[int, int]]:
    """Return a set as runs: the first piece and the count of each, lowest first."""
    bits = f"{mask:b}"[::-1]
    runs, first = [], bits.find("1") if mask else -1
    while first >= 0:
        after = bits.find("0", first)
        if after < 0:
            after = len(bits)
        runs.append((first, after - first))
        first = bits.find("1", after)
    return runs


def lowest_runs(mask: int, max_runs: int = MAX_RUNS) -> int:
    """Return the pieces in the first runs of a set, as many as one list in JSON may have."""
    if mask.bit_count() <= max_runs:
        return mask
    runs = runs_of(mask)
    if len(runs) <= max_runs:
        return mask
    first, count = runs[max_runs - 1]
    return mask & ((1 << (first + count)) - 1)


def parse_runs(value: object, pieces: int = MAX_PIECES) -> int:
    """Return the set in a JSON value.

    Args:
        value: a list of at most ``MAX_RUNS`` runs, lowest first, without overlaps.
        pieces: number of existing pieces; no other may be in the set.

    Raises:
        PieceError: the value is something else.
    """
    if not isinstance(value, list) or len(value) > MAX_RUNS:
        raise PieceError(f"pieces that are no list of runs, or more than {MAX_RUNS}")
    end = 0
    for run in value:
        if not (isinstance(run, list) and len(run) == 2 and type(run[0]) is type(run[1]) is int):
            raise PieceError("a run of pieces that is not [first, count]")
        first, count = run
        if first < end or count < 1:
            raise PieceError("runs of pieces that overlap, are empty or out of order")
        end = first + count
        if end > pieces:
            raise PieceError(f"a piece {min(end, MAX_PIECES) - 1} of a version that has {pieces}")
    return mask_of_runs(value)


def mask_of_runs(runs: Sequence[Sequence[int]]) -> int:
    """Return the set of runs, each a first piece and a count, lowest first, without overlaps."""
    if len(runs) <= _FEW_RUNS:
        mask = 0
        for first, count in runs:
            mask |= mask_of_run(first, count)
        return mask
    parts, end = list[str](), 0
    for first, count in runs:
        parts += ("0" * (first - end), "1" * count)
        end = first + count
    return int("".join(parts)[::-1], 2)
