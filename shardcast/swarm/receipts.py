"""The received pieces of a version at a node: bytes by neighbour and by server, and the handed-out pieces."""

from __future__ import annotations

from collections.abc import Hashable

from shardcast.policy.swarm.requests import SwarmRequest


class Receipts:
    """The receipts of an exchange.

    Attributes:
        by_neighbour: bytes received from each neighbour, by key.
        by_server: bytes received from each server, by URL.
        across: bytes received from neighbours in other sites.
        handed: mask of the pieces handed out to this node by servers.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.by_neighbour: dict[Hashable, int] = {}
        self.by_server: dict[str, int] = {}
        self.across = 0
        self.handed = 0

    @property
    def from_neighbours(self) -> int:
        """Bytes received from neighbours."""
        return sum(self.by_neighbour.values())

    def count(self, request: SwarmRequest, size: int) -> None:
        """Count the received piece of a request, with its bytes."""
        key, neighbour = request.source.key, request.neighbour
        if neighbour is None:
            self.by_server[str(key)] = self.by_server.get(str(key), 0) + size
            self.handed |= 1 << (request.number or 0)
            return
        self.by_neighbour[key] = self.by_neighbour.get(key, 0) + size
        if not neighbour.near:
            self.across += size
