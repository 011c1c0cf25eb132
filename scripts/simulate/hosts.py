"""Hosts: machines with links, in sites, and what ails them."""

from __future__ import annotations

from dataclasses import dataclass

from agenda import Agenda
from flows import Flow
from links import Pipe, Uplink

from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.rules import SwarmRules


@dataclass
class Site:
    """A site: hosts behind one border.

    Attributes:
        name: its name.
        inwards: the link into it.
        outwards: the link out of it.
    """

    name: str
    inwards: Pipe
    outwards: Pipe


@dataclass
class Ways:
    """How long messages take.

    Attributes:
        near: seconds one way within a site.
        far: seconds one way between sites.
    """

    near: float
    far: float


class Host:
    """A machine.

    Attributes:
        site: where it is; None in a world without sites.
        site_name: its site as the rules know it; None where they know of no sites.
        uplink: what it sends by.
        downlink: what it receives by.
        slots: the answers that it gives.
        alive: whether it runs.
        lies: whether the bytes that it sends are wrong.
        boasts: whether it offers everything and answers nothing.
        received: bytes of ranges that came.
    """

    __slots__ = (
        "_agenda",
        "_ways",
        "alive",
        "boasts",
        "downlink",
        "lies",
        "received",
        "site",
        "site_name",
        "slots",
        "uplink",
    )

    def __init__(
        self,
        agenda: Agenda,
        ways: Ways,
        rules: SwarmRules,
        *,
        up: float,
        down: float,
        site: Site | None = None,
    ) -> None:
        self._agenda = agenda
        self._ways = ways
        self.site = site
        self.site_name = site.name if site else None
        self.uplink = Uplink(agenda, up, self._sent)
        self.downlink = Pipe(down)
        self.slots = AnswerSlots(rules)
        self.alive = True
        self.lies = self.boasts = False
        self.received = 0.0

    def delay(self, other: Host) -> float:
        """Return the seconds that a message to another host takes."""
        return self._ways.near if self.site is other.site else self._ways.far

    def answer(self, flow: Flow) -> None:
        """Begin to send an answer, for which there is a slot."""
        flow.answering = True
        flow.wrong = self.lies
        self.uplink.start(flow)

    def release(self, flow: Flow) -> None:
        """Give back the slot of an answer."""
        if flow.answering:
            flow.answering = False
            self.slots.end(flow.asker)

    def _sent(self, flow: Flow) -> None:
        """Carry an answer that has left the uplink to the asker."""
        receiver = flow.asker.host
        delay = self.delay(receiver)
        first, last = flow.started + delay, self._agenda.now + delay
        if self.site is not receiver.site and self.site and receiver.site:
            last = self.site.outwards.carry(flow.size, first, last)
            last = receiver.site.inwards.carry(flow.size, first, last)
            self._agenda.at(last, self.release, flow)  # a full border holds back who sends across it
        else:
            self.release(flow)
        last = receiver.downlink.carry(flow.size, first, last)
        receiver.received += flow.size
        self._agenda.at(last, flow.asker.delivered, flow)
