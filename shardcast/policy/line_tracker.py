"""Beliefs of a node: its line of versions, the versions of this line, and when to change the line.

``docs/design.md``, *Lines*, has the rules in prose and as a table. Here they are a function of the servers'
news (``ServerView``), the time, and the node's memory of its line (``Memory``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from shardcast.policy.authority import Authority, ServerView
from shardcast.policy.groups import ServerGroup, group_servers
from shardcast.policy.line_lists import LARGEST_JUMP, LineLists
from shardcast.policy.line_offer import LineOffer
from shardcast.policy.own_line import is_own_line, is_same_line, offer_of
from shardcast.policy.standing import MAX_REMEMBERED, LineChange, Memory, Patience, Standing
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.feed import Position
from shardcast.protocol.wire import MAX_VERSION

FARTHEST = 16
"""Hops from the origin beyond which a distance is only an echo of older ones."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The servers of a node at one moment.

    Attributes:
        now: the time, in seconds of the node's clock.
        servers: all servers, in the order of their naming.
        authority: the deciding server; None while no server is eligible.
        speaker: the server with the valid list; None while there is none.
        silent: whether the authority has no news.
        settled: whether versions missing from the authority's list count as gone.
    """

    now: float
    servers: Sequence[ServerView]
    authority: ServerView | None
    speaker: ServerView | None
    silent: bool
    settled: bool

    @property
    def told(self) -> list[ServerView]:
        """The servers whose lists are known."""
        return [server for server in self.servers if server.list_known]


class LineTracker:
    """The rules of *Lines*, followed for one node."""

    def __init__(
        self,
        node_id: str | None,
        memory: Memory,
        started_at: float,
        random: Random,
        *,
        accepted: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Follow the rules for one node.

        Args:
            node_id: own id of a serving node; None for a client.
            memory: the node's memory of its line, read anew at each look.
            started_at: start of the node, in seconds of its clock.
            random: source of the pauses before a change of authority.
            accepted: the only valid origin id; None for any.
            patience: times to wait; None for the usual ones.
        """
        self.memory = memory
        patience = patience or Patience()
        self._authority = Authority(node_id, started_at, patience.silence, random)
        self._accepted = accepted
        self._lists = LineLists(memory)
        self._other_line = LineOffer(memory, patience)
        self._place = Position(silent=True)

    def look(self, now: float, servers: Sequence[ServerView]) -> Standing:
        """Return the beliefs by all news of the servers until now."""
        notes: list[str] = []
        deciding = [server for server in servers if self._accepts(server)]
        authority = self._authority.choose(now, deciding, self._place.distance)
        silent = authority is None or self._authority.is_silent(authority, now)
        told = authority if authority and authority.list_known else None
        speaker = told if told and is_own_line(told, self.memory) else None
        if silent:
            speaker = self._stand_in(deciding, speaker, now)
            self._lists.hear_stand_in(speaker, told, notes)
        elif speaker:
            self._lists.hear(speaker, now, notes)
        if silent or speaker is None:
            self._lists.interrupt()
        change, confirm = self._other_line.consider(None if silent else authority, servers, now, notes)
        settled = self._lists.settle(now)
        look = _Look(now, servers, authority, speaker, silent, settled)
        return self._standing(look, change, confirm, notes)

    def change_line(self, now: float, left: str | None) -> None:
        """Begin with the line now in ``memory``, after the node left the line ``left``."""
        self._other_line.changed(now, left)
        self._lists.restart()

    def _accepts(self, server: ServerView) -> bool:
        """Return whether a server may be the authority, or speak for it."""
        return self._accepted is None or not server.list_known or server.origin == self._accepted

    def _stand_in(
        self, servers: Sequence[ServerView], authority: ServerView | None, now: float
    ) -> ServerView | None:
        """Return the server to believe while the authority is silent.

        This is the next server of the same line with news of its own; else the ``authority``, where it offers
        this node's line and only lacks news; else another server without news.
        """
        able = [server for server in servers if server.list_known and is_own_line(server, self.memory)]
        if authority is not None:
            able = [server for server in able if is_same_line(server, authority)]
        for server in able:
            if server is not authority and not self._authority.is_silent(server, now):
                return server
        if authority in able:
            return authority
        return able[0] if able else None

    # Beliefs

    def _standing(
        self, look: _Look, change: LineChange | None, confirm: str | None, notes: list[str]
    ) -> Standing:
        """Return the beliefs, once the lists of this look were heard."""
        lists, memory, speaker = self._lists, self.memory, look.speaker
        origin, withdrawn = self._origin(look), self._withdrawals(look)
        listed = lists.without(withdrawn)
        groups = group_servers(map(offer_of, look.told), origin, listed, memory.digests)
        group = groups[0] if groups else ServerGroup((), (), {}, origin)
        notes += [other.conflict(group) for other in groups[1:] if group.servers]
        if self._accepted and look.told and not any(map(self._accepts, look.told)):
            offered = ", ".join(f"{server.url} {server.origin or 'none'}" for server in look.told)
            notes.append(f"no server offers the line {self._accepted}: {offered}")
        max_open = lists.highest + LARGEST_JUMP if listed else MAX_VERSION
        opened = {number for number in speaker.opened if number <= max_open} if speaker else set[int]()
        # Versions on another server's word must not look like the authority's to nodes below.
        doubtful = look.silent or not lists.provisional.keys() <= lists.firm.keys()
        self._place = self._placed(origin, look.authority, doubtful)
        return Standing(
            place=self._place,
            origin=origin,
            listed=listed,
            firm=frozenset(lists.firm) & listed.keys(),
            highest=lists.highest,
            withdrawals=withdrawn,
            opened=frozenset(n for n in opened if n not in memory.digests and n not in withdrawn),
            group=group,
            others=() if self._accepted else tuple(groups[1:]),
            speaker=speaker.url if speaker else None,
            settled=look.settled,
            change=change,
            confirm=confirm,
            seconds_to_change=self._wait(look),
            notes=tuple(notes),
        )

    def _origin(self, look: _Look) -> str | None:
        """Return the origin id of the node's line; that of the first speaker for a node without a line."""
        origin, speaker = self.memory.origin or self._accepted, look.speaker
        if origin is None and speaker and (speaker is look.authority or not self.memory.digests):
            return speaker.origin
        return origin

    def _withdrawals(self, look: _Look) -> dict[int, Withdrawal]:
        """Return the line's withdrawn versions: those remembered, and those told by the authority."""
        withdrawn, authority = dict(self.memory.withdrawn), look.authority
        if authority and authority.list_known and is_own_line(authority, self.memory):
            newest = sorted(authority.withdrawn)[-MAX_REMEMBERED:]
            withdrawn.update({n: authority.withdrawn[n] for n in newest if n not in withdrawn})
        return withdrawn

    def _placed(self, origin: str | None, authority: ServerView | None, silent: bool) -> Position:
        """Return the node's place below its authority; below a lost authority, the former place."""
        place, highest = self._place, self._lists.highest
        if authority is None or not authority.list_known:
            return Position(origin, place.distance, place.chain, silent, highest)
        distance = authority.hello.distance if authority.hello else None
        near = distance is not None and distance < FARTHEST
        return Position(
            origin, distance + 1 if near and distance is not None else None, authority.chain, silent, highest
        )

    def _wait(self, look: _Look) -> float | None:
        """Return the seconds until the beliefs change by time alone; None for never."""
        moments, authority = [self._authority.change_at], look.authority
        if authority and not authority.list_known:
            moments.append(self._authority.silent_at(authority))
        if not look.settled:
            moments.append(self._lists.settles_at)
        if authority and authority.list_known:
            moments += self._other_line.moments(authority, look.now)
        waits = [moment - look.now for moment in moments if moment is not None and moment > look.now]
        return min(waits, default=None)
