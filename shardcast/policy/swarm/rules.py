"""The numbers of the swarm's rules, and the size of a range.

A simulation found them (``docs/simulation.md``). A rule is switched off by a number that voids it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

RANGE_SECONDS = 0.01
"""Seconds of a range on its node's link."""
MAX_RANGE_PIECES = 64
"""Maximum pieces of a range: 16 MiB of pieces of 256 KiB."""
FIRST_ASKS = 5000.0
"""Maximum rate of first requests at a server, a second, when many nodes begin at once."""
CREDIT_AHEAD = 2
"""Unspread ranges a node may hold beyond the number of its requests."""
FILLING_REQUESTS = 8
"""Requests, of all nodes together, needed to fill a server's link; fewer leave it idle for a request's way.
"""
FEW_REQUESTS = 3
"""Maximum of simultaneous answers to one node, where the two are near each other."""
LONELY_CREDIT = 512
"""Unspread ranges of a node that asks alone, a quarter of them where two ask: each would get the other's
ranges over a link already full, and late by dozens of ranges."""
NEAR_REQUESTS = 6
"""Maximum requests of a node where the number of members is known, and they are near."""
MANY_MEMBERS = 250
"""Members from which on a node has few requests, and is refused early: see ``rules_for``."""
NEAR_REQUESTS_OF_MANY = 4
"""Maximum requests of a node among so many members, where they are near."""
FAR_REQUESTS = 24
"""Maximum requests of a node, however far its neighbours are."""


@dataclass(frozen=True, slots=True)
class SwarmRules:
    """The numbers of a node; by default those for a swarm of unknown size (``rules_for``).

    Attributes:
        requests: maximum of unfinished requests.
        server_requests: maximum of them at each server.
        peer_requests: maximum of them at each neighbour.
        answers: maximum of simultaneous answers.
        asker_answers: maximum of them to one asker.
        credit: maximum of unspread ranges handed out to one node; None for any number.
        have_interval: seconds of collecting new ranges before the neighbours are told.
        news_interval: the same for ranges offered by no neighbour yet, and at a node with few answers.
        few_answers: number of simultaneous answers below which a node has few.
        repeat_after: seconds until a range may be handed out again.
        alone_after: seconds without another asker until a node may exceed its credit.
        shortest_peer_pause: minimum pause, in seconds, of requests to a refusing neighbour.
        longest_peer_pause: maximum of the same.
        first_server_pause: seconds of the first pause of a refusing server; doubled each time.
        longest_server_pause: maximum pause of a server, in seconds.
        kept_after: seconds without an answer until a request counts as kept by its server.
        help_below: maximum of unfinished requests at which a node asks a server for help.
        stalled_after: seconds without a byte until a request is taken elsewhere.
        duplicate_after: seconds until the last ranges are asked from a second neighbour too.
        crossing_seconds: seconds for a range handed to a site to arrive.
        crossings: initial number of ranges under way into a site.
        rarest_first: whether to ask for the rarest range of a neighbour, rather than any.
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
    have none. So a node there gives few answers at once, each ends sooner and can be passed on, and a refused
    node asks again sooner. Few nodes have few others to ask, and keep their links full by more requests.

    Args:
        round_trip: seconds between typical neighbours and back; requests fill the link meanwhile.
        members: members of the version known to a server: with more, each may wait longer there.
        range_seconds: seconds of a range on the node's link.
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
    """Return the maximum pause of a server in seconds: 1 s, and 4 s with a thousand members."""
    return min(max(1.0, members / 250), 4.0)


def first_ask(members: int, random: Random) -> float:
    """Return the seconds until a node's first request to a server.

    Args:
        members: members of the version known to the server.
        random: source of the spread.
    """
    return random.random() * members / FIRST_ASKS


def range_size(piece_size: int, link_rate: float) -> int:
    """Return the bytes of a range: one piece, or as many whole pieces as 10 ms of the link.

    Args:
        piece_size: bytes of a piece.
        link_rate: bytes a second of the links; 0 while unknown.
    """
    return piece_size * min(max(1, int(link_rate * RANGE_SECONDS / piece_size)), MAX_RANGE_PIECES)
