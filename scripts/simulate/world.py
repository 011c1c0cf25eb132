"""The world of a scenario: its hosts, the swarm of each version, and what happens to them."""

from __future__ import annotations

import gc
from random import Random

from agenda import Agenda
from hosts import Host, Site, Ways
from links import Pipe
from peers import Peer
from scenario import Scenario
from swarm import Swarm

STRAGGLER = 0.1
"""A straggler's rate, as a share of its link's."""
LONGEST = 40.0
"""Bounds of time after which a simulation is given up."""


class World:
    """Everything there is.

    Attributes:
        scenario: what is simulated.
        agenda: what happens when.
        swarms: the swarm of each version.
        clients: the clients' hosts.
        origin: the origin's host.
        sites: the sites; none in a world with one.
        last_asks: the origin's requests a second, for each second.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.agenda = Agenda()
        self.swarms: list[Swarm] = []
        self._random = Random(scenario.seed)
        self._rules = scenario.rules
        self._ways = Ways(scenario.latency, scenario.far_latency if scenario.sites > 1 else scenario.latency)
        self.sites = [
            Site(f"site {number}", Pipe(scenario.border), Pipe(scenario.border))
            for number in range(scenario.sites if scenario.sites > 1 else 0)
        ]
        home = self.sites[0] if self.sites else None
        self.origin = self._host(scenario.rate, home)
        self.middles = [self._host(scenario.rate, home) for _ in range(scenario.middles)]
        self.clients = [self._client(number) for number in range(scenario.nodes)]
        self._ail()
        self._free: set[Host] = set()
        self._joining = 0
        self._bound_of_all = 0.0
        self._add_up()

    def _host(self, rate: float, site: Site | None) -> Host:
        """Return a machine."""
        host = Host(self.agenda, self._ways, self._rules, up=rate, down=rate, site=site)
        if "sites" in self.scenario.without:
            host.site_name = None
        return host

    def _client(self, number: int) -> Host:
        """Return the machine of a client."""
        sites = self.sites[1:] if self.scenario.apart else self.sites
        site = sites[number * len(sites) // self.scenario.nodes % len(sites)] if sites else None
        return self._host(self._random.uniform(self.scenario.slowest, self.scenario.fastest), site)

    def _ail(self) -> None:
        """Choose the clients that lie, boast and straggle: each at most one of it."""
        scenario, order = self.scenario, self._random.sample(self.clients, len(self.clients))
        for share, ail in (
            (scenario.liars, _lie),
            (scenario.boasters, _boast),
            (scenario.stragglers, _straggle),
        ):
            for _ in range(round(share * len(self.clients))):
                ail(order.pop())
        self._doomed = order[: round(scenario.killed * len(self.clients))]

    def _add_up(self) -> None:
        """Note the seconds that all links together take; once, since it takes a look at each."""
        receivers, size = self.middles + self.clients, self.scenario.size
        upload = sum(host.uplink.rate for host in receivers) + self.origin.uplink.rate
        self._bound_of_all = max(size / self.origin.uplink.rate, len(receivers) * size / upload)

    @property
    def bound(self) -> float:
        """The seconds that no way of sharing could stay below, for the last node."""
        return max(map(self.bound_of, self.clients))

    def bound_of(self, client: Host) -> float:
        """Return the seconds that no way of sharing could stay below for one client."""
        scenario, size = self.scenario, self.scenario.size
        bounds = [self._bound_of_all, size / client.downlink.rate]
        if client.site is not None and client.site is not self.sites[0]:
            bounds.append(size / scenario.border)
        if scenario.written:
            bounds.append(size / scenario.written)
        return max(bounds)

    def run(self) -> None:
        """Let it all happen."""
        scenario = self.scenario
        for number in range(scenario.versions):
            self.agenda.at(number * scenario.every, self._publish)
        for host in self._doomed:
            self.agenda.at(self.bound * scenario.killed_at, self._kill, host)
        coming = round(scenario.joining * scenario.nodes)
        self._joining = coming
        for _ in range(coming):
            self.agenda.at(self._random.random() * self.bound, self._come)
        gc.disable()  # requests leave no cycles; a look at ten thousand nodes takes a second each time
        try:
            self.agenda.run(LONGEST * self.bound + scenario.versions * scenario.every)
        finally:
            gc.enable()

    def _end_if_done(self) -> None:
        """End once everyone has everything; to be asked whenever a node is done, dies or comes."""
        published = len(self.swarms) == self.scenario.versions
        unfinished = any(swarm.unfinished for swarm in self.swarms)
        self.agenda.ended = published and not self._joining and not unfinished

    def _publish(self, _: object) -> None:
        """Publish a version."""
        scenario = self.scenario
        swarm = Swarm(self.agenda, self._rules, self._random, sizes=scenario.sizes, origin=self.origin)
        swarm.bans = "bans" not in scenario.without
        swarm.settled = "places" in scenario.without
        swarm.hands_out = "handout" not in scenario.without
        swarm.opened, swarm.accepted = scenario.degree
        swarm.on_finished = self._go_on
        first = not self.swarms
        self.swarms.append(swarm)
        if scenario.written:
            self._write(swarm)
        if self.middles:
            swarm.add_middles(self.middles, scenario.rules_of(scenario.middles))
        for host in self.clients if first else [host for host in self.clients if host in self._free]:
            swarm.add(host, expected=scenario.nodes)
        self._free.clear()
        swarm.introduce_all()

    def _write(self, swarm: Swarm) -> None:
        """Let a version be made while it is read."""
        scenario = self.scenario
        swarm.begin_empty()
        step = max(1, scenario.shard // scenario.range_size)
        total = len(scenario.sizes)
        for count in range(step, total + step, step):
            done = min(count, total)
            self.agenda.at(self.agenda.now + done * scenario.range_size / scenario.written, swarm.grow, done)

    def _go_on(self, peer: Peer) -> None:
        """Let a node that has a version go on with the newest, where that is another one."""
        if peer.ledger is None and peer.swarm is self.swarms[-1]:
            self._free.add(peer.host)
        elif peer.ledger is None and peer.host.alive:
            self.swarms[-1].add(peer.host, expected=self.scenario.nodes)
        self._end_if_done()

    def _kill(self, host: Host) -> None:
        """Let a client die."""
        for swarm in self.swarms:
            for peer in swarm.peers:
                if peer.host is host and host.alive:
                    swarm.kill(peer)
        self._end_if_done()

    def _come(self, _: object) -> None:
        """Let a client come late."""
        self._joining -= 1
        host = self._client(self._random.randrange(self.scenario.nodes))
        self.clients.append(host)
        self._add_up()
        self.swarms[-1].add(host, expected=len(self.clients))


def _lie(host: Host) -> None:
    """Let a host send wrong bytes."""
    host.lies = True


def _boast(host: Host) -> None:
    """Let a host offer everything and answer nothing."""
    host.boasts = True


def _straggle(host: Host) -> None:
    """Let a host have a slow link."""
    host.uplink.rate *= STRAGGLER
    host.downlink.rate *= STRAGGLER
