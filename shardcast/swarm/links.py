"""The contract between the exchange of a version's pieces and their carriers.

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
        file: the file, open while the piece is sent.
        offset: offset of the piece in the file.
        length: bytes of the piece.
        is_unchanged: returns whether the file still has the verified bytes.
    """

    file: BinaryIO
    offset: int
    length: int
    is_unchanged: Callable[[], bool] = lambda: True


class Link(Protocol):
    """A stream to one known neighbour.

    Attributes:
        key: the neighbour's name.
        near: whether the neighbour is in the same site.
    """

    key: Hashable
    near: bool

    def tell(self, gained: int, lost: int) -> None:
        """Tell the pieces newly servable here, and those no longer servable, as masks."""

    def want(self, number: int) -> None:
        """Ask for a piece."""

    def cancel(self, number: int) -> None:
        """Take back the request for a piece."""

    def refuse(self, number: int, *, absent: bool) -> None:
        """Refuse a piece requested by the neighbour; ``absent``: not servable here (any more)."""

    async def give(self, number: int, piece: GivenPiece) -> None:
        """Send a piece requested by the neighbour.

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
        number: number of the received piece; None for none.
        data: the bytes, not verified yet.
        claims: mask of pieces to ask from neighbours in other sites.
        exhausted: whether the server has handed out everything.
        supported: whether the server hands out anything at all.
        waited: whether the server kept the request for its whole time, and had nothing new.
    """

    number: int | None = None
    data: memoryview | None = None
    claims: int = 0
    exhausted: bool = False
    supported: bool = True
    waited: bool = False

    @property
    def handout(self) -> Handout:
        """The answer in the view of the rules."""
        if self.number is not None:
            return Handout(HandoutKind.BODY, 1 << self.number)
        if self.claims:
            return Handout(HandoutKind.CLAIMS, self.claims)
        if self.waited:
            return Handout(HandoutKind.WAIT)
        return Handout(HandoutKind.NONE if self.exhausted else HandoutKind.PAUSE)


class PieceServer(Protocol):
    """A server with pieces to hand out."""

    url: str

    async def next_piece(self, asked: Asked) -> HandedOut:
        """Ask for the next piece.

        Raises:
            PeerError: the server can't be asked, or broke off.
        """

    def report_wrong(self, number: int) -> None:
        """Tell the server, by the next request, of a piece that came wrong, or found no place here."""


class PieceSink(Protocol):
    """The landings of the pieces."""

    @property
    def open_landings(self) -> list[Landing]:
        """The landings of the open shards."""

    @property
    def overdue_shard(self) -> int | None:
        """The number of a shard about to keep others from being opened; None while there is time."""

    def is_closed(self, number: int) -> bool:
        """Return whether a shard is whole and its landing was closed."""

    async def wait_open(self, number: int) -> None:
        """Wait until a shard is open, or was closed."""

    async def commit_if_whole(self, number: int) -> None:
        """Keep a shard, once all its pieces are here."""


class PieceFiles(Protocol):
    """The files of verified pieces."""

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        """Return a verified piece of a shard; None where its file was changed or removed since."""
