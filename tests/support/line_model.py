"""A network of origins, middles and liars without sockets: the rules of lines under a clock of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from random import Random

from shardcast.policy.authority import ServerView
from shardcast.policy.line_tracker import LineTracker
from shardcast.policy.standing import LineMemory, Standing
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import Hello, Position

TICK = 0.5
"""Seconds between two looks of each node."""


def listing(number: int, content: str) -> Listing:
    """Return a listing of a version whose payload is given by ``content``."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Listing(f"v{number}", digest, 1, hashlib.sha256(b"manifest" + digest.encode()).hexdigest())


@dataclass
class Server:
    """A server of the model.

    Attributes:
        name: its URL.
        alive: whether it answers.
        run: number of its starts and of the connections that were made anew.
    """

    name: str
    alive: bool = True
    run: int = 1

    def view(self) -> ServerView:
        """Return what a node below sees."""
        raise NotImplementedError


@dataclass
class Origin(Server):
    """A publisher and its data directory."""

    origin: str = ""
    keep: int = 5
    next: int = 1
    versions: dict[int, Listing] = field(default_factory=dict)
    withdrawn: dict[int, Withdrawal] = field(default_factory=dict)
    feed: bool = True

    def publish(self) -> Listing:
        """Publish the next version; its content names the directory, so that copies differ."""
        published = listing(self.next, f"{self.name} {self.origin} {self.next} {self.run}")
        self.versions[self.next] = published
        self.next += 1
        for number in sorted(self.versions)[: -self.keep]:
            del self.versions[number]
        return published

    def withdraw(self, number: int) -> None:
        """Withdraw a version."""
        retired = self.versions.pop(number)
        self.withdrawn[number] = Withdrawal(retired.version, retired.digest, "bad")

    def begin_anew(self, origin: str) -> None:
        """Start on a fresh data directory."""
        self.origin, self.next, self.versions, self.withdrawn = origin, 1, {}, {}
        self.run += 1

    def restore(self, number: int) -> None:
        """Restore the data directory as it was after version ``number``."""
        self.versions = {n: version for n, version in self.versions.items() if n <= number}
        self.next = number + 1
        self.run += 1

    def view(self) -> ServerView:
        """Return the listed versions and a hello without a chain."""
        hello = Hello(
            "feed", self.name.removeprefix("http://"), self.origin, 0, True, (), False, self.next - 1
        )
        return ServerView(
            self.name, self.alive, not self.alive, None, hello if self.feed else None, self.run,
            dict(self.versions), {}, frozenset(), dict(self.withdrawn),
        )  # fmt: skip


@dataclass
class Liar(Server):
    """A server whose versions and hello the test invents."""

    origin: str | None = None
    chain: tuple[str, ...] | None = ()
    versions: dict[int, Listing] = field(default_factory=dict)
    withdrawn: dict[int, Withdrawal] = field(default_factory=dict)
    highest: int = 0

    def view(self) -> ServerView:
        """Return the invented versions and hello."""
        hello = Hello("feed", "liar", self.origin, 0, True, self.chain, False, self.highest)
        return ServerView(
            self.name, self.alive, not self.alive, None, hello, self.run,
            dict(self.versions), {}, frozenset(), dict(self.withdrawn),
        )  # fmt: skip


@dataclass
class Node(Server):
    """A middle that fetches at once what its servers have.

    Attributes:
        upstreams: names of its servers, in order.
        keep: number of versions that it keeps.
        local: versions that it has and lists, by number.
        put_aside: versions of lines that it left.
        standing: its conclusions at the last look.
        changes: origin ids of the lines that it changed over to.
    """

    upstreams: tuple[str, ...] = ()
    keep: int = 5
    seed: int = 0
    memory: LineMemory = field(default_factory=LineMemory)
    local: dict[int, Listing] = field(default_factory=dict)
    put_aside: list[Listing] = field(default_factory=list)
    standing: Standing | None = None
    changes: list[str | None] = field(default_factory=list)
    tracker: LineTracker | None = None
    last_heard: dict[str, float] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)

    @property
    def node_id(self) -> str:
        """Node id, as its hello has it."""
        return self.name.removeprefix("http://")

    def start(self, now: float) -> None:
        """Start, or start again with only what is on the disk."""
        self.alive, self.standing = True, None
        self.run += 1
        self.last_heard = {}
        self.tracker = LineTracker(self.node_id, self.memory, now, Random(self.seed + self.run))

    def view(self) -> ServerView:
        """Return the versions and the hello that the node sends to those below."""
        standing = self.standing
        place = standing.place if standing else Position(self.memory.origin, silent=True)
        firm = standing.firm if standing else frozenset[int]()
        place = replace(place, silent=place.silent or not self.provisional <= firm)
        hello = place.hello("feed", self.node_id, True)
        known = standing.listed if standing and self.alive else {}
        return ServerView(
            self.name, self.alive and standing is not None, not self.alive, None, hello, self.run,
            dict(self.local), {n: version for n, version in known.items() if n not in self.local},
            frozenset(), dict(self.memory.withdrawn),
        )  # fmt: skip

    @property
    def provisional(self) -> set[int]:
        """Numbers of the versions whose digest no authority has confirmed."""
        return {n for n, version in self.local.items() if self.memory.digests.get(n) != version.digest}

    def look(self, now: float, servers: dict[str, Server]) -> None:
        """Look at the servers, and do what a middle does then."""
        assert self.tracker
        views = []
        for name in self.upstreams:
            seen = servers[name].view()
            if seen.list_known:
                self.last_heard[name] = now
            reading = seen.reading * 1000 + self.connections.get(name, 0)
            views.append(
                ServerView(
                    name,
                    seen.list_known,
                    seen.failed,
                    self.last_heard.get(name),
                    seen.hello,
                    reading,
                    seen.complete,
                    seen.known,
                    seen.opened,
                    seen.withdrawn,
                )
            )
        standing = self.standing = self.tracker.look(now, views)
        if standing.confirm:
            self.connections[standing.confirm] = self.connections.get(standing.confirm, 0) + 1
        if standing.change:
            self._change_over(now)
            return
        self.memory.remember(standing)
        for number, withdrawal in standing.withdrawals.items():
            if number in self.local and self.local[number].digest == withdrawal.digest:
                del self.local[number]
        for number in self.provisional:
            counts = standing.listed.get(number)
            if (counts and counts.digest != self.local[number].digest) or (not counts and standing.settled):
                del self.local[number]
        for number in sorted(standing.listed)[-self.keep :]:
            servers_having = standing.group.complete.get(number, ())
            if number not in self.local and any(name != self.name for name in servers_having):
                self.local[number] = standing.listed[number]
        for kind in (set(self.local) - self.provisional, self.provisional):
            for number in sorted(kind)[: -self.keep]:
                del self.local[number]

    def _change_over(self, now: float) -> None:
        """Change over to another line, and put the versions of the old one aside."""
        assert self.tracker and self.standing and self.standing.change
        change, left = self.standing.change, self.memory.origin
        stays = {
            n: version for n, version in self.local.items()
            if change.origin == left and n in change.listed and change.listed[n].digest == version.digest
        }  # fmt: skip
        self.put_aside += [version for n, version in self.local.items() if n not in stays]
        self.local = stays
        self.memory.change(change)
        self.tracker.change_line(now, left)
        self.changes.append(change.origin)


class Network:
    """All servers of a model, and its clock."""

    def __init__(self, *servers: Server) -> None:
        self.now = 1000.0
        self.servers = {server.name: server for server in servers}
        for server in servers:
            if isinstance(server, Node):
                server.start(self.now)

    @property
    def nodes(self) -> list[Node]:
        """The middles."""
        return [server for server in self.servers.values() if isinstance(server, Node)]

    def run(self, seconds: float) -> None:
        """Let time pass; each node looks at its servers twice a second."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            for node in self.nodes:
                if node.alive:
                    node.look(self.now, self.servers)
