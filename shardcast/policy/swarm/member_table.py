"""The members of a server's versions: who announced itself, left or fell silent, how many there can be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from hmac import compare_digest

from shardcast.policy.owner_counts import OwnerCounts
from shardcast.policy.swarm.meeting import OPENED
from shardcast.policy.swarm.members import Entry, MemberFacts, Teller, VersionKey, VersionMembers

ANNOUNCE_SECONDS = 3.0
"""Seconds between two announcements of a member."""
SILENCES = 3.5
"""Intervals between announcements after which a silent member is forgotten."""
MAX_MEMBERS = 10_000
"""Members that a server knows, of all versions together."""
_ANNOUNCEMENTS = 500.0
"""Announcements a second that a server asks for at most: with more members each waits longer."""
_FIRST_PAUSE = 0.1
"""Seconds until the second announcement of a member that knows few others; the next ones take longer."""
_CLEAN_SECONDS = 1.0
"""Seconds between two searches for silent members."""


class NodeTaken(ValueError):
    """A generation id that is another member's."""


class MemberTable:
    """The members of all versions of a server.

    Any client with a token can invent members. Above the bound one of the address with most members gives
    way, so that an inventor of thousands crowds out its own.

    Attributes:
        changes: how often a member became reachable, or ceased to be.
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
        """Return the versions that have members."""
        self._forget()
        return list(self._versions)

    def has(self, version: VersionKey) -> bool:
        """Return whether a version has members."""
        return version in self._versions

    def interval(self, version: VersionKey) -> float:
        """Return the seconds between two announcements of a member of a version."""
        members = self._versions.get(version)
        return max(ANNOUNCE_SECONDS, (len(members.by_key) if members else 0) / _ANNOUNCEMENTS)

    def pause(self, entry: Entry) -> float:
        """Return the seconds until a member's next announcement: few while it is new and knows few others."""
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
        """Record what a member announced, which has proven that it has its key; return the member.

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
        """Record a member of another server; return None where that changes nothing.

        A member that announces itself here needs no other teller, and of several the first one counts, until
        it tells no more.

        Args:
            version: the version.
            facts: what that server tells.
            teller: that server.
            age: seconds since the member announced itself.
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
        """Forget a member that leaves, and return it; None where it was none."""
        entry = self._find(version, key)
        if entry:
            self._drop(entry)
        return entry

    def keep_relayed(self, version: VersionKey, teller: Teller, told: Collection[bytes]) -> None:
        """Forget the members of a server that told all of its members, and these not any more.

        Args:
            version: the version.
            teller: that server.
            told: the keys of the members that it told.
        """
        members = self._versions.get(version)
        for entry in list(members.by_key.values()) if members else ():
            if entry.teller == teller and entry.facts.key not in told:
                self._drop(entry)

    def checked(self, entry: Entry, place: MemberFacts, reachable: bool) -> None:
        """Record what a check found out.

        Args:
            entry: the member.
            place: what was known of it when the check began; the outcome counts for that place alone.
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
        """Return a member that has not been silent for too long."""
        members = self._versions.get(version)
        entry = members.by_key.get(key) if members else None
        if entry and self._is_silent(entry, self._clock()):
            self._drop(entry)
            return None
        return entry

    def _frees_node(self, version: VersionKey, facts: MemberFacts, *, announced: bool) -> bool:
        """Return whether a member can have its generation id; one that has no right to it is forgotten.

        An id that a key makes is that key's alone. Another one, of an older node, is the first member's that
        announces it, as long as it is one; what a server below tells of it gives way: it may be made up.

        Args:
            version: the version.
            facts: what is told of the member.
            announced: whether it announces itself; else another server tells of it.
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
        """Take what was told of a member anew; another place has to be checked first."""
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
        """Count a member for the address that told of it."""
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
        """Forget the members that have been silent for too long, at most once a second."""
        now = self._clock()
        if now - self._cleaned_at >= _CLEAN_SECONDS:
            self._cleaned_at = now
            for entry in [entry for entry in self._entries() if self._is_silent(entry, now)]:
                self._drop(entry)

    def _entries(self) -> Iterator[Entry]:
        """Yield all members."""
        for members in self._versions.values():
            yield from members.by_key.values()
