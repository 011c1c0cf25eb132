"""The choice of the members named by a server: to a member, and to another server of the same origin."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from random import Random

from shardcast.policy.swarm.addresses import can_be_told
from shardcast.policy.swarm.meeting import NAMED, RENEW_SECONDS, Member, named_members
from shardcast.policy.swarm.members import Entry, Shortlist, VersionMembers

Wanted = Callable[[Entry], bool]
"""Tells whether a member can be named."""


def members_for(
    members: VersionMembers,
    entry: Entry,
    asker: str | None,
    now: float,
    random: Random,
    *,
    count: int = NAMED,
) -> list[Entry]:
    """Return the members to name to a member: the same as before, and now and then others.

    Args:
        members: the members of the version.
        entry: the asking member.
        asker: the member's own address as seen by the server; None for unknown.
        now: the time, in seconds.
        random: draws members.
        count: maximum number of members to name.
    """

    def can_name(other: Entry) -> bool:
        """Return whether a member is named to the asker."""
        return other is not entry and other.host is not None and can_be_told(other.host, asker)

    def draw() -> list[Entry]:
        """Return random members, most of them of the asker's site."""
        site = entry.facts.site
        near_pool = members.sites.get(site)
        near = near_pool.draw(random, count, can_name, _rate) if near_pool else []
        far = members.all.draw(random, count, lambda one: one.facts.site != site and can_name(one), _rate)
        by_key: dict[Hashable, Entry] = {one.facts.key: one for one in (*near, *far)}
        me = _as_member(entry)
        chosen = named_members(me, [me, *map(_as_member, near)], [*map(_as_member, far)], random, count=count)
        return [by_key[member.key] for member in chosen]

    return _refresh(members, entry.named, count, can_name, draw, now=now, random=random)


def members_to_relay(
    members: VersionMembers, shortlist: Shortlist, count: int, wanted: Wanted, *, now: float, random: Random
) -> list[Entry]:
    """Return the members to relay to another server: the same as before, and now and then others.

    Args:
        members: the members of the version.
        shortlist: the members relayed before.
        count: maximum number of members to relay.
        wanted: returns whether a member can be relayed.
        now: the time, in seconds.
        random: draws members.
    """
    return _refresh(
        members,
        shortlist,
        count,
        wanted,
        lambda: members.all.draw(random, count, wanted, _rate),
        now=now,
        random=random,
    )


def _refresh(
    members: VersionMembers,
    shortlist: Shortlist,
    count: int,
    wanted: Wanted,
    draw: Callable[[], list[Entry]],
    *,
    now: float,
    random: Random,
) -> list[Entry]:
    """Return a shortlist without departed members, and with others in their places."""
    kept = [entry for entry in shortlist.entries if members.has(entry) and entry.host and wanted(entry)]
    if shortlist.renewed_at is None:
        shortlist.renewed_at = now
    elif now - shortlist.renewed_at >= RENEW_SECONDS:
        shortlist.renewed_at = now
        if len(members.all) > count:  # else there are no others
            kept = random.sample(kept, len(kept) // 2)
    if len(kept) < count:
        known = set(kept)
        kept += [entry for entry in draw() if entry not in known]
    shortlist.entries = kept[:count]
    return shortlist.entries


def _rate(entry: Entry) -> int:
    """Return the claimed upload rate of a member, in bytes a second."""
    return entry.facts.rate


def _as_member(entry: Entry) -> Member:
    """Return a member in the view of the choice of neighbours."""
    return Member(entry.facts.key, entry.facts.site, entry.host is not None)
