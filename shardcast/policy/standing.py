"""Beliefs and memory of a node about its line of versions, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shardcast.constants import AUTHORITY_SILENT, LINE_CONFIRMED, LINE_PAUSE, LISTS_CONFIRMED
from shardcast.policy.groups import ServerGroup
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import Position

MAX_REMEMBERED = 1000
"""Numbers of a line whose digests are remembered, the newest ones."""


class Memory(Protocol):
    """The line that a node is on, as the node remembers it."""

    @property
    def origin(self) -> str | None:
        """The line's origin id; None for a line of 0.1.0, and before there is a line."""

    @property
    def highest(self) -> int:
        """The highest version number that the line ever had, as its authority tells."""

    @property
    def digests(self) -> Mapping[int, str]:
        """Payload digests of the numbers that an authority listed."""

    @property
    def withdrawn(self) -> Mapping[int, Withdrawal]:
        """The line's withdrawn versions, by number."""


@dataclass
class LineMemory:
    """The memory of a node without a data directory; ``Memory`` describes the attributes."""

    origin: str | None = None
    highest: int = 0
    digests: dict[int, str] = field(default_factory=dict)
    withdrawn: dict[int, Withdrawal] = field(default_factory=dict)

    def remember(self, standing: Standing) -> None:
        """Remember what is believed now, of the newest ``MAX_REMEMBERED`` numbers."""
        self.origin = self.origin or standing.origin
        self.highest = standing.highest
        self.digests |= {number: standing.listed[number].digest for number in standing.firm}
        self.withdrawn |= standing.withdrawals
        for remembered in (self.digests, self.withdrawn):
            for number in sorted(remembered)[:-MAX_REMEMBERED]:
                del remembered[number]

    def change(self, change: LineChange) -> None:
        """Begin with another line."""
        self.origin, self.highest = change.origin, change.highest
        self.digests = {number: one.digest for number, one in change.listed.items()}
        self.withdrawn = {}


@dataclass(frozen=True, slots=True)
class Patience:
    """Times, in seconds.

    Attributes:
        silence: without news of the authority until another server speaks for it.
        feed: that a feed must offer another line before a node changes over.
        lists: the same of a server without a feed.
        pause: between two changes of line.
    """

    silence: float = AUTHORITY_SILENT
    feed: float = LINE_CONFIRMED
    lists: float = LISTS_CONFIRMED
    pause: float = LINE_PAUSE


@dataclass(frozen=True, slots=True)
class LineChange:
    """Another line that a node is to change over to.

    Attributes:
        origin: its origin id; None for a line of 0.1.0.
        listed: its versions, by number.
        highest: the highest version number that it ever had.
        complete: the servers that have its versions whole, by number.
        server: the URL of the authority, which offers it.
    """

    origin: str | None
    listed: Mapping[int, Listing]
    highest: int
    complete: Mapping[int, tuple[str, ...]]
    server: str


@dataclass(frozen=True, slots=True)
class Standing:
    """The beliefs of a node at one moment.

    Attributes:
        place: what its hello says.
        origin: the origin id of its line.
        listed: the versions of the line that count, by number, withdrawn ones left out.
        firm: the numbers among them that the authority lists itself; the others were taken on another
            server's word, and retire nothing.
        highest: the highest version number of the line.
        withdrawals: the line's withdrawn versions, by number.
        opened: versions that are being made, as the authority tells.
        group: the servers of the line.
        others: groups of servers that contradict it.
        speaker: the server whose list counts now; None while there is none.
        settled: whether the authority has been heard for long enough that what it does not list is not.
        change: the line to change over to, once the authority has offered it for long enough.
        confirm: a server whose offer of another line wants a second connection now.
        seconds_to_change: seconds until the node must look again although no server tells anything; None for
            never.
        notes: what people should be told.
    """

    place: Position
    origin: str | None
    listed: Mapping[int, Listing]
    firm: frozenset[int]
    highest: int
    withdrawals: Mapping[int, Withdrawal]
    opened: frozenset[int]
    group: ServerGroup
    others: tuple[ServerGroup, ...]
    speaker: str | None
    settled: bool
    change: LineChange | None = None
    confirm: str | None = None
    seconds_to_change: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def newest(self) -> Listing | None:
        """The newest version of the line."""
        return self.listed[max(self.listed)] if self.listed else None
