"""Which servers of this node's line have which versions, complete or open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shardcast.peer.server import Peer
from shardcast.policy.standing import Standing
from shardcast.upstream.follow import Following

Offered = Mapping[int, Sequence[str]]
"""Versions by number, and the URLs of the servers that have them."""


def offered(following: Following) -> tuple[Standing, Offered, Offered]:
    """Return what to believe, the listed versions that servers have complete, and the open versions.

    Raises:
        NoServerReachable, TransferFailed: no server tells anything.
    """
    standing = following.heard()
    complete = {n: servers for n, servers in standing.group.complete.items() if n in standing.listed}
    opened = {number: [one.url for one in peers] for number, peers in open_versions(following).items()}
    return standing, complete, opened


def open_versions(following: Following, nearer_than: int | None = None) -> dict[int, list[Peer]]:
    """Return the open versions by number, as the authority tells, and the servers that have a part of them.

    A node that serves takes only servers ``nearer_than`` so many hops to the origin, so that no two nodes
    wait for each other.
    """
    standing = following.standing()
    found: dict[int, list[Peer]] = {}
    for one in following.followers:
        far = one.hello is None or one.hello.distance is None
        if one.peer.url not in standing.group.servers or (nearer_than is not None and far):
            continue
        if nearer_than is not None and one.hello and (one.hello.distance or 0) >= nearer_than:
            continue
        for number in one.opened & standing.opened:
            found.setdefault(number, []).append(one.peer)
    return found


async def join_servers(
    following: Following,
    number: int,
    peers: list[Peer],
    join: Callable[[Peer], None],
    *,
    nearer_than: int | None = None,
) -> None:
    """Hand each further server of this node's line that has a version to ``join``, for ever.

    Args:
        following: the servers.
        number: the version, open or complete.
        peers: the servers that are known to have it; those that join are added.
        join: called once a server.
        nearer_than: as for ``open_versions``.
    """
    while True:
        seen = following.changes
        complete_at = following.standing().group.complete.get(number, ())
        having = [one.peer for one in following.followers if one.peer.url in complete_at]
        for peer in [*having, *open_versions(following, nearer_than).get(number, [])]:
            if peer not in peers:
                peers.append(peer)
                join(peer)
        await following.change(seen)
