"""Messages of a node, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """Messages of one node.

    Attributes:
        requests: requests that it sent to neighbours.
        nexts: requests for a server's next range that it sent.
        refusals: requests that were refused.
        haves: batches of ranges that it told a neighbour.
        cancelled: requests that it gave up.
        wrong: ranges whose bytes were wrong.
        asked: requests that it got.
    """

    requests: int = 0
    nexts: int = 0
    refusals: int = 0
    haves: int = 0
    cancelled: int = 0
    wrong: int = 0
    asked: int = 0
