"""The choice of neighbours: whom a server names, whom a node connects to, accepts, and leaves for another.

Neighbours form a random graph: as few as ten each keep everything within a few hops of everyone, and no node
has to know all others. Most neighbours are of the node's own site, and a few are not, so that ranges cross.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

OPENED = 10
"""Neighbours that a node connects to itself."""
OPENED_FIRST = 3
"""Those that a node connects to before others had time to come: see ``connections_wanted``."""
FEW_NAMED = 16
"""Members named, below which a node connects to all that it wants at once: so few get to know each other."""
SETTLED_SECONDS = 1.0
"""Seconds after it first heard of members after which a node connects to as many as it wants."""
ACCEPTED = 24
"""Neighbours with which a node accepts no further one. More than twice as many: among nodes that come one
after the other, only the difference leaves free places for those that come last."""
FAR_SHARE = 0.3
"""The share of a node's neighbours that are of other sites, at most."""
NAMED = 30
"""Members that a server names in an answer to an announcement."""
RENEW_SECONDS = 10.0
"""Seconds after which a neighbour that gave nothing may be left for another."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has or is getting a version.

    Attributes:
        key: its name: the address at which it answers, or a name for a node that cannot be reached.
        site: its site; None where it has none.
        reachable: whether others can connect to it.
    """

    key: Hashable
    site: str | None = None
    reachable: bool = True


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """A neighbour as the choice of neighbours sees it.

    Attributes:
        member: the node.
        since: when it became a neighbour.
        received: ranges that came from it lately.
        given: ranges that went to it lately.
        done: whether it has the whole version.
    """

    member: Member
    since: float
    received: int = 0
    given: int = 0
    done: bool = False


def named_members(
    asker: Member, near: Sequence[Member], far: Sequence[Member], random: Random, *, count: int = NAMED
) -> list[Member]:
    """Return the members that a server names to one of them.

    Args:
        asker: the member that announced itself; it is not named.
        near: the members of its site, itself among them or not.
        far: the members of other sites.
        random: to choose by.
        count: members to name at most.
    """
    from_far = max(int(count * FAR_SHARE), count - max(0, len(near) - 1))
    named = random.sample(far, min(len(far), from_far))
    named += random.sample(near, min(len(near), count - len(named) + 1))
    named = [member for member in named if member.key != asker.key][:count]
    random.shuffle(named)
    return named


def connections_wanted(named: int, *, settled: bool) -> int:
    """Return the neighbours that a node connects to itself by now.

    Nodes that come one after the other are named those that came before. Where each connects to ten of these
    at once, the first ones have no free place left for later ones, and get less than the others to the end:
    the last of 1000 nodes took 0.2 s longer.

    Args:
        named: members that the servers named.
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
    """Return the members that a node connects to now, most wanted first.

    Args:
        me: the node.
        candidates: the members that servers named.
        neighbours: the neighbours that the node has.
        random: to choose among equals.
        opened: the neighbours among them that the node connected to itself.
        want: how many of those there shall be.
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
    """Return whether a node takes a member that connected to it as a neighbour."""
    if newcomer.key in {neighbour.key for neighbour in neighbours}:
        return False
    return len(neighbours) < limit or to_replace(me, newcomer, neighbours, limit=limit) is not None


def to_replace(
    me: Member, newcomer: Member, neighbours: Collection[Member], *, limit: int = ACCEPTED
) -> Member | None:
    """Return the neighbour that a full node leaves for a newcomer; None for a node with a free place.

    That is one of another site, where these take more than their share of the places.
    """
    strangers = [neighbour for neighbour in neighbours if neighbour.site != me.site]
    crowded = len(neighbours) >= limit and len(strangers) > limit * FAR_SHARE
    return strangers[0] if crowded and newcomer.site == me.site else None


def to_leave(
    me: Member, neighbours: Collection[Acquaintance], now: float, *, done: bool = False
) -> Acquaintance | None:
    """Return the neighbour to leave for another one; None to stay with all.

    Two nodes that have everything leave each other. A full node leaves the neighbour with which it
    exchanged least, once that had its time.

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
