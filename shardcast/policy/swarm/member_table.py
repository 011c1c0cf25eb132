"""The members of a server's versions: announcements, departures, silences, and the maximum number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from hmac import compare_digest

from shardcast.policy.owner_counts import OwnerCounts
from shardcast.policy.swarm.meeting import OPENED
from shardcast.policy.swarm.members import Entry, MemberFacts, Teller, VersionKey, VersionMembers

ANNOUNCE_SECONDS = 3.0
"""Seconds between two announcements of a member."""
SILENCES = 3.5
"""Intervals between announcements until a silent member is forgotten."""
MAX_MEMBERS = 10_000
"""Maximum number of members of all versions together."""
_ANNOUNCEMENTS = 500.0
"""Maximum rate of announcements, a second, at a server: with more members each waits longer."""
_FIRST_PAUSE = 0.1
"""Seconds until the second announcement of a member with few acquaintances; later pauses are longer."""
_CLEAN_SECONDS = 1.0
"""Seconds between two searches for silent members."""


class NodeTaken(ValueError):
    """A generation id already taken by another member."""


class MemberTable:
    """The members of all versions of a server.

    Any client with a token can invent members. Above the bound one of the address with most members gives
    way, so an inventor of thousands crowds out its own.

    Attributes:
        changes: number of times a member became reachable or unreachable.
    """

    def __init__(self, clock: Callable[[], float], max_members: int = MAX_MEMBERS) -> None:
        """Know no member.

        Args:
            clock: gives seconds.
            max_members: members of all versions together.
        """
        self._clock = clock
        self._max_members = max_members
        self._versions: dict[VersionKey, VersionMembers] = {}
        self._owners = OwnerCounts[str]()
        self._owned: dict[str, dict[Entry, None]] = {}
        self._count = 0
        self._cleaned_at = clock()
        self.changes = 0

    def __len__(self) -> int:
        return self._count

    # Looking

    def of(self, version: VersionKey) -> VersionMembers:
        """Return the members of a version."""
        self._forget()
        return self._versions.get(version) or VersionMembers()

    def versions(self) -> list[VersionKey]:
        """Return the versions with members."""
        self._forget()
        return list(self._versions)

    def has(self, version: VersionKey) -> bool:
        """Return whether a version has members, perhaps silent for too long."""
        return version in self._versions

    def interval(self, version: VersionKey) -> float:
        """Return the seconds between two announcements of a member of a version."""
        members = self._versions.get(version)
        return max(ANNOUNCE_SECONDS, (len(members.by_key) if members else 0) / _ANNOUNCEMENTS)

    def pause(self, entry: Entry) -> float:
        """Return the seconds until a member's next announcement: few until it is checked and knows others."""
        interval = self.interval(entry.version)
        if len(entry.named.entries) >= OPENED and entry.reachable is not None:
            return interval
        crowd = len(self.of(entry.version).by_key) / _ANNOUNCEMENTS
        return min(interval, max(_FIRST_PAUSE, crowd, (self._clock() - entry.since) / 2))

    def is_secret(self, version: VersionKey, key: bytes, secret: str) -> bool:
        """Return whether a member announces itself here with this secret."""
        entry = self._find(version, key)
        return entry is not None and bool(entry.secret) and compare_digest(entry.secret, secret)

    # Coming and going

    def announce(self, version: VersionKey, facts: MemberFacts, teller: Teller, secret: str) -> Entry:
        """Record the announcement of a member with a proven key; return the member.

        Raises:
            NodeTaken: the generation id is another member's.
        """
        if not self._frees_node(version, facts, announced=True):
            raise NodeTaken(f"the node id {facts.node} is another member's; begin a new run")
        now, entry = self._clock(), self._find(version, facts.key)
        self._forget()
        if entry is None:
            return self._add(Entry(version, facts, teller, secret, now, now, self.interval(version)))
        self._update(entry, facts, teller)
        entry.secret, entry.heard_at, entry.interval = secret, now, self.interval(version)
        return entry

    def relay(self, version: VersionKey, facts: MemberFacts, teller: Teller, age: float) -> Entry | None:
        """Record a member of another server; return None where nothing changes.

        A member announced here needs no other teller, and of several tellers the first one counts, until its
        list lacks the member.

        Args:
            version: the version.
            facts: the other server's facts.
            teller: the other server.
            age: seconds since the member's announcement.
        """
        now, entry, interval = self._clock(), self._find(version, facts.key), self.interval(version)
        self._forget()
        if age >= SILENCES * interval or not self._frees_node(version, facts, announced=False):
            return None
        if entry is None:
            return self._add(Entry(version, facts, teller, "", now, now - age, interval))
        if entry.secret or (entry.teller != teller and now - age < entry.heard_at + interval):
            return None
        self._update(entry, facts, teller)
        entry.heard_at, entry.interval = max(entry.heard_at, now - age), interval
        return entry

    def leave(self, version: VersionKey, key: bytes) -> Entry | None:
        """Forget a leaving member, and return it; None for an unknown one."""
        entry = self._find(version, key)
        if entry:
            self._drop(entry)
        return entry

    def keep_relayed(self, version: VersionKey, teller: Teller, told: Collection[bytes]) -> None:
        """Forget the members missing from a server's whole list.

        Args:
            version: the version.
            teller: the server.
            told: the keys of the members in its list.
        """
        members = self._versions.get(version)
        for entry in list(members.by_key.values()) if members else ():
            if entry.teller == teller and entry.facts.key not in told:
                self._drop(entry)

    def checked(self, entry: Entry, place: MemberFacts, reachable: bool) -> None:
        """Record the result of a check.

        Args:
            entry: the member.
            place: the member's facts at the beginning of the check; the result counts for this place alone.
            reachable: whether the member answered rightly.
        """
        members = self._versions.get(entry.version)
        if members is None or not members.has(entry) or not entry.facts.is_at(place):
            return
        members.delist(entry)
        self.changes += (entry.reachable is True) != reachable
        entry.failures = 0 if reachable else entry.failures + 1
        entry.reachable = reachable
        members.enlist(entry)

    # The table

    def _find(self, version: VersionKey, key: bytes) -> Entry | None:
        """Return a member without too long a silence."""
        members = self._versions.get(version)
        entry = members.by_key.get(key) if members else None
        if entry and self._is_silent(entry, self._clock()):
            self._drop(entry)
            return None
        return entry

    def _frees_node(self, version: VersionKey, facts: MemberFacts, *, announced: bool) -> bool:
        """Return whether a member can have its generation id, and forget a member without a right to one.

        An id made from a key belongs to this key alone. Another id, of an older node, belongs to the first
        member announced with the id, while there is one; the word of a server below gives way, since it may
        be invented.

        Args:
            version: the version.
            facts: the facts of the member.
            announced: whether the member announces itself; else another server tells of the member.
        """
        members = self._versions.get(version)
        holder = members.by_node.get(facts.node) if members else None
        if holder is None or holder.facts.key == facts.key:
            return True
        relayed = announced and not holder.secret
        silent = self._is_silent(holder, self._clock())
        if silent or facts.owns_node or (relayed and not holder.facts.owns_node):
            self._drop(holder)
            return True
        return False

    def _is_silent(self, entry: Entry, now: float) -> bool:
        """Return whether a member has been silent for too long."""
        return now - entry.heard_at >= SILENCES * entry.interval

    def _add(self, entry: Entry) -> Entry:
        """Add a member, instead of another one where there are too many."""
        if self._count >= self._max_members:
            self._drop(next(iter(self._owned[self._owners.largest()])))
        entry.reachable = True if entry.teller.above else None
        members = self._versions.setdefault(entry.version, VersionMembers())
        members.add(entry)
        self._own(entry)
        self._count += 1
        self.changes += entry.reachable is True
        return entry

    def _update(self, entry: Entry, facts: MemberFacts, teller: Teller) -> None:
        """Update a member's facts; another place has to be checked first."""
        unchecked = not entry.facts.is_at(facts) or entry.teller.above
        reachable = True if teller.above else None if unchecked else entry.reachable
        members = self._versions[entry.version]
        members.remove(entry)
        self._disown(entry)
        self.changes += (entry.reachable is True) != (reachable is True)
        entry.facts, entry.teller, entry.reachable = facts, teller, reachable
        entry.failures = 0 if unchecked else entry.failures
        self._own(entry)
        members.add(entry)

    def _drop(self, entry: Entry) -> None:
        """Forget a member."""
        members = self._versions[entry.version]
        members.remove(entry)
        self.changes += entry.reachable is True
        if not members.by_key:
            del self._versions[entry.version]
        self._disown(entry)
        entry.named.entries.clear()
        entry.relayed.entries.clear()
        self._count -= 1

    def _own(self, entry: Entry) -> None:
        """Count a member for the address of its teller."""
        self._owners.add(entry.teller.owner)
        self._owned.setdefault(entry.teller.owner, {})[entry] = None

    def _disown(self, entry: Entry) -> None:
        """Count a member no more."""
        owned = self._owned[entry.teller.owner]
        self._owners.remove(entry.teller.owner)
        del owned[entry]
        if not owned:
            del self._owned[entry.teller.owner]

    def _forget(self) -> None:
        """Forget the members with too long a silence, at most once a second."""
        now = self._clock()
        if now - self._cleaned_at >= _CLEAN_SECONDS:
            self._cleaned_at = now
            for entry in [entry for entry in self._entries() if self._is_silent(entry, now)]:
                self._drop(entry)

    def _entries(self) -> Iterator[Entry]:
        """Yield all members."""
        for members in self._versions.values():
            yield from members.by_key.values()
