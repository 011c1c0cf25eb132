"""An answer under way: one range from one node to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardcast.policy.swarm.requests import SwarmRequest

if TYPE_CHECKING:
    from peers import Peer


class Flow:
    """A request and its answer.

    Attributes:
        request: the request, as the asker's policy knows it.
        asker: who asked.
        source: who answers.
        number: the range; -1 until the server has chosen it.
        size: its bytes.
        started: when the answer began.
        ends: the mark of the uplink at which it is sent.
        sent: whether it has left the uplink.
        answering: whether it takes one of the source's slots.
        cancelled: whether nobody waits for it any more.
        wrong: whether its bytes are wrong.
    """

    __slots__ = (
        "answering",
        "asker",
        "cancelled",
        "ends",
        "number",
        "request",
        "sent",
        "size",
        "source",
        "started",
        "wrong",
    )

    def __init__(self, request: SwarmRequest, asker: Peer, source: Peer) -> None:
        self.request = request
        self.asker = asker
        self.source = source
        self.number = -1
        self.size = 0
        self.started = self.ends = 0.0
        self.sent = self.answering = self.cancelled = self.wrong = False
