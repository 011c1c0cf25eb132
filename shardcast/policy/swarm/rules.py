"""The numbers of the swarm's rules, and the size of a range.

A simulation found them (``docs/simulation.md``). A rule is switched off by a number that voids it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

RANGE_SECONDS = 0.01
"""Seconds that a range takes on its node's link."""
MAX_RANGE_PIECES = 64
"""Pieces that a range has at most: 16 MiB of pieces of 256 KiB."""
FIRST_ASKS = 5000.0
"""First requests that a server gets a second, at most, when many nodes begin at once."""
CREDIT_AHEAD = 2
"""Ranges that a node may be the only one to have, beyond as many as it has requests out."""
FILLING_REQUESTS = 8
"""Requests, of all nodes together, that fill a server's link; fewer let it idle for the way of a request."""
FEW_REQUESTS = 3
"""Requests of one node that another answers at once, at most, where they are near each other."""
LONELY_CREDIT = 512
"""Ranges that a node may be the only one to have where it is the only one to ask, a quarter of them where two
ask: each gets what the other was handed over a link that is full already, and is late by dozens of ranges."""
NEAR_REQUESTS = 6
"""Requests that a node has out at most where the number of members is known, and they are near."""
MANY_MEMBERS = 250
"""Members from which on a node has few requests out, and is refused early: see ``rules_for``."""
NEAR_REQUESTS_OF_MANY = 4
"""Requests that a node has out at most among so many, where they are near."""
FAR_REQUESTS = 24
"""Requests that a node has out at most, however far its neighbours are."""


@dataclass(frozen=True, slots=True)
class SwarmRules:
    """The numbers that a node goes by; by default those for a swarm of unknown size (``rules_for``).

    Attributes:
        requests: requests that a node has out at most.
        server_requests: those of them at each server that hands out.
        peer_requests: those of them at each neighbour.
        answers: answers that a node gives at once.
        asker_answers: those of them that one asker gets at once.
        credit: ranges handed out to one node that no other node has yet, at most; None for any number.
        have_interval: seconds for which ranges that became servable are collected for the neighbours.
        news_interval: the same for ranges that no neighbour offers yet, and at a node that gives few answers.
        few_answers: answers at once below which a node gives few.
        repeat_after: seconds within which a range is not handed out twice.
        alone_after: seconds without another asker after which a node gets more than its credit.
        shortest_peer_pause: seconds, at least, for which a neighbour that refused is left alone.
        longest_peer_pause: seconds, at most, for which a neighbour that refused is left alone.
        first_server_pause: seconds for which a server that refused is left alone; doubled each time.
        longest_server_pause: seconds that no pause of a server exceeds.
        kept_after: seconds without an answer after which a server keeps a request until it has a range.
        help_below: requests out with which a node asks a server for help, at most.
        stalled_after: seconds without a byte after which a request is taken elsewhere.
        duplicate_after: seconds after which the last ranges are asked from a second neighbour too.
        crossing_seconds: seconds within which a range that was handed to a site has to be there.
        crossings: ranges under way into a site at first.
        rarest_first: whether a node asks for the rarest range of a neighbour, rather than any.
    """

    requests: int = 8
    server_requests: int = 2
    peer_requests: int = 1
    answers: int = 8
    asker_answers: int = 3
    credit: int | None = 8
    have_interval: float = 0.05
    news_interval: float = 0.01
    few_answers: int = 2
    repeat_after: float = 0.5
    alone_after: float = 0.5
    shortest_peer_pause: float = 0.025
    longest_peer_pause: float = 0.075
    first_server_pause: float = 0.05
    longest_server_pause: float = 1.0
    kept_after: float = 0.15
    help_below: int = 4
    stalled_after: float = 1.0
    duplicate_after: float = 0.5
    crossing_seconds: float = 2.0
    crossings: int = 8
    rarest_first: bool = True


def rules_for(
    *, round_trip: float = 0.0, members: int = 0, range_seconds: float = RANGE_SECONDS
) -> SwarmRules:
    """Return the rules for a swarm.

    Among many, time is lost where a range is still rare and where requests pile up at some nodes while others
    have none. So there a node gives few answers at once, which ends each sooner and lets it be passed on, and
    who is refused asks again sooner. Few nodes have few others to ask, and keep their links full by more.

    Args:
        round_trip: seconds between typical neighbours and back; requests fill the link meanwhile.
        members: nodes that a server knows of the version: the more ask it, the longer each waits.
        range_seconds: seconds that a range takes on the node's link.
    """
    travelling = math.ceil(max(0.0, round_trip - range_seconds) / range_seconds)
    many = members >= MANY_MEMBERS
    requests = min(FAR_REQUESTS, (NEAR_REQUESTS_OF_MANY if many else NEAR_REQUESTS) + travelling)
    asker_answers = FEW_REQUESTS + travelling // 2
    share = math.ceil((FILLING_REQUESTS + 2 * travelling) / max(1, members))
    rules = SwarmRules(
        requests=requests,
        answers=requests,
        asker_answers=asker_answers,
        credit=max(requests + CREDIT_AHEAD, LONELY_CREDIT // max(1, members) ** 2),
        server_requests=min(share, asker_answers),
        longest_server_pause=longest_server_pause(members),
    )
    if not many:
        return rules
    return replace(
        rules, have_interval=0.025, few_answers=3, shortest_peer_pause=0.01, longest_peer_pause=0.03
    )


def longest_server_pause(members: int) -> float:
    """Return the seconds that no pause of a server exceeds: 1 s, and 4 s where a thousand nodes ask."""
    return min(max(1.0, members / 250), 4.0)


def first_ask(members: int, random: Random) -> float:
    """Return the seconds after which a node asks a server for the first time.

    Args:
        members: nodes that the server knows of the version.
        random: to spread them.
    """
    return random.random() * members / FIRST_ASKS


def range_size(piece_size: int, link_rate: float) -> int:
    """Return the bytes of a range: one piece, or as many whole pieces as 10 ms of the link.

    Args:
        piece_size: bytes of a piece.
        link_rate: bytes a second of the links; 0 while unknown.
    """
    return piece_size * min(max(1, int(link_rate * RANGE_SECONDS / piece_size)), MAX_RANGE_PIECES)
