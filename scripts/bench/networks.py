"""Payloads broadcast over networks of rate-limited links, beside the least time that their links allow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from harness import MIB, Aim, Case, Comparison, Result, Run, Settings, Side, interleave
from namespaces import Goodput, Network, network
from network_plans import PLANS, Plan, bounds
from network_sides import CHECK_INTERVAL, OURS, SIDES, Broadcast, Scene
from places import Payload, Place

COPIES = 3
"""How often a host has the payload at the most: an old client its shards, and two files while it joins
them."""


def compare(plan: Plan, settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    size = min(plan.size, settings.size)
    with network(plan.rates) as made:
        place = settings.places.roomy(COPIES * size * len(plan.rates))
        place.touch(COPIES * size * len(plan.rates))
        payload = place.payload(size)
        links = measured_links(made)
        sides = [
            Side(name, measured(broadcast, plan, made, payload, place=place))
            for name, broadcast in SIDES.items()
            if name == OURS or not plan.alone
        ]
        results = interleave(sides, settings.runs, warm_ups=0)
        place.drop_payload(size)
    allowed = bounds(plan, size, links)
    rows = [Result(name, [Run(seconds)] * settings.runs) for name, seconds in allowed.items()]
    sent = [f"{role} sent F" for role in ("origin", "middles", "clients")]
    columns = ["first", "median", "published", "middles list it", "after publishing", *sent]
    title = f"Network ({plan.key}): {plan.title}, {size // MIB} MiB"
    wanted_aims = aims(plan, results[0], allowed) if size == plan.size else []  # start-up weighs more in less
    table_notes = notes(plan, links)
    yield Comparison(
        title, rows + results, next(iter(allowed)), size, columns, aims=wanted_aims, notes=table_notes
    )


def aims(plan: Plan, ours: Result, allowed: Mapping[str, float]) -> list[Aim]:
    """Return the aims of ours: its time beside the bound of the roles, and the origins' sent bytes."""
    seconds, found = ours.median(), []
    if plan.most is not None:
        name, bound = list(allowed.items())[-1]
        ratio = None if seconds is None else seconds / bound
        found.append(Aim(f"ours, × {name} ({bound:.2f} s)", ratio, most=plan.most))
    if plan.sent_most is not None:
        found.append(Aim("ours: the origin sent, × F", ours.median("origin sent F"), most=plan.sent_most))
    return found


def notes(plan: Plan, links: Mapping[str, Goodput]) -> list[str]:
    """Return what a reader must know to judge the table."""
    if plan.middles:
        begins, ends = "broadcast()", "the last client has the file, verified"
    else:
        begins, ends = "download_version()", "the client has the file, verified"
    found = [f"seconds: from the call of {begins} until {ends}. Every node had a small version before."]
    if plan.middles:
        found.append("ours: middles and clients follow, and take the version while it is being published.")
        found.append("published: when broadcast() returned; after publishing: from then until the end.")
        found.append("Clients know only the middles, which they name in turn, and none serves.")
    if plan.middles and not plan.alone:
        looks = f"0.1.0: middles look every {CHECK_INTERVAL:g} s"
        found.append(f"{looks}, and clients begin when all of these list the version.")
    if not plan.alone:
        told = "aria2c and libtorrent have their file and torrent before"
        found.append(f"{told}, and are timed from being told to begin.")
    found.append(
        "first, median: when those clients have it. F: the payload's size; sent with headers, by the links."
    )
    by_rate = {rate: links[host] for host, rate in plan.rates.items() if rate is not None}
    if by_rate:
        each = (f"{rate:g}: {of.up * 8e-6:.1f} up, {of.down * 8e-6:.1f} down" for rate, of in by_rate.items())
        rates = "Goodput over these links in this run, Mbit/s, which the bounds reckon with"
        found.append(f"{rates}: {', '.join(each)}.")
    return found


def measured_links(made: Network) -> dict[str, Goodput]:
    """Return the goodput of each host's link, measured once for each rate."""
    by_rate: dict[float | None, Goodput] = {}
    for name, host in made.hosts.items():
        if host.rate not in by_rate:
            by_rate[host.rate] = made.goodput(name)
    return {name: by_rate[host.rate] for name, host in made.hosts.items()}


def measured(
    broadcast: Broadcast, plan: Plan, made: Network, payload: Payload, *, place: Place
) -> Callable[[], Run]:
    """Return a side's ``measure``."""
    sha256 = hashlib.sha256(payload.path.read_bytes()).hexdigest()

    def measure() -> Run:
        with place.folder("network") as folder:
            scene = Scene(plan, made, payload, sha256, folder)
            try:
                run = broadcast(scene)
                scene.check()
            finally:
                scene.close()
        return run

    return measure


CASES = tuple(
    Case(f"networks-{plan.key}", f"{plan.title}, {plan.size // MIB} MiB", partial(compare, plan), quick=False)
    for plan in PLANS
)
