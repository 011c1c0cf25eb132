"""What a simulation came to: times against the bound, bytes, messages, memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from statistics import mean, median

from peers import Peer
from world import World


@dataclass(frozen=True)
class Results:
    """What a simulation came to.

    Attributes:
        bound: seconds that no way of sharing could stay below.
        finished: nodes that got a version, over all versions.
        unfinished: nodes that live and got none of a version that they had begun.
        median: the median node's time, as a multiple of the bound.
        p99: the time that 99 of 100 nodes stay below, as a multiple of the bound.
        last: the last node's time, as a multiple of the bound.
        worst: the worst node's time, as a multiple of its own bound.
        origin: bytes that the origin sent, as a multiple of a version's.
        into: bytes that crossed into each site but the origin's, as multiples of a version's; the most.
        home: bytes that crossed into the origin's own site.
        requests: requests a node to neighbours.
        nexts: requests a node for a server's next range.
        refusals: refusals a node.
        haves: batches of haves that a node told a neighbour.
        cancelled: requests a node that were given up.
        wrong: ranges a node whose bytes were wrong.
        neighbours: neighbours a node.
        kilobytes: of the rules' memory a node, on the average.
        events: events of the simulation.
        memory: megabytes of the simulation.
        times: each node's time, as a multiple of the bound.
    """

    bound: float
    finished: int
    unfinished: int
    median: float
    p99: float
    last: float
    worst: float
    origin: float
    into: float
    home: float
    requests: float
    nexts: float
    refusals: float
    haves: float
    cancelled: float
    wrong: float
    neighbours: float
    kilobytes: float
    events: int
    memory: float
    times: tuple[float, ...] = ()


def results(world: World) -> Results:
    """Return what a simulation came to."""
    bound = world.bound
    peers = [peer for swarm in world.swarms for peer in swarm.peers]
    done = [peer for peer in peers if peer.done_at is not None and peer.host.alive]
    times = sorted(_seconds(peer) / bound for peer in done) or [float("nan")]
    size = world.scenario.size
    crossed = [site.inwards.carried / size for site in world.sites]
    sample = peers[:: max(1, len(peers) // 200)]
    return Results(
        bound=bound,
        finished=len(done),
        unfinished=sum(peer.done_at is None and peer.host.alive for peer in peers),
        median=median(times),
        p99=times[int(len(times) * 0.99)],
        last=times[-1],
        worst=max((_seconds(peer) / world.bound_of(peer.host) for peer in done), default=float("nan")),
        origin=world.origin.uplink.sent / size,
        into=max(crossed[1:], default=0.0),
        home=crossed[0] if crossed else 0.0,
        requests=mean(peer.counts.requests for peer in peers),
        nexts=mean(peer.counts.nexts for peer in peers),
        refusals=mean(peer.counts.refusals for peer in peers),
        haves=mean(peer.counts.haves for peer in peers),
        cancelled=mean(peer.counts.cancelled for peer in peers),
        wrong=mean(peer.counts.wrong for peer in peers),
        neighbours=mean(len(peer.neighbours) for peer in peers),
        kilobytes=mean(_policy_bytes(peer) for peer in sample) / 1e3,
        events=world.agenda.events,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        times=tuple(times),
    )


def _seconds(peer: Peer) -> float:
    """Return how long a node took."""
    assert peer.done_at is not None
    return peer.done_at - peer.began_at


def _policy_bytes(peer: Peer) -> int:
    """Return the bytes of memory that the rules take at a node."""
    seen: set[int] = set()

    def size(thing: object) -> int:
        if id(thing) in seen or isinstance(thing, (Peer, type)) or callable(thing):
            return 0
        seen.add(id(thing))
        total = sys.getsizeof(thing)
        if isinstance(thing, dict):
            return total + sum(size(key) + size(value) for key, value in thing.items())
        if isinstance(thing, (list, tuple, set)):
            return total + sum(map(size, thing))
        names = [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ())]
        if type(thing).__module__.startswith("shardcast"):
            total += sum(size(getattr(thing, name)) for name in names)
        return total

    return size(peer.chooser)


def text(name: str, found: Results) -> str:
    """Return results as lines of text."""
    into = f"; into a site {found.into:.3f} F, into its own {found.home:.3f} F" if found.into else ""
    return (
        f"{name}: {found.finished} nodes done{f', {found.unfinished} NOT' if found.unfinished else ''}\n"
        f"  bound {found.bound:.2f} s; median {found.median:.3f} ×, p99 {found.p99:.3f} ×,"
        f" last {found.last:.3f} ×; worst by its own bound {found.worst:.3f} ×\n"
        f"  the origin sent {found.origin:.3f} F{into}\n"
        f"  a node: {found.requests:.0f} requests, {found.nexts:.0f} for a server's next range,"
        f" {found.refusals:.0f} refusals, {found.haves:.0f} batches of haves,"
        f" {found.cancelled:.1f} cancelled, {found.wrong:.1f} wrong;"
        f" {found.neighbours:.1f} neighbours, {found.kilobytes:.0f} kB of rules"
    )


HEADS = ("", "median", "p99", "last", "origin", "into a site", "requests", "refusals", "wrong")


def row(name: str, found: Results) -> str:
    """Return results as a row of a Markdown table with ``HEADS``."""
    late = "" if not found.unfinished else f" ({found.unfinished} never)"
    cells = [
        name,
        f"{found.median:.3f}",
        f"{found.p99:.3f}",
        f"{found.last:.3f}{late}",
        f"{found.origin:.2f} F",
        f"{found.into:.2f} F" if found.into else "",
        f"{found.requests + found.nexts:.0f}",
        f"{found.refusals:.0f}",
        f"{found.wrong:.1f}" if found.wrong else "",
    ]
    return "| " + " | ".join(cells) + " |"
