"""The choice of neighbours: whom a server names, a node connects to, accepts, and leaves for another.

Neighbours form a random graph: as few as ten each keep everything within a few hops of everyone, and no node
has to know all others. Most neighbours are of the node's own site, and a few are not, so ranges cross.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

OPENED = 10
"""Neighbours that a node connects to on its own."""
OPENED_FIRST = 3
"""The same before others had time to connect: see ``connections_wanted``."""
FEW_NAMED = 16
"""Number of named members below which a node connects to all wanted ones at once: so few get to know each
other."""
SETTLED_SECONDS = 1.0
"""Seconds after the first news of members until a node connects to its full number."""
ACCEPTED = 24
"""Number of neighbours with which a node accepts no further one. More than twice as many as opened: among
nodes starting one after the other, only the difference leaves free places for the last."""
FAR_SHARE = 0.3
"""Maximum share of neighbours in other sites."""
NAMED = 30
"""Members named in the answer to an announcement."""
RENEW_SECONDS = 10.0
"""Seconds without a range from a neighbour until another may take its place."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node with a version, complete or under way.

    Attributes:
        key: name: the node's address, or another name for an unreachable node.
        site: site; None for none.
        reachable: whether others can connect to the node.
    """

    key: Hashable
    site: str | None = None
    reachable: bool = True


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """A neighbour, in the view of the choice of neighbours.

    Attributes:
        member: the node.
        since: time at which the two became neighbours.
        received: ranges received lately.
        given: ranges given lately.
        done: whether the neighbour has the whole version.
    """

    member: Member
    since: float
    received: int = 0
    given: int = 0
    done: bool = False


def named_members(
    asker: Member, near: Sequence[Member], far: Sequence[Member], random: Random, *, count: int = NAMED
) -> list[Member]:
    """Return the members to name to one of them.

    Args:
        asker: the announcing member, never named.
        near: the members of its site, itself among them or not.
        far: the members of other sites.
        random: source of choices.
        count: maximum number of members to name.
    """
    from_far = max(int(count * FAR_SHARE), count - max(0, len(near) - 1))
    named = random.sample(far, min(len(far), from_far))
    named += random.sample(near, min(len(near), count - len(named) + 1))
    named = [member for member in named if member.key != asker.key][:count]
    random.shuffle(named)
    return named


def connections_wanted(named: int, *, settled: bool) -> int:
    """Return the number of neighbours for a node to connect to by now.

    Of nodes starting one after the other, each is told of earlier ones. If each connected to ten of these at
    once, the first ones would have no free place left for later ones, and get less than the others to the
    end: the last of 1000 nodes took 0.2 s longer.

    Args:
        named: number of members named by servers.
        settled: whether the node first heard of members ``SETTLED_SECONDS`` ago.
    """
    return OPENED if settled or named < FEW_NAMED else OPENED_FIRST


def to_connect(
    me: Member,
    candidates: Iterable[Member],
    neighbours: Collection[Member],
    random: Random,
    *,
    opened: int,
    want: int = OPENED,
) -> list[Member]:
    """Return the members for a node to connect to now, most wanted first.

    Args:
        me: the node.
        candidates: the members named by servers.
        neighbours: the node's present neighbours.
        random: source of choices among equals.
        opened: number of the neighbours among them to which the node connected.
        want: wanted number of those.
    """
    known = {neighbour.key for neighbour in neighbours} | {me.key}
    able = [member for member in candidates if member.key not in known and member.reachable]
    random.shuffle(able)
    near = [member for member in able if member.site == me.site]
    far = [member for member in able if member.site != me.site]
    missing = min(want - opened, ACCEPTED - len(neighbours))
    if missing <= 0:
        return []
    strangers = sum(neighbour.site != me.site for neighbour in neighbours)
    from_far = min(len(far), missing, max(0, round(want * FAR_SHARE) - strangers))
    chosen = far[:from_far] + near[: missing - from_far]
    return chosen + far[from_far : from_far + missing - len(chosen)]


def accepts(me: Member, newcomer: Member, neighbours: Collection[Member], *, limit: int = ACCEPTED) -> bool:
    """Return whether a node accepts a connecting member as a neighbour."""
    if newcomer.key in {neighbour.key for neighbour in neighbours}:
        return False
    return len(neighbours) < limit or to_replace(me, newcomer, neighbours, limit=limit) is not None


def to_replace(
    me: Member, newcomer: Member, neighbours: Collection[Member], *, limit: int = ACCEPTED
) -> Member | None:
    """Return the neighbour to leave for a newcomer; None for a node with a free place, or to refuse it.

    This is one of another site, where these exceed their share of the places and the newcomer is of the
    node's own site.
    """
    strangers = [neighbour for neighbour in neighbours if neighbour.site != me.site]
    crowded = len(neighbours) >= limit and len(strangers) > limit * FAR_SHARE
    return strangers[0] if crowded and newcomer.site == me.site else None


def to_leave(
    me: Member, neighbours: Collection[Acquaintance], now: float, *, done: bool = False
) -> Acquaintance | None:
    """Return the neighbour to leave for another one; None to stay with all.

    Two nodes with everything leave each other. Another node with at least ``OPENED`` neighbours leaves the
    oldest one without any exchange lately, after ``RENEW_SECONDS``; one of another site only where these
    exceed their share.

    Args:
        me: the node.
        neighbours: its neighbours.
        now: the time, in seconds.
        done: whether the node has the whole version.
    """
    if done:
        return next((neighbour for neighbour in neighbours if neighbour.done), None)
    if len(neighbours) < OPENED:
        return None
    tried = [neighbour for neighbour in neighbours if now - neighbour.since >= RENEW_SECONDS]
    strangers = [neighbour for neighbour in tried if neighbour.member.site != me.site]
    if len(strangers) <= OPENED * FAR_SHARE:  # these few are the ways across the border
        tried = [neighbour for neighbour in tried if neighbour.member.site == me.site]
    idle = [neighbour for neighbour in tried if not neighbour.received + neighbour.given]
    return min(idle, key=lambda one: one.since, default=None)
