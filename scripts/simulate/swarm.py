"""The swarm of one version: its servers, its nodes, and how they come to know each other."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from agenda import Agenda
from hosts import Host
from peers import Peer

from shardcast.policy.swarm.ledger import Ledger
from shardcast.policy.swarm.masks import first_ranges
from shardcast.policy.swarm.meeting import (
    ACCEPTED,
    OPENED,
    Member,
    accepts,
    connections_wanted,
    named_members,
    to_connect,
    to_replace,
)
from shardcast.policy.swarm.rules import SwarmRules, first_ask

ANNOUNCEMENTS = 4
"""How often a node that wants more neighbours announces itself again at the beginning."""
FORGOTTEN_AFTER = 3.0
"""Seconds of silence after which servers know that a node left."""


class Swarm:
    """Everyone who has or gets one version.

    Attributes:
        agenda: the simulation's.
        rules: the numbers that all nodes go by.
        random: the source of all chance.
        sizes: bytes of each range.
        known: the ranges that exist so far.
        whole: whether these are all.
        bans: whether a node leaves a neighbour that sent wrong bytes.
        hands_out: whether servers hand ranges out, rather than be neighbours like others.
        opened: neighbours that a node connects to.
        settled: whether the nodes of the beginning have all joined.
        accepted: neighbours with which a node accepts no further one.
        on_finished: called with each node that has everything.
        members: nodes that the servers know of.
        unfinished: nodes that lack something.
        servers: the nodes that clients know: the origin, or the middles.
        peers: everyone but the origin.
    """

    def __init__(
        self, agenda: Agenda, rules: SwarmRules, random: Random, *, sizes: list[int], origin: Host
    ) -> None:
        """Begin with the origin alone, which has everything."""
        self.agenda = agenda
        self.rules = rules
        self.random = random
        self.sizes = sizes
        self.known = first_ranges(len(sizes))
        self.whole = True
        self.bans = True
        self.hands_out = True
        self.opened, self.accepted = OPENED, ACCEPTED
        self.settled = False
        self.on_finished: Callable[[Peer], None] = lambda peer: None
        self.members = 0
        self.unfinished = 0
        self.peers: list[Peer] = []
        self._by_site: dict[str | None, list[Member]] = {}
        self.origin = Peer(self, origin, ledger=Ledger(rules, random, site=origin.site_name))
        self.origin.done_at = agenda.now
        self.origin.chooser.hold(self.known)
        self.origin.have(self.known)
        self.servers = [self.origin]

    def begin_empty(self) -> None:
        """Begin with a version that has no range yet; ``grow`` adds them."""
        self.known, self.whole = 0, False
        self.origin = Peer(
            self,
            self.origin.host,
            ledger=Ledger(self.rules, self.random, site=self.origin.host.site_name, growing=True),
        )
        self.origin.done_at = self.agenda.now
        self.servers = [self.origin]

    def add_middles(self, hosts: list[Host], rules: SwarmRules) -> None:
        """Add middles, which go by ``rules``: the origin hands out to them, and they to everyone else."""
        assert self.origin.ledger is not None
        self.origin.ledger.adopt(rules)
        middles = []
        for host in hosts:
            ledger = Ledger(self.rules, self.random, site=host.site_name, growing=True)
            middles.append(self._join(host, ledger, rules))
        for number, middle in enumerate(middles):
            for other in middles[:number]:
                middle.meet(other)
            self._serve(middle, [self.origin])
        self.servers = middles

    def add(self, host: Host, *, expected: int) -> Peer:
        """Let a node join now.

        Args:
            host: its machine.
            expected: nodes that the servers know of.
        """
        peer = self._join(host, None)
        self.members = expected
        self.introduce(peer, settled=self.settled)
        self._by_site.setdefault(host.site_name, []).append(peer.member)
        self._serve(peer, self.servers)
        return peer

    def _join(self, host: Host, ledger: Ledger | None, rules: SwarmRules | None = None) -> Peer:
        """Add a node that is to get everything."""
        peer = Peer(self, host, ledger=ledger, rules=rules)
        self.peers.append(peer)
        self.unfinished += 1
        return peer

    def _serve(self, peer: Peer, servers: list[Peer]) -> None:
        """Make servers known to a node, and let it begin."""
        now = self.agenda.now
        for server in servers:
            if not self.hands_out:
                peer.meet(server)
                continue
            first_at = now + first_ask(self.members, self.random)
            peer.chooser.add_server(server, first_at=first_at)
        self.agenda.at(now, peer.pump)

    def introduce(self, peer: Peer, *, settled: bool = True) -> None:
        """Let a node announce itself, and connect to some of those that the answer names.

        Args:
            peer: the node.
            settled: whether others had time to come.
        """
        near = self._by_site.get(peer.host.site_name, [])
        far = self._strangers(peer)
        named = named_members(peer.member, near, far, self.random)
        known = [other.member for other in peer.neighbours]
        want = min(self.opened, connections_wanted(len(named), settled=settled))
        wanted = to_connect(peer.member, named, known, self.random, opened=peer.opened, want=want)
        for member in wanted:
            other: Peer = member.key  # type: ignore[assignment]
            if not other.host.alive or other in peer.neighbours:
                continue
            theirs = [one.member for one in other.neighbours]
            if accepts(other.member, peer.member, theirs, limit=self.accepted):
                replaced = to_replace(other.member, peer.member, theirs, limit=self.accepted)
                if replaced is not None:
                    other.part(replaced.key)  # type: ignore[arg-type]
                peer.meet(other)
                peer.opened += 1

    def _strangers(self, peer: Peer) -> list[Member]:
        """Return some members of other sites."""
        sites = [site for site in self._by_site if site != peer.host.site_name]
        if not sites:
            return []
        picked = [self.random.choice(self._by_site[self.random.choice(sites)]) for _ in range(30)]
        return list(dict.fromkeys(picked))

    def introduce_all(self) -> None:
        """Let those that want more neighbours announce themselves again, some times, once all have joined."""
        self.settled = True
        for _ in range(ANNOUNCEMENTS):
            for peer in self.peers:
                if peer.ledger is None and peer.opened < self.opened:
                    self.introduce(peer)

    def askers_of(self, server: Peer) -> list[Peer]:
        """Return the nodes that know a server."""
        return self.peers if server in self.servers or server is self.origin else []

    def finished(self, peer: Peer) -> None:
        """Count a node that has everything."""
        self.unfinished -= 1
        self.on_finished(peer)

    def kill(self, peer: Peer) -> None:
        """Let a node die; servers find out after a while."""
        if peer.done_at is None:
            self.unfinished -= 1
        peer.fall_silent()
        members = self._by_site.get(peer.host.site_name, [])
        if peer.member in members:
            members.remove(peer.member)
        self.agenda.at(self.agenda.now + FORGOTTEN_AFTER, self._forget, peer)

    def _forget(self, peer: Peer) -> None:
        """Let the servers know that a node left."""
        for server in [self.origin, *self.servers]:
            if server.ledger is not None:
                server.ledger.forget(peer)
        for other in self.peers:
            if peer in other.neighbours:
                other.part(peer)
                self.introduce(other)

    def grow(self, count: int) -> None:
        """Let the origin have so many ranges of a version that is being made."""
        new = first_ranges(count) & ~self.known
        self.known |= new
        self.whole = count == len(self.sizes)
        origin = self.origin
        origin.chooser.extend(new)
        origin.chooser.hold(new)
        assert origin.ledger is not None
        origin.ledger.growing = not self.whole
        for peer in self.peers:
            if peer.ledger is not None:
                peer.ledger.growing = True
            peer.chooser.extend(new)
        origin.have(new)
        for peer in self.peers:
            peer.pump()
