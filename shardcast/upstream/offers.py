"""The versions on offer at the servers of this node's line, complete or open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shardcast.peer.server import Peer
from shardcast.policy.standing import Standing
from shardcast.upstream.follow import Following

Offered = Mapping[int, Sequence[str]]
"""Versions by number, with the URLs of their servers."""


def offered_versions(following: Following) -> tuple[Standing, Offered, Offered]:
    """Return the beliefs, the complete listed versions on offer, and the open versions.

    Raises:
        NoServerReachable, TransferFailed, AccessDenied: no server tells anything.
        LocalLimit: this machine can't ask.
    """
    standing = following.standing_or_error()
    complete = {n: servers for n, servers in standing.group.complete.items() if n in standing.listed}
    opened = {number: [peer.url for peer in peers] for number, peers in open_versions(following).items()}
    return standing, complete, opened


def open_versions(following: Following, nearer_than: int | None = None) -> dict[int, list[Peer]]:
    """Return the open versions by number, as told by the authority, with the servers of a part of them.

    A serving node takes only servers ``nearer_than`` so many hops to the origin, so no two nodes wait for
    each other.
    """
    standing = following.standing()
    found: dict[int, list[Peer]] = {}
    for follower in following.followers:
        if follower.peer.url not in standing.group.servers:
            continue
        if nearer_than is not None:
            distance = follower.hello.distance if follower.hello else None
            if distance is None or distance >= nearer_than:
                continue
        for number in follower.open_numbers & standing.opened:
            found.setdefault(number, []).append(follower.peer)
    return found


async def join_servers(
    following: Following,
    number: int,
    peers: list[Peer],
    join: Callable[[Peer], None],
    *,
    nearer_than: int | None = None,
) -> None:
    """Hand each further server of this node's line with a version to ``join``, for ever.

    Args:
        following: the servers.
        number: the version, open or complete.
        peers: the known servers of the version; those that join are added.
        join: called once a server.
        nearer_than: as for ``open_versions``.
    """
    while True:
        seen = following.changes
        complete_at = following.standing().group.complete.get(number, ())
        having = [follower.peer for follower in following.followers if follower.peer.url in complete_at]
        for peer in [*having, *open_versions(following, nearer_than).get(number, [])]:
            if peer not in peers:
                peers.append(peer)
                join(peer)
        await following.wait_for_change(seen)
