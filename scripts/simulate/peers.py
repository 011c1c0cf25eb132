"""Nodes of a swarm: the policies of one host for one version, and the messages between nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from counts import Counts
from flows import Flow
from hosts import Host
from links import NEVER

from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.ledger import Handout, HandoutKind, Ledger
from shardcast.policy.swarm.masks import first_ranges
from shardcast.policy.swarm.meeting import Member
from shardcast.policy.swarm.requests import SwarmRequest
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.policy.swarm.telling import Telling

if TYPE_CHECKING:
    from swarm import Swarm

WAITING_SECONDS = 0.5
"""Seconds for which a server keeps a request while it has nothing to hand out."""


class Peer:
    """A host in the swarm of one version.

    Attributes:
        host: the machine.
        chooser: what it asks for; the policy that real nodes use.
        member: what other nodes know of it.
        ledger: what it hands out, where it is a server.
        neighbours: the nodes that it tells what it has.
        opened: those of them that it connected to itself.
        began_at: when it joined.
        done_at: when it had everything; None before.
        counts: its messages.
    """

    def __init__(
        self,
        swarm: Swarm,
        host: Host,
        *,
        ledger: Ledger | None = None,
        rules: SwarmRules | None = None,
    ) -> None:
        self.swarm = swarm
        self.host = host
        self.member = Member(self, host.site_name)
        self.ledger = ledger
        self.chooser = RangeChooser(rules or swarm.rules, swarm.random, key=self, site=host.site_name)
        self.chooser.extend(swarm.known)
        self.neighbours: list[Peer] = []
        self.opened = 0
        self.began_at = swarm.agenda.now
        self.done_at: float | None = None
        self.counts = Counts()
        self._flows: dict[SwarmRequest, Flow] = {}
        self._telling = Telling(swarm.rules)
        self._wake_at = NEVER
        self._watch_at = NEVER
        self._waiting: list[Flow] = []  # requests for the next range, where there is none yet

    # Asking

    def pump(self, _: object = None) -> None:
        """Send all the requests that the policy wants to have out."""
        if self.done_at is not None or not self.host.alive:
            return
        swarm = self.swarm
        now = swarm.agenda.now
        while (request := self.chooser.next_request(now)) is not None:
            source: Peer = request.source.key  # type: ignore[assignment]
            flow = self._flows[request] = Flow(request, self, source)
            if request.number is None:
                self.counts.nexts += 1
            else:
                self.counts.requests += 1
                flow.number = request.number
            swarm.agenda.at(now + self.host.delay(source.host), source.asked, flow)
        wake_at = self.chooser.wake_at
        if wake_at < self._wake_at:
            self._wake_at = wake_at
            swarm.agenda.at(wake_at, self._wake, wake_at)

    def _wake(self, wake_at: float) -> None:
        """Look again at what time alone may have changed."""
        if wake_at == self._wake_at:
            self._wake_at = NEVER
            self.pump()

    def told(self, answer: tuple[Flow, Handout]) -> None:
        """Take a server's answer to a request for the next range."""
        flow, handout = answer
        if flow.cancelled or not self.host.alive:
            return
        if self.chooser.answered(flow.request, handout, self.swarm.agenda.now):
            return
        del self._flows[flow.request]
        if handout.answer is HandoutKind.BODY:
            self._cancel(flow)
        elif handout.answer is not HandoutKind.CLAIMS:
            self.counts.refusals += 1
        self.pump()

    def refused(self, flow: Flow) -> None:
        """Take a refusal."""
        if not flow.cancelled and self.host.alive:
            self.counts.refusals += 1
            del self._flows[flow.request]
            self.chooser.refused(flow.request, self.swarm.agenda.now)
            self.pump()

    def absent(self, flow: Flow) -> None:
        """Take the answer that a range is not there."""
        if not flow.cancelled and self.host.alive:
            del self._flows[flow.request]
            self.chooser.absent(flow.request, self.swarm.agenda.now)
            self.pump()

    def delivered(self, flow: Flow) -> None:
        """Take the last byte of a range."""
        if flow.cancelled or not self.host.alive:
            return
        del self._flows[flow.request]
        now = self.swarm.agenda.now
        if flow.wrong:
            self.counts.wrong += 1
            losers = []
            if self.swarm.bans:
                losers = self.chooser.wrong(flow.request, now)
            else:
                self.chooser.refused(flow.request, now)
        else:
            losers = self.chooser.received(flow.request, now)
        for request in losers:
            self._cancel(self._flows.pop(request))
        if not flow.wrong:
            self.have(1 << flow.number, own=flow.request.server is not None)
        self.pump()

    def have(self, mask: int, *, own: bool = True) -> None:
        """Offer what has come, and note when that is everything."""
        if self.ledger is not None:
            self.ledger.offer(mask, own=own)
            self._hand_to_waiting()
        self._tell(mask)
        if self.done_at is None and self.chooser.done and self.swarm.whole:
            if self.ledger is not None:
                self.ledger.growing = False
            self.done_at = self.swarm.agenda.now
            for flow in list(self._flows.values()):
                self._cancel(flow)
            self._flows.clear()
            self.swarm.finished(self)

    def _cancel(self, flow: Flow) -> None:
        """Give up a request."""
        flow.cancelled = True
        self.counts.cancelled += 1
        if flow.answering and not flow.sent:
            flow.source.host.uplink.cancel(flow)
        flow.source.host.release(flow)

    # Answering

    def asked(self, flow: Flow) -> None:
        """Answer a request."""
        if flow.cancelled:
            return
        self.counts.asked += 1
        if not self.host.alive or self.host.boasts:
            flow.asker.watch()
        elif flow.number < 0:
            self._hand_out(flow)
        elif not self.chooser.held >> flow.number & 1:
            self._reply(flow, flow.asker.absent, flow)
        elif self.host.slots.begin(flow.asker):
            flow.size = self.swarm.sizes[flow.number]
            self.host.answer(flow)
        else:
            self._reply(flow, flow.asker.refused, flow)

    def _reply(self, flow: Flow, action: Callable[[object], None], argument: object) -> None:
        """Send a short answer."""
        self.swarm.agenda.at(self.swarm.agenda.now + self.host.delay(flow.asker.host), action, argument)

    def _hand_out(self, flow: Flow, *, waited: bool = False) -> bool:
        """Answer a request for the next range; return False where the asker waits for it."""
        assert self.ledger is not None and flow.request.asked is not None
        now = self.swarm.agenda.now
        may_send = self.host.slots.free_for(flow.asker)
        handout = self.ledger.decide(flow.request.asked, now, may_send=may_send)
        if handout.answer is HandoutKind.WAIT and not waited:
            self._waiting.append(flow)
            self.swarm.agenda.at(now + WAITING_SECONDS, self._wait_ended, flow)
            return False
        if handout.answer is HandoutKind.WAIT and flow in self._waiting:
            return False
        if handout.answer is HandoutKind.BODY:
            flow.number = handout.number
            flow.size = self.swarm.sizes[flow.number]
            self.host.slots.begin(flow.asker)
            self.host.answer(flow)
        self._reply(flow, flow.asker.told, (flow, handout))
        return True

    def _hand_to_waiting(self) -> None:
        """Answer those who wait for a next range, as long as there is one."""
        for flow in list(self._waiting):
            if flow.cancelled or self._hand_out(flow, waited=True):
                self._waiting.remove(flow)
            else:
                return

    def _wait_ended(self, flow: Flow) -> None:
        """Answer a request that has waited for long enough."""
        if flow in self._waiting:
            self._waiting.remove(flow)
            if not flow.cancelled and self.host.alive:
                self._hand_out(flow, waited=True)

    # Neighbours

    def meet(self, other: Peer) -> None:
        """Become a neighbour of another node: both hear what the other has."""
        for one, two in ((self, other), (other, self)):
            one.neighbours.append(two)
            one.chooser.neighbours.add(two, near=one.host.site_name == two.host.site_name)
            one.chooser.neighbours.offers(two, two.offered)

    def part(self, other: Peer) -> None:
        """Stop being a neighbour."""
        for one, two in ((self, other), (other, self)):
            one.neighbours.remove(two)
            for request in one.chooser.remove_neighbour(two):
                if request in one._flows:
                    one._cancel(one._flows.pop(request))

    @property
    def offered(self) -> int:
        """The ranges that it says it has."""
        return first_ranges(len(self.swarm.sizes)) if self.host.boasts else self.chooser.held

    def _tell(self, mask: int) -> None:
        """Collect what became servable for the neighbours."""
        before = self._telling.due
        offered, answers = self.chooser.neighbours.near.counted, self.host.slots.under_way
        due = self._telling.add(mask, self.swarm.agenda.now, offered=offered, answers=answers)
        if due < before:
            self.swarm.agenda.at(due, self._tell_all, due)

    def _tell_all(self, due: float) -> None:
        """Tell the neighbours what became servable."""
        if due != self._telling.due:
            return
        news = self._telling.take(self.swarm.agenda.now)
        if not self.host.alive or self.host.boasts:
            return
        agenda, site = self.swarm.agenda, self.host.site
        near = [peer for peer in self.neighbours if peer.done_at is None and peer.host.site is site]
        far = [peer for peer in self.neighbours if peer.done_at is None and peer.host.site is not site]
        self.counts.haves += len(near) + len(far)
        for peers in (near, far):
            if peers:
                agenda.at(agenda.now + self.host.delay(peers[0].host), self._heard, (news, peers))

    def _heard(self, message: tuple[int, list[Peer]]) -> None:
        """Let the neighbours hear what became servable."""
        news, peers = message
        requests = self.swarm.rules.requests
        for peer in peers:
            if peer.done_at is None and peer.host.alive:
                chooser = peer.chooser
                if self in chooser.neighbours:
                    chooser.neighbours.offers(self, news)
                    if len(chooser.under_way) < requests and news & chooser.missing:
                        peer.pump()

    # What ails

    def watch(self) -> None:
        """Look for requests that bring nothing, once that can be known."""
        at = self.swarm.agenda.now + self.swarm.rules.stalled_after
        if self._watch_at == NEVER:
            self._watch_at = at
            self.swarm.agenda.at(at, self._look_for_stalls)

    def _look_for_stalls(self, _: object) -> None:
        """Leave the requests that brought nothing for too long."""
        self._watch_at = NEVER
        if self.done_at is not None or not self.host.alive:
            return
        now = self.swarm.agenda.now
        for request, flow in self._flows.items():
            if flow.source.host.alive and not flow.source.host.boasts:
                request.progress_at = now  # a link shared by eight answers never pauses for a second
        for request in self.chooser.stalled(now + 1e-6):
            flow = self._flows.pop(request)
            self._cancel(flow)
            self.chooser.failed(request, now)
            if not flow.source.host.alive and flow.source in self.neighbours:
                self.part(flow.source)
                self.swarm.introduce(self)
        if any(not flow.source.host.alive or flow.source.host.boasts for flow in self._flows.values()):
            self.watch()
        self.pump()

    def fall_silent(self) -> None:
        """Die without a word: those who wait for an answer find out by themselves."""
        self.host.alive = False
        for flow in self._flows.values():
            self._cancel(flow)
        self._flows.clear()
        for peer in [*self.neighbours, *self.swarm.askers_of(self)]:
            if any(flow.source is self for flow in peer._flows.values()):
                peer.watch()
