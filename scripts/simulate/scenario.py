"""What is simulated: how many nodes with which links, in which sites, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shardcast.policy.swarm.meeting import ACCEPTED, OPENED
from shardcast.policy.swarm.rules import SwarmRules, range_size, rules_for

MIB = 1 << 20
PIECE = 256 << 10
MEGABIT = 1e6 / 8
"""Bytes a second of one Mbit/s."""


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        nodes: clients at the beginning.
        middles: middles between the origin and the clients.
        size: bytes of a version.
        rate: bytes a second of the origin's link and the middles', each way.
        slowest: bytes a second of the slowest client's link.
        fastest: those of the fastest; between both each rate is equally likely.
        latency: seconds one way within a site.
        far_latency: seconds one way between sites.
        sites: sites over which the clients are spread; the servers are in the first one.
        apart: whether the servers' site has no clients.
        border: bytes a second of each site's link to the others, each way.
        killed: the share of clients that die.
        killed_at: when they do, as a share of the bound.
        joining: the share of clients, beside ``nodes``, that come later, one by one.
        liars: the share of clients whose bytes are wrong.
        boasters: the share of clients that offer everything and answer nothing.
        stragglers: the share of clients whose link has a tenth of its rate.
        versions: versions that are published one after the other.
        every: seconds between them.
        written: bytes a second at which a version is made while it is read; 0 for one that is complete.
        shard: bytes that such a version grows by.
        piece: bytes of a range; 0 for what the policy takes for the links.
        seed: of all chance.
        without: rules that are switched off.
    """

    nodes: int = 100
    middles: int = 0
    size: int = 128 * MIB
    rate: float = 200 * MEGABIT
    slowest: float = 200 * MEGABIT
    fastest: float = 200 * MEGABIT
    latency: float = 0.001
    far_latency: float = 0.005
    sites: int = 1
    apart: bool = False
    border: float = 50 * MEGABIT
    killed: float = 0.0
    killed_at: float = 0.5
    joining: float = 0.0
    liars: float = 0.0
    boasters: float = 0.0
    stragglers: float = 0.0
    versions: int = 1
    every: float = 0.0
    written: float = 0.0
    shard: int = 4 * MIB
    piece: int = 0
    seed: int = 1
    without: frozenset[str] = field(default_factory=frozenset)

    @property
    def range_size(self) -> int:
        """Bytes of a range."""
        size = self.piece or range_size(PIECE, self.rate)
        return max(size, 4 * MIB) if "pieces" in self.without else size

    @property
    def sizes(self) -> list[int]:
        """Bytes of each range."""
        whole, rest = divmod(self.size, self.range_size)
        return [self.range_size] * whole + ([rest] if rest else [])

    @property
    def rules(self) -> SwarmRules:
        """The numbers that the clients go by."""
        return self.rules_of(self.nodes)

    def rules_of(self, members: int) -> SwarmRules:
        """Return the numbers that those go by who share a server with so many."""
        rules = rules_for(
            round_trip=2 * self.latency, members=members, range_seconds=self.range_size / self.rate
        )
        for name in self.without:
            rules = replace(rules, **SWITCHES[name][1])  # type: ignore[arg-type]
        return rules

    @property
    def degree(self) -> tuple[int, int]:
        """Neighbours that a node connects to, and those with which it accepts no further one."""
        return (3, 7) if "neighbours" in self.without else (OPENED, ACCEPTED)


SWITCHES: dict[str, tuple[str, dict[str, object]]] = {
    "pieces": ("1: ranges of 4 MiB instead of 256 KiB", {}),
    "batches": ("2: neighbours hear of ranges every 0.5 s", {"have_interval": 0.5, "news_interval": 0.5}),
    "news": ("2: what is new to all waits like the rest", {"news_interval": 0.05}),
    "idle": ("2: nodes that give few answers collect ranges too", {"few_answers": 0}),
    "neighbours": ("2: a node connects to 3 neighbours", {}),
    "places": ("2: a node connects to all its neighbours at once", {}),
    "handout": ("3: the server is a neighbour like others", {}),
    "credit": ("4: a node may sit on any number of ranges", {"credit": None}),
    "requests": ("5: 2 requests out", {"requests": 2}),
    "server": ("5: 2 requests at the server", {"server_requests": 2}),
    "one-a-peer": (
        "5: as many requests to a neighbour as there may be",
        {"peer_requests": 8, "asker_answers": 8},
    ),
    "rarest": ("5: any range rather than the rarest", {"rarest_first": False}),
    "refusals": ("6: any number of answers at once", {"answers": 1000}),
    "pauses": ("6: servers are asked again after 50 ms always", {"longest_server_pause": 0.05}),
    "stalls": ("7: silent neighbours are left after 10 s", {"stalled_after": 10.0}),
    "bans": ("7: who sent wrong bytes is asked again", {}),
    "duplicates": ("7: no second request for the last ranges", {"duplicate_after": float("inf")}),
    "sites": ("sites: nodes know of no borders", {}),
    "late": ("sites: crossings are not given anew", {"crossing_seconds": 3600.0}),
}
"""The rules that can be switched off: what is done instead, and the numbers that void them."""
