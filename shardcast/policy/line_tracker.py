"""What a node believes: which line of versions it is on, what that line lists, and when the line changes.

``docs/design.md``, *Lines*, has the rules in prose and as a table. Here they are as a function of what the
servers tell (``ServerView``), the time, and what the node remembers of its line (``Memory``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from shardcast.policy.authority import Authority, ServerView
from shardcast.policy.groups import Offer, ServerGroup, agree, group_servers
from shardcast.policy.standing import REMEMBERED, LineChange, Memory, Patience, Standing
from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import Place
from shardcast.protocol.wire import MAX_VERSION

LARGEST_JUMP = 10**6
"""Numbers by which a version may exceed the highest one of its line."""
UNLISTED_AFTER = 10.0
"""Seconds after the return of the authority at which versions go off the list that it does not list."""
LINE_LEFT = 600.0
"""Seconds within which the return to a line that was left means that two origins answer at one address."""
LIST_READINGS = 3
"""Equal readings of a list without a feed that confirm another line."""
FARTHEST = 16
"""Hops from the origin beyond which a distance is only an echo of older ones."""


@dataclass
class _Candidate:
    """Another line that the authority offers.

    Attributes:
        key: tells one such offer from another.
        offered: seconds for which it was offered so far.
        seen_at: when it was seen last.
        readings: the connections, or the readings of a list, that told of it.
    """

    key: object
    offered: float
    seen_at: float
    readings: set[int] = field(default_factory=set)


class LineTracker:
    """Follows the rules of *Lines* for one node."""

    def __init__(
        self,
        node_id: str | None,
        memory: Memory,
        started: float,
        random: Random,
        accepted: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """``memory`` is the node's own and read anew at each look. ``accepted`` is the only origin id that
        counts, where people named one."""
        self.memory = memory
        self._patience = patience or Patience()
        self._authority = Authority(node_id, started, self._patience.silence, random)
        self._accepted = accepted
        self._told: dict[int, Listing] = {}  # by the authority, also after it fell silent
        self._told_by: str | None = None
        self._words: dict[int, Listing] = {}  # by others, while the authority was silent
        self._back_at: float | None = None  # since when the authority is heard without a break
        self._highest = memory.highest
        self._place = Place(silent=True)
        self._candidate: _Candidate | None = None
        self._changed_at: float | None = None
        self._left: dict[str | None, float] = {}

    def look(self, now: float, servers: Sequence[ServerView]) -> Standing:
        """Return what to believe, by what the servers told until now."""
        notes: list[str] = []
        deciding = [one for one in servers if self._accepts(one)]
        authority = self._authority.choose(now, deciding, self._place.distance)
        silent = authority is None or self._authority.is_silent(authority, now)
        speaker = authority if authority and authority.told and self._is_ours(authority) else None
        if authority is None or silent:
            speaker = self._stand_in(deciding, speaker, now)
            self._take_words(speaker, authority if authority and authority.told else None, notes)
        elif speaker:
            self._hear(speaker, now, notes)
        if silent or speaker is None:
            self._back_at = None
        change, confirm = self._consider(None if silent else authority, servers, now, notes)
        settled = self._back_at is not None and now - self._back_at >= UNLISTED_AFTER
        if settled:
            self._words.clear()
        return self._stand(now, servers, authority, speaker, silent, settled, change, confirm, notes)

    def changed(self, now: float, left: str | None) -> None:
        """Begin with the line that ``memory`` has now, after the node left the line ``left`` for it."""
        self._changed_at = self._left[left] = now
        self._told, self._words, self._told_by = {}, {}, None
        self._candidate, self._back_at, self._highest = None, None, self.memory.highest

    # Whether a server is on this node's line

    def _accepts(self, server: ServerView) -> bool:
        """Return whether a server may be the authority, or speak for it."""
        return self._accepted is None or not server.told or server.origin == self._accepted

    @property
    def _is_fresh(self) -> bool:
        memory = self.memory
        return memory.origin is None and not memory.digests and not memory.withdrawn

    def _is_ours(self, server: ServerView) -> bool:
        """Return whether a server offers the line that the node is on."""
        if self._is_fresh:
            return True
        if None not in (server.origin, self.memory.origin) and server.origin != self.memory.origin:
            return False
        return not self._conflicts(server)

    def _conflicts(self, server: ServerView) -> set[int]:
        """Return the numbers to which a server gives another digest than the authority did."""
        digests = self.memory.digests
        return {
            number for number, one in server.listed.items() if digests.get(number, one.digest) != one.digest
        }

    # What counts

    def _hear(self, authority: ServerView, now: float, notes: list[str]) -> None:
        """Take the list of the authority."""
        if self._told_by != authority.url:
            self._told_by, self._back_at = authority.url, None
        self._back_at = now if self._back_at is None else self._back_at
        said = authority.hello.highest if authority.hello and authority.hello.highest else 0
        first = not self.memory.digests and not self._told
        known = 0 if first else max(self._highest, self.memory.highest)
        self._told = self._believable(authority, known, notes)
        if first or said <= known + LARGEST_JUMP:
            self._highest = max(self._highest, said, *self._told, 0)

    def _take_words(self, speaker: ServerView | None, authority: ServerView | None, notes: list[str]) -> None:
        """Take the lists that count while the authority has no news: its own first, as it was when that
        began, then numbers of the server that speaks for it."""
        known = max(self._highest, self.memory.highest, *self._told, 0)
        words: dict[int, Listing] = {}
        oldest = min(self.memory.digests, default=0) if len(self.memory.digests) >= REMEMBERED else 0
        for server in (authority, speaker):
            if server is None or not self._is_ours(server):
                continue
            for number, one in self._believable(server, known, notes).items():
                if number not in self._told and number >= oldest:  # older digests were forgotten
                    words.setdefault(number, one)
        self._words = words

    def _believable(self, server: ServerView, highest: int, notes: list[str]) -> dict[int, Listing]:
        """Return what a server lists, but for numbers that jump too far ahead."""
        most = highest + LARGEST_JUMP if highest else None
        too_far = {number for number in server.listed if most is not None and number > most}
        if too_far:
            notes.append(
                f"{server.url} lists v{max(too_far)}, more than {LARGEST_JUMP} beyond v{highest}: refused"
            )
        return {number: one for number, one in server.listed.items() if number not in too_far}

    def _stand_in(
        self, servers: Sequence[ServerView], authority: ServerView | None, now: float
    ) -> ServerView | None:
        """Return the server that speaks while the authority is silent: the next one of the same line that
        is not silent itself; else the ``authority``, where it offers this node's line and only has no news;
        else another one without news."""
        able = [one for one in servers if one.told and self._is_ours(one)]
        if authority is not None:
            able = [one for one in able if _same_line(one, authority)]
        for one in able:
            if one is not authority and not self._authority.is_silent(one, now):
                return one
        if authority in able:
            return authority
        return able[0] if able else None

    # Another line

    def _consider(
        self, authority: ServerView | None, servers: Sequence[ServerView], now: float, notes: list[str]
    ) -> tuple[LineChange | None, str | None]:
        """Return the line to change over to, and the server that is to be asked over a second connection.
        ``authority`` is None while it is silent: then no other line is offered."""
        key = self._other_line(authority) if authority and authority.told else None
        if authority is None or not authority.told or key is None:
            if self._candidate and authority and authority.told and authority.listed:
                self._candidate = None  # it offers this node's own line again
            elif self._candidate:
                self._candidate.seen_at = now  # nothing is offered meanwhile
            return None, None
        candidate = self._candidate
        if candidate is None or candidate.key != key:
            candidate = self._candidate = _Candidate(key, 0.0, now)
            notes.append(self._describe_offer(authority))
        candidate.offered += now - candidate.seen_at
        candidate.seen_at = now
        candidate.readings.add(authority.reading)
        if self.memory.digests:  # else the node is on a stand-in's word only, and leaves it at once
            patience, readings = self._needed(authority)
            if len(candidate.readings) < readings:
                return None, authority.url if candidate.offered >= patience / 2 else None
            if candidate.offered < patience:
                return None, None
            if self._changed_at is not None and now - self._changed_at < self._patience.pause:
                return None, None
        change = self._change_to(authority, servers)
        left_at = self._left.get(authority.origin)
        if change and left_at is not None and now - left_at < LINE_LEFT:
            notes.append(
                f"two origins answer at {authority.url}: the line {authority.origin or 'without an id'} was "
                "left a moment ago, and is offered there again; stop one of them"
            )
        return change, None

    def _change_to(self, authority: ServerView, servers: Sequence[ServerView]) -> LineChange | None:
        """Return the line that the authority offers, and the servers that have its versions; None while no
        server has any of them whole."""
        offers = [_offer(one) for one in servers if one.told]
        group = group_servers(offers, authority.origin, authority.listed)[0]
        complete = {n: urls for n, urls in group.complete.items() if n in authority.listed}
        if not complete:
            return None
        highest = max(authority.listed)
        if authority.hello and authority.hello.highest is not None:
            highest = max(highest, authority.hello.highest)
        return LineChange(authority.origin, authority.listed, highest, complete, authority.url)

    def _needed(self, authority: ServerView) -> tuple[float, int]:
        """Return for how many seconds, and over how many connections or readings, another line must be
        offered."""
        if authority.hello is None:
            return self._patience.lists, LIST_READINGS
        return self._patience.feed, 2

    def _other_line(self, authority: ServerView) -> object | None:
        """Return what tells an offer of another line; None where the authority offers this node's own, or
        nothing: an empty or a shorter list, and a server that names no origin id, are no change."""
        if self._is_fresh or not authority.listed or self._is_ours(authority):
            return None
        # What stays the same while the other line grows.
        conflict = min(self._conflicts(authority), default=0)
        digest = authority.listed[conflict].digest if conflict and authority.hello is None else ""
        return authority.url, authority.origin, digest

    def _describe_offer(self, authority: ServerView) -> str:
        conflicts = self._conflicts(authority)
        if authority.origin != self.memory.origin and authority.origin and self.memory.origin:
            what = f"the line {authority.origin} instead of {self.memory.origin}"
        else:
            what = f"other bytes under {', '.join(f'v{number}' for number in sorted(conflicts)[:5])}"
        return (
            f"{authority.url}, which decides here, offers {what}: its origin began anew or was restored; "
            "this node stays on its line until that has lasted a while"
        )

    # All of it

    def _stand(
        self,
        now: float,
        servers: Sequence[ServerView],
        authority: ServerView | None,
        speaker: ServerView | None,
        silent: bool,
        settled: bool,
        change: LineChange | None,
        confirm: str | None,
        notes: list[str],
    ) -> Standing:
        memory = self.memory
        origin = memory.origin or self._accepted
        if origin is None and speaker is not None and (speaker is authority or not memory.digests):
            origin = speaker.origin
        withdrawn = dict(memory.withdrawn)
        if authority and authority.told and self._is_ours(authority):
            newest = sorted(authority.withdrawn)[-REMEMBERED:]
            withdrawn.update({n: authority.withdrawn[n] for n in newest if n not in withdrawn})
        listed = {
            number: one
            for number, one in {**self._words, **self._told}.items()
            if number not in withdrawn or withdrawn[number].digest != one.digest
        }
        offers = [_offer(one) for one in servers if one.told]
        groups = group_servers(offers, origin, listed, memory.digests)
        group = groups[0] if groups else ServerGroup((), (), {}, origin)
        notes += [other.conflict(group) for other in groups[1:] if group.servers]
        told = [one for one in servers if one.told]
        if self._accepted and told and not any(self._accepts(one) for one in told):
            offered = ", ".join(f"{one.url} {one.origin or 'none'}" for one in told)
            notes.append(f"no server offers the line {self._accepted}: {offered}")
        most = max(self._highest, memory.highest) + LARGEST_JUMP if listed else MAX_VERSION
        opened = {number for number in speaker.opened if number <= most} if speaker else set[int]()
        # What was taken on another server's word must not look like the authority's to nodes below.
        doubtful = silent or not self._words.keys() <= self._told.keys()
        self._place = self._placed(origin, authority, doubtful)
        return Standing(
            place=self._place,
            origin=origin,
            listed=listed,
            firm=frozenset(self._told) & listed.keys(),
            highest=max(self._highest, memory.highest),
            withdrawals=withdrawn,
            opened=frozenset(n for n in opened if n not in memory.digests and n not in withdrawn),
            group=group,
            others=() if self._accepted else tuple(groups[1:]),
            speaker=speaker.url if speaker else None,
            settled=settled,
            change=change,
            confirm=confirm,
            wait=self._wait(now, servers, authority, settled),
            notes=tuple(notes),
        )

    def _placed(self, origin: str | None, authority: ServerView | None, silent: bool) -> Place:
        """Return where the node stands below its authority; below one that is lost, where it stood."""
        place, highest = self._place, max(self._highest, self.memory.highest)
        if authority is None or not authority.told:
            return Place(origin, place.distance, place.chain, silent, highest)
        distance = authority.hello.distance if authority.hello else None
        near = distance is not None and distance < FARTHEST
        return Place(
            origin, distance + 1 if near and distance is not None else None, authority.chain, silent, highest
        )

    def _wait(
        self, now: float, servers: Sequence[ServerView], authority: ServerView | None, settled: bool
    ) -> float | None:
        """Return the seconds until time alone changes what is believed."""
        moments = [self._authority.change_at]
        if authority and not authority.told:
            moments.append(self._authority.silent_at(authority))
        if self._back_at is not None and not settled:
            moments.append(self._back_at + UNLISTED_AFTER)
        if self._candidate and authority and authority.told:
            patience, _ = self._needed(authority)
            begun = now - self._candidate.offered
            moments += [begun + patience / 2, begun + patience]
            if self._changed_at is not None:
                moments.append(self._changed_at + self._patience.pause)
        left = [moment - now for moment in moments if moment is not None and moment > now]
        return min(left, default=None)


def _offer(server: ServerView) -> Offer:
    known = tuple(server.known.values())
    return Offer(server.url, tuple(server.complete.values()), server.origin, known)


def _same_line(one: ServerView, other: ServerView) -> bool:
    """Return whether two servers name the same origin id, or none, and agree on all that both list."""
    if None not in (one.origin, other.origin) and one.origin != other.origin:
        return False
    return all(agree(other.listed[n], mine) for n, mine in one.listed.items() if n in other.listed)
