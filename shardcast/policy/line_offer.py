"""Another line on offer at the authority, and when a node changes over to this line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shardcast.policy.authority import ServerView
from shardcast.policy.groups import group_servers
from shardcast.policy.own_line import conflicts, is_fresh, is_own_line, offer_of
from shardcast.policy.standing import LineChange, Memory, Patience

LINE_LEFT = 600.0
"""Seconds within which the return to a former line means two origins at one address."""
LIST_READINGS = 3
"""Equal readings of a list without a feed needed to confirm another line."""
FEED_CONNECTIONS = 2
"""Connections to a feed needed to confirm another line: one alone may lead to another origin at the address.
"""


@dataclass
class _Candidate:
    """Another line on offer at the authority.

    Attributes:
        key: distinguishes one such offer from another.
        offered: seconds on offer so far.
        seen_at: time of the last sighting.
        readings: the connections, or the readings of a list, with this offer.
    """

    key: object
    offered: float
    seen_at: float
    readings: set[int] = field(default_factory=set)


class LineOffer:
    """The authority's offer of another line, and its duration."""

    def __init__(self, memory: Memory, patience: Patience) -> None:
        self._memory = memory
        self._patience = patience
        self._candidate: _Candidate | None = None
        self._changed_at: float | None = None
        self._left: dict[str | None, float] = {}  # when the node left other lines, by origin id

    def changed(self, now: float, left: str | None) -> None:
        """Record the node's change from the line ``left`` to the line now in memory."""
        self._changed_at = self._left[left] = now
        self._candidate = None

    def consider(
        self, authority: ServerView | None, servers: Sequence[ServerView], now: float, notes: list[str]
    ) -> tuple[LineChange | None, str | None]:
        """Take account of the authority's present offer.

        Args:
            authority: the authority; None while silent: then no other line is on offer.
            servers: all servers of the node.
            now: the time, in seconds of the node's clock.
            notes: gets the messages for people.

        Returns:
            The line to change over to, if any, and the server to ask over a second connection, if any.
        """
        key = self._key(authority) if authority and authority.list_known else None
        if authority is None or not authority.list_known or key is None:
            if self._candidate and authority and authority.list_known and authority.listed:
                self._candidate = None  # it offers this node's own line again
            elif self._candidate:
                self._candidate.seen_at = now  # nothing is offered meanwhile
            return None, None
        candidate = self._candidate
        if candidate is None or candidate.key != key:
            candidate = self._candidate = _Candidate(key, 0.0, now)
            notes.append(self._describe(authority))
        candidate.offered += now - candidate.seen_at
        candidate.seen_at = now
        candidate.readings.add(authority.reading)
        if self._memory.digests:  # else the node is on a stand-in's word only, and leaves it at once
            seconds, readings = self._needed(authority)
            if len(candidate.readings) < readings:
                return None, authority.url if candidate.offered >= seconds / 2 else None
            if candidate.offered < seconds:
                return None, None
            if self._changed_at is not None and now - self._changed_at < self._patience.pause:
                return None, None
        change = _change_to(authority, servers)
        left_at = self._left.get(authority.origin)
        if change and left_at is not None and now - left_at < LINE_LEFT:
            notes.append(
                f"two origins answer at {authority.url}: the line {authority.origin or 'without an id'} was "
                "left a moment ago, and is offered there again; stop one of them"
            )
        return change, None

    def moments(self, authority: ServerView, now: float) -> list[float]:
        """Return the times at which ``consider`` may answer differently without news from a server."""
        if self._candidate is None:
            return []
        seconds, _ = self._needed(authority)
        started = now - self._candidate.offered
        moments = [started + seconds / 2, started + seconds]
        if self._changed_at is not None:
            moments.append(self._changed_at + self._patience.pause)
        return moments

    def _needed(self, authority: ServerView) -> tuple[float, int]:
        """Return for how many seconds, and in how many readings, another line must be offered."""
        if authority.hello is None:
            return self._patience.lists, LIST_READINGS
        return self._patience.feed, FEED_CONNECTIONS

    def _key(self, authority: ServerView) -> object | None:
        """Return the mark of an offer of another line; None where the authority offers no other line.

        An empty or a shorter list, and a server without an origin id, are no other line.
        """
        if is_fresh(self._memory) or not authority.listed or is_own_line(authority, self._memory):
            return None
        # The lowest conflict stays the same while the other line grows.
        conflict = min(conflicts(authority, self._memory), default=0)
        digest = authority.listed[conflict].digest if conflict and authority.hello is None else ""
        return authority.url, authority.origin, digest

    def _describe(self, authority: ServerView) -> str:
        """Return the message about a new candidate."""
        if authority.origin != self._memory.origin and authority.origin and self._memory.origin:
            what = f"the line {authority.origin} instead of {self._memory.origin}"
        else:
            numbers = sorted(conflicts(authority, self._memory))[:5]
            what = f"other bytes under {', '.join(f'v{number}' for number in numbers)}"
        return (
            f"{authority.url}, which decides here, offers {what}: its origin began anew or was restored; "
            f"this node stays on its line until that has lasted {self._needed(authority)[0]:g} s"
        )


def _change_to(authority: ServerView, servers: Sequence[ServerView]) -> LineChange | None:
    """Return the authority's new line; None while no server has any of its versions whole."""
    offers = [offer_of(server) for server in servers if server.list_known]
    group = group_servers(offers, authority.origin, authority.listed)[0]
    complete = {n: urls for n, urls in group.complete.items() if n in authority.listed}
    if not complete:
        return None
    highest = max(authority.listed)
    if authority.hello and authority.hello.highest is not None:
        highest = max(highest, authority.hello.highest)
    return LineChange(authority.origin, authority.listed, highest, complete, authority.url)
