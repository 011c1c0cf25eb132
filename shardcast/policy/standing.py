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
    """The node's memory of its own line."""

    @property
    def origin(self) -> str | None:
        """The line's origin id; None for a line of 0.1.0, and before there is a line."""

    @property
    def highest(self) -> int:
        """The highest version number ever on the line, as told by its authority."""

    @property
    def digests(self) -> Mapping[int, str]:
        """Payload digests of the numbers listed by an authority."""

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
        """Remember the origin, the highest number, and the newest firm and withdrawn versions."""
        self.origin = self.origin or standing.origin
        self.highest = standing.highest
        self.digests |= {number: standing.listed[number].digest for number in standing.firm}
        self.withdrawn |= standing.withdrawals
        for remembered in (self.digests, self.withdrawn):
            for number in sorted(remembered)[:-MAX_REMEMBERED]:
                del remembered[number]

    def change(self, change: LineChange) -> None:
        """Replace the memory by another line, without withdrawn versions."""
        self.origin, self.highest = change.origin, change.highest
        self.digests = {number: one.digest for number, one in change.listed.items()}
        self.withdrawn = {}


@dataclass(frozen=True, slots=True)
class Patience:
    """Times, in seconds.

    Attributes:
        silence: without news of the authority until another server takes its place.
        feed: of an offer of another line in a feed before a node changes over.
        lists: the same for a server without a feed.
        pause: between two changes of line.
    """

    silence: float = AUTHORITY_SILENT
    feed: float = LINE_CONFIRMED
    lists: float = LISTS_CONFIRMED
    pause: float = LINE_PAUSE


@dataclass(frozen=True, slots=True)
class LineChange:
    """Another line for a node to change over to.

    Attributes:
        origin: origin id; None for a line of 0.1.0.
        listed: versions, by number.
        highest: highest version number ever on this line.
        complete: servers with a whole version, by number.
        server: URL of the authority with this offer.
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
        place: the place told in the node's hello.
        origin: the origin id of its line.
        listed: the valid versions of the line, by number, without withdrawn ones.
        firm: the numbers among them listed by the authority itself; the others were taken on another server's
            word, and retire nothing.
        highest: the highest version number of the line.
        withdrawals: the line's withdrawn versions, by number.
        opened: open versions, as told by ``speaker``, without those remembered as complete or withdrawn.
        group: the servers of the line.
        others: groups of servers in conflict with the line.
        speaker: the server with the valid list; None while there is none.
        settled: whether versions missing from the authority's list count as gone.
        change: the line to change over to, once the authority has offered this line for long enough.
        confirm: a server to ask over a second connection about its offer of another line.
        seconds_to_change: seconds until the node must look again although no server tells anything; None for
            never.
        notes: messages for people.
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
