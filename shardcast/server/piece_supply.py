"""The pieces of a version ready to be sent, complete or still arriving."""

from __future__ import annotations

from collections.abc import Sequence

from shardcast.protocol.manifest import Header, Shard
from shardcast.protocol.piece_numbers import MAX_PIECES, PieceNumbers
from shardcast.store.interfaces import Shelf

_REFRESH_SECONDS = 0.02
"""Seconds between two looks at the arrivals; one costs some 10 µs for each arriving shard."""


class PieceSupply:
    """The pieces of one version ready to be sent.

    Attributes:
        numbers: the pieces by their numbers.
        growing: whether more of them come.
        range_pieces: maximum pieces sent in one answer.
    """

    def __init__(self, shelf: Shelf, version: str, header: Header, *, range_pieces: int = 1) -> None:
        """Begin with no piece, until ``refresh``.

        Args:
            shelf: the server's versions.
            version: name of the version.
            header: the first line of its manifest, to tell it from other versions of the same name.
            range_pieces: maximum pieces sent in one answer.
        """
        self.numbers = PieceNumbers(header.piece_size)
        self.growing = True
        self.range_pieces = range_pieces
        self._shelf = shelf
        self._version = version
        self._header = header
        self._shards: Sequence[Shard] = ()
        self._last_digest = 0, ""
        self._here = 0
        self._unfinished: set[int] = set()  # shards of which some pieces are missing
        self._arriving: set[int] = set()  # those of them that arrived at the last look
        self._looked_at = float("-inf")

    def is_of(self, header: Header | None) -> bool:
        """Return whether a header belongs to this version; another line can have one of the same name."""
        return header is self._header or header == self._header

    def is_due(self, now: float) -> bool:
        """Return whether it is time to look again."""
        return now - self._looked_at >= _REFRESH_SECONDS

    @property
    def is_too_large(self) -> bool:
        """Whether the version has more pieces than can be numbered."""
        return self.numbers.count > MAX_PIECES

    def digest(self, shard: int) -> str:
        """Return the SHA-256 of a shard, in hex."""
        if self._last_digest[0] != shard:  # a table of shards copies all digests of its pieces
            self._last_digest = shard, self._shards[shard - 1].sha256 or ""
        return self._last_digest[1]

    def refresh(self, now: float) -> int:
        """Look at the arrivals, and return the pieces newly ready to be sent."""
        self._looked_at = now
        manifest, live = self._shelf.manifest_of(self._version), self._shelf.live(self._version)
        shards = manifest.shards if manifest else live.shards if live else self._shards
        before, known = self._here, self.numbers.shard_count
        self._shards = shards
        self.numbers.extend(shards)
        self.growing = manifest is None
        if self.is_too_large:
            return 0
        if manifest:
            self._here = self.numbers.everything
            self._unfinished.clear()
        else:
            self._look_at_shards(known)
        return self._here & ~before

    def withdraw(self, shard: int) -> int:
        """Record an unreadable shard, and return its pieces; a later look may find the shard again."""
        mask = self.numbers.in_shard(shard)
        self._here &= ~mask
        self._unfinished.add(shard)
        return mask

    def _look_at_shards(self, known: int) -> None:
        """Look at the possibly changed shards: new lines, arriving shards, and arrived ones."""
        new = range(known + 1, self.numbers.shard_count + 1)
        self._unfinished.update(new)
        landings = dict(self._shelf.landings(self._version))
        changed = self._arriving | landings.keys() | set(new)
        self._arriving = set(landings)
        self._look_at(changed & self._unfinished)
        # A shard landed between two looks shows in the count alone.
        if self._shelf.verified_counts(self._version)[0] > self.numbers.shard_count - len(self._unfinished):
            self._look_at(set(self._unfinished))

    def _look_at(self, shards: set[int]) -> None:
        """Look at the pieces of some shards."""
        for shard in shards:
            if self._shelf.shard(self._version, shard) is not None:
                self._here |= self.numbers.in_shard(shard)
                self._unfinished.discard(shard)
            elif (landing := self._shelf.landing(self._version, shard)) is not None:
                self._here |= landing.verified_pieces << self.numbers.first_of(shard)
