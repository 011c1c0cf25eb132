"""The networks that are measured, and the least time that their links allow. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness import MIB
from namespaces import Goodput


@dataclass(frozen=True, slots=True)
class Plan:
    """A network to measure.

    Attributes:
        key: its letter.
        title: what it is, in words.
        size: bytes of the payload.
        rates: its hosts, and the Mbit/s of each one's link, both ways; None for one that isn't shaped.
        takes: whom the hosts that receive take it from, as the roles of shardcast have it. 0.1.0 begins with
            the first, so the clients have the middles in turn, and a single client the fastest server first.
        most: how many times the bound ours is to take at the most.
        sent_most: how many payloads the origins are to send at the most.
        alone: whether only ours is measured.
    """

    key: str
    title: str
    size: int
    rates: Mapping[str, float | None]
    takes: Mapping[str, tuple[str, ...]]
    most: float | None = None
    sent_most: float | None = None
    alone: bool = False

    @property
    def origins(self) -> list[str]:
        """Hosts that have the payload at the start."""
        return [host for host in self.rates if host not in self.takes]

    @property
    def middles(self) -> list[str]:
        """Hosts that receive the payload and serve it."""
        serving = {server for servers in self.takes.values() for server in servers}
        return [host for host in self.takes if host in serving]

    @property
    def clients(self) -> list[str]:
        """Hosts that only receive the payload."""
        return [host for host in self.takes if host not in self.middles]


def tree() -> Plan:
    """Return the plan of an origin, middles below it and clients below those."""
    takes = two_levels(("middle1", "middle2"), [f"client{n}" for n in range(1, 9)])
    rates = dict.fromkeys(["origin", *takes], 200.0)
    title = "origin, 2 middles, 8 clients, 200 Mbit/s each"
    return Plan("a", title, 128 * MIB, rates, takes, most=1.08, sent_most=2.05)


def two_levels(middles: tuple[str, ...], clients: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return who receives from whom, with the clients spread over the middles."""
    in_turn = itertools.cycle((middles, middles[::-1]))
    below = dict(zip(clients, in_turn, strict=False))
    return {**dict.fromkeys(middles, ("origin",)), **below}


def chain() -> Plan:
    """Return the plan of an origin, four middles in a row and a client."""
    hosts = ["origin", *(f"middle{n}" for n in range(1, 5)), "client"]
    takes = {lower: (upper,) for upper, lower in itertools.pairwise(hosts)}
    title = "origin, a chain of 4 middles, 1 client, 200 Mbit/s each"
    return Plan("b", title, 128 * MIB, dict.fromkeys(hosts, 200.0), takes, most=1.08)


def uneven_tree() -> Plan:
    """Return the plan of a tree whose links have several rates."""
    middles = {"middle400": 400.0, "middle100": 100.0}
    clients = {f"client{rate}": float(rate) for rate in range(50, 401, 50)}
    takes = two_levels(tuple(middles), clients)
    title = "origin at 400 Mbit/s, middles at 400 and 100, 8 clients at 50 to 400"
    return Plan("c", title, 128 * MIB, {"origin": 400.0, **middles, **clients}, takes)


def unequal_servers() -> Plan:
    """Return the plan of one client at servers with several rates."""
    servers = {"server400": 400.0, "server100": 100.0, "server10": 10.0}
    title = "one client, three servers at 400, 100 and 10 Mbit/s"
    return Plan("d", title, 512 * MIB, {**servers, "client": None}, {"client": tuple(servers)}, most=1.15)


def crowd() -> Plan:
    """Return the plan of an origin, two middles and 24 clients over links without limits."""
    takes = two_levels(("middle1", "middle2"), [f"client{n}" for n in range(1, 25)])
    rates = dict.fromkeys(["origin", *takes])
    title = "origin, 2 middles, 24 clients, links that are not shaped"
    return Plan("e", title, 64 * MIB, rates, takes, sent_most=2.05, alone=True)


def swarm(rate: float, *, size: int = 128 * MIB, middles: int = 2, clients: int = 8) -> Plan:
    """Return the plan of clients that share, behind middles or at the origin itself."""
    names = [f"client{n}" for n in range(1, clients + 1)]
    servers = tuple(f"middle{n}" for n in range(1, middles + 1))
    takes = two_levels(servers, names) if servers else dict.fromkeys(names, ("origin",))
    title = f"origin, {f'{middles} middles, ' if middles else ''}{clients} clients, {rate:g} Mbit/s each"
    return Plan("swarm", title, size, dict.fromkeys(["origin", *takes], rate), takes)


def uneven_swarm(rate: float) -> Plan:
    """Return the plan of clients that share, whose links have from a quarter of a rate to twice that rate."""
    even = swarm(rate)
    rates = {f"client{n}": n * rate / 4 for n in range(1, 9)}
    title = f"origin and 2 middles at {rate:g} Mbit/s, 8 clients at {rate / 4:g} to {2 * rate:g}"
    return Plan("swarm", title, even.size, {**even.rates, **rates}, even.takes)


PLANS = (tree(), chain(), uneven_tree(), unequal_servers(), crowd())


# ── What the links allow ──────────────────────────────────────────────────────────────────────────


def fluid_bound(size: int, origin: float, downloads: Sequence[float], uploads: Sequence[float]) -> float:
    """The least seconds until the last of those that receive has ``size`` bytes, whoever sends to whom.

    Args:
        size: bytes of the payload, F.
        origin: upload of those that have it at the start, bytes a second, U_origin.
        downloads: of each of the N that receive it; the least is d_min.
        uploads: U_i of those of them that serve it on.
    """
    return max(size / origin, size / min(downloads), len(downloads) * size / (origin + sum(uploads)))


def own_bounds(plan: Plan, size: int, links: Mapping[str, Goodput]) -> dict[str, float]:
    """Return the least seconds of each client, which its own link may make longer than those of others."""
    origin = sum(links[host].up for host in plan.origins)
    total = origin + sum(links[host].up for host in plan.takes)
    shared = max(size / origin, len(plan.takes) * size / total)
    return {host: max(shared, size / links[host].down) for host in plan.clients}


def roles_bound(size: int, takes: Mapping[str, tuple[str, ...]], links: Mapping[str, Goodput]) -> float:
    """Return the least seconds where each host receives only from the servers that it is given.

    They send it to each of those whose only servers they are.
    """
    slowest = max(size / links[host].down for host in takes)
    groups = Counter(frozenset(servers) for servers in takes.values())
    return max(slowest, *(n * size / sum(links[one].up for one in group) for group, n in groups.items()))


def bounds(plan: Plan, size: int, links: Mapping[str, Goodput]) -> dict[str, float]:
    """Return the bounds of a network by name, the least first."""
    origin = sum(links[host].up for host in plan.origins)
    downloads = [links[host].down for host in plan.takes]
    everyone = fluid_bound(size, origin, downloads, [links[host].up for host in plan.takes])
    found = {"bound: all serve": everyone}
    if plan.middles:
        found["bound: only middles serve"] = roles_bound(size, plan.takes, links)
    return found
