"""The contract between the exchange of a version's pieces and what carries them.

Pieces have the numbers of ``protocol.pieces``: they count through all shards of a version.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from shardcast.policy.swarm.ledger import Asked, Handout, HandoutKind
from shardcast.store.landing import Landing


@dataclass(frozen=True, slots=True)
class GivenPiece:
    """A verified piece in an open file.

    Attributes:
        file: the file, which stays open while the piece is sent.
        offset: of the piece in the file.
        length: its bytes.
        is_unchanged: tells whether the file has still the bytes that were verified.
    """

    file: BinaryIO
    offset: int
    length: int
    is_unchanged: Callable[[], bool] = lambda: True


class Link(Protocol):
    """A stream to one neighbour, of which it is known who it is.

    Attributes:
        key: the neighbour's name.
        near: whether it is in the same site.
    """

    key: Hashable
    near: bool

    def tell(self, gained: int, lost: int) -> None:
        """Tell which pieces can be had here now, and which no more, as masks."""

    def want(self, number: int) -> None:
        """Ask for a piece."""

    def cancel(self, number: int) -> None:
        """Take back the request for a piece."""

    def refuse(self, number: int, *, absent: bool) -> None:
        """Refuse a piece that the neighbour asked for; ``absent``: it can't be had here (any more)."""

    async def give(self, number: int, piece: GivenPiece) -> None:
        """Send a piece that the neighbour asked for.

        A cancelled call sends nothing, or all of a piece whose first bytes were sent.

        Raises:
            OSError: the stream ended, or the file can't be read.
        """

    def close(self, reason: str) -> None:
        """End the stream; ``reason`` is for the log."""


@dataclass(frozen=True, slots=True)
class HandedOut:
    """The answer of a server to a request for the next piece.

    Attributes:
        number: of the piece that came; None where none did.
        data: its bytes, not verified yet.
        claims: mask of pieces that may be asked from neighbours in other sites.
        exhausted: whether the server has handed out all that it has.
        supported: whether it hands out anything at all.
        waited: whether the server kept the request for as long as it was asked to, and had nothing new.
    """

    number: int | None = None
    data: memoryview | None = None
    claims: int = 0
    exhausted: bool = False
    supported: bool = True
    waited: bool = False

    @property
    def handout(self) -> Handout:
        """The answer as the rules have it."""
        if self.number is not None:
            return Handout(HandoutKind.BODY, 1 << self.number)
        if self.claims:
            return Handout(HandoutKind.CLAIMS, self.claims)
        if self.waited:
            return Handout(HandoutKind.WAIT)
        return Handout(HandoutKind.NONE if self.exhausted else HandoutKind.PAUSE)


class PieceServer(Protocol):
    """A server that hands out pieces."""

    url: str

    async def next_piece(self, asked: Asked) -> HandedOut:
        """Ask for the next piece.

        Raises:
            PeerError: the server can't be asked, or broke off.
        """

    def report_wrong(self, number: int) -> None:
        """Tell the server, by the next request, that a piece came wrong, or found no place here."""


class PieceSink(Protocol):
    """The landings that the pieces go to."""

    @property
    def open_landings(self) -> list[Landing]:
        """The landings of the shards that are open now."""

    @property
    def overdue_shard(self) -> int | None:
        """The number of a shard that soon keeps others from being opened; None while there is time."""

    def is_closed(self, number: int) -> bool:
        """Return whether a shard is whole and its landing was closed."""

    async def wait_open(self, number: int) -> None:
        """Wait until a shard is open, or was closed."""

    async def commit_if_whole(self, number: int) -> None:
        """Keep a shard, once all its pieces are here."""


class PieceFiles(Protocol):
    """The files that verified pieces lie in."""

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        """Return a verified piece of a shard; None where its file was changed or removed since."""
