"""Comparison of servers with the node's own line of versions, and with each other."""

from __future__ import annotations

from shardcast.policy.authority import ServerView
from shardcast.policy.groups import Offer, is_same_version
from shardcast.policy.standing import Memory


def is_fresh(memory: Memory) -> bool:
    """Return whether a node is on no line yet."""
    return memory.origin is None and not memory.digests and not memory.withdrawn


def conflicts(server: ServerView, memory: Memory) -> set[int]:
    """Return the version numbers with another payload digest at this server than in the node's memory."""
    digests = memory.digests
    return {
        number
        for number, listing in server.listed.items()
        if digests.get(number, listing.digest) != listing.digest
    }


def is_own_line(server: ServerView, memory: Memory) -> bool:
    """Return whether a server offers the node's own line, as far as known; always True for a fresh node.

    A different origin id, or a different digest of a known version, means another line.
    """
    if is_fresh(memory):
        return True
    if None not in (server.origin, memory.origin) and server.origin != memory.origin:
        return False
    return not conflicts(server, memory)


def is_same_line(server: ServerView, other: ServerView) -> bool:
    """Return whether two servers name the same origin id, or none, and agree on every version of both."""
    if None not in (server.origin, other.origin) and server.origin != other.origin:
        return False
    return all(
        is_same_version(other.listed[n], mine) for n, mine in server.listed.items() if n in other.listed
    )


def offer_of(server: ServerView) -> Offer:
    """Return the versions of a server, to be grouped with others'."""
    return Offer(
        server.url, tuple(server.complete.values()), server.origin, known=tuple(server.known.values())
    )
