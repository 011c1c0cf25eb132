"""Clients that share over networks of rate-limited links, beside the least time that the links allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from harness import MIB, Aim, Case, Comparison, Result, Run, Settings, Side, interleave
from namespaces import Border, Goodput, Network, network
from network_plans import Plan, bounds, own_bounds, swarm, uneven_swarm
from network_sides import Broadcast, Scene, libtorrent
from networks import COPIES, measured_links
from places import Payload, Place
from swarm_sides import Course, check, loopback, sharing

OURS = "all share"
SMALL_SHARD = 4_000_000
WRITER_SHARE = 0.9
"""The part of a link's goodput at which a version is written."""
WRITER_SECONDS = 0.5
"""Seconds after the writer's end in which all clients are to have all, beside those of the last shard."""
COLUMNS = ("first", "median", "published", "from servers F", "origin sent F", "clients sent F")
COLUMNS_OF_SITES = ("into F", "back F", "into F, wire", "back F, wire")
COLUMNS_OF_NODES = ("after the writer", "client MB")

MakeCourse = Callable[[float], Course]
"""Returns how a broadcast goes, by the goodput of a client's link in bytes a second."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Sides to compare over one network.

    Attributes:
        key: the case's name after ``swarm-``.
        plan: the network.
        courses: how each side of ours goes, by name; the first is the undisturbed one.
        most: how many times the bound the first takes at the most; None for no aim.
        most_of_first: how many times the first's the others' seconds are at the most.
        torrent: how many times as fast as libtorrent the first is at the least; None to leave that out.
        border: the link between two sites.
        apart: whether each host has a subnet of its own, and so is a site.
    """

    key: str
    plan: Plan
    courses: dict[str, MakeCourse] = field(default_factory=lambda: {OURS: plainly})
    most: float | None = None
    most_of_first: float | None = None
    torrent: float | None = None
    border: Border | None = None
    apart: bool = False


def plainly(_goodput: float) -> Course:
    """Return the course of a run that nothing disturbs."""
    return Course()


def compare(experiment: Experiment, settings: Settings) -> Iterator[Comparison]:
    """Measure the sides of an experiment beside the bound."""
    plan, size = experiment.plan, min(experiment.plan.size, settings.size)
    with network(plan.rates, experiment.border, apart=experiment.apart) as made:
        place = settings.places.roomy(COPIES * size * len(plan.rates))
        place.touch(COPIES * size * len(plan.rates))
        payload = place.payload(size)
        links = measured_links(made)
        bound, border = bounds(plan, size, links)["bound: all serve"], None
        if experiment.border:
            border = made.border_goodput()
            bound = max(bound, size / border.down)
        goodput = links[plan.clients[0]].down
        sides = [
            Side(name, partial(measure, plan, made, payload, place, make(goodput)))
            for name, make in experiment.courses.items()
        ]
        if experiment.torrent:
            sides.append(Side("libtorrent", partial(measure_other, libtorrent, plan, made, payload, place)))
        results = interleave(sides, settings.runs, warm_ups=0)
        place.drop_payload(size)
    own = own_bounds(plan, size, links)
    rows = [Result("bound", [Run(bound)] * settings.runs)]
    title = f"Swarm ({experiment.key}): {plan.title}, {size // MIB} MiB"
    yield Comparison(
        title,
        rows + results,
        "bound",
        size,
        [*COLUMNS, *(COLUMNS_OF_SITES if experiment.border else ()), *COLUMNS_OF_NODES],
        aims=[*aims(experiment, results, bound, own), *writer_aims(results[0], size, goodput)],
        notes=[
            "seconds: from the call of broadcast() until the last client has the file, verified.",
            "from servers F: bytes of pieces that came to clients from origin or middles, in payloads.",
            *(_border_notes(border) if border else ()),
        ],
    )


def _border_notes(border: Goodput) -> list[str]:
    """Return what a reader must know of a border."""
    ways = f"{border.down * 8e-6:.1f} Mbit/s into the part beyond it, {border.up * 8e-6:.1f} out of it"
    return [
        f"goodput over the border in this run, which the bound reckons with: {ways}.",
        "into F, back F: bytes of pieces over the border, in payloads; wire: all bytes, heads included.",
    ]


def aims(experiment: Experiment, results: Sequence[Result], bound: float, own: dict[str, float]) -> list[Aim]:
    """Return the aims of an experiment, and what came of them."""
    first, found = results[0], list[Aim]()
    seconds = first.median()
    if experiment.most is not None and len(set(own.values())) == 1:
        value = None if seconds is None else seconds / bound
        found.append(Aim(f"last client, × bound ({bound:.2f} s)", value, most=experiment.most))
    elif experiment.most is not None:
        each = [(first.median(f"{host} s"), limit) for host, limit in own.items()]
        worst = None if None in [had for had, _ in each] else max((had or 0.0) / limit for had, limit in each)
        found.append(Aim("the worst client, × its own bound", worst, most=experiment.most))
    if experiment.plan.middles == [] and experiment.most is not None:
        found.append(Aim("bodies from the origin, × F", first.median("from servers F"), most=1.03))
    if experiment.border:
        found.append(Aim("pieces over the border, × F", first.median("into F"), most=1.1))
        found.append(Aim("pieces back over the border, × F", first.median("back F"), most=1.1))
    for other in results[1:]:
        had = other.median()
        times = None if had is None or seconds is None else had / seconds
        if other.name == "libtorrent":
            found.append(Aim("as fast as libtorrent, times", times, least=experiment.torrent))
        elif experiment.most_of_first is not None:
            found.append(Aim(f"{other.name}, × {first.name}", times, most=experiment.most_of_first))
    return found


def writer_aims(first: Result, size: int, goodput: float) -> list[Aim]:
    """Return the aim of a version that is written while it is broadcast; none where it was a file.

    Args:
        first: the result.
        size: bytes of the payload.
        goodput: of a client's link, in bytes a second.
    """
    value = first.median("after the writer")
    if value is None:
        return []
    last = size % SMALL_SHARD or SMALL_SHARD
    return [Aim("seconds after the writer", value, most=WRITER_SECONDS + last / goodput)]


def measure(plan: Plan, made: Network, payload: Payload, place: Place, course: Course) -> Run:
    """Run ours once."""
    with place.folder("network") as folder:
        scene = Scene(plan, made, payload, payload.sha256, folder)
        try:
            run = sharing(scene, course)
            check(scene, course)
        finally:
            scene.close()
    return run


def measure_other(broadcast: Broadcast, plan: Plan, made: Network, payload: Payload, place: Place) -> Run:
    """Run another side once."""
    with place.folder("network") as folder:
        scene = Scene(plan, made, payload, payload.sha256, folder)
        try:
            run = broadcast(scene)
            scene.check()
        finally:
            scene.close()
    return run


def compare_loopback(settings: Settings) -> Iterator[Comparison]:
    """Measure clients on this machine with and without sharing."""
    place = settings.places.roomy(6 * settings.size)
    place.touch(6 * settings.size)
    payload = place.payload(settings.size)
    sides = [
        Side(f"{count} clients, {words}", partial(loopback, place, payload, count, share=share))
        for count in (1, 4)
        for words, share in (("not sharing", False), ("--share", True))
    ]
    results = interleave(sides, settings.runs, warm_ups=1)
    found = []
    for alone, shared in zip(results[::2], results[1::2], strict=True):
        before, after = alone.median(), shared.median()
        value = None if before is None or after is None else after / before
        found.append(Aim(f"{shared.name}, × not sharing", value, most=1.05))
        found.append(Aim(f"{shared.name}: client MB", shared.median("client MB"), most=120))
    yield Comparison(
        "Swarm (loopback): one origin, no limits",
        results,
        results[0].name,
        settings.size,
        ["client MB"],
        aims=found,
    )


def killed(_goodput: float) -> Course:
    """Return the course in which two clients are killed half-way."""
    return Course(killed=("client7", "client8"))


def with_liar(_goodput: float) -> Course:
    """Return the course in which one client sends wrong bytes."""
    return Course(liars=("client8",))


def unreachable(_goodput: float) -> Course:
    """Return the course in which three clients listen where no other host reaches them."""
    hidden = dict.fromkeys(("client6", "client7", "client8"), ("--share-host", "127.0.0.1"))
    return Course(options=hidden)


def small_shards(_goodput: float) -> Course:
    """Return the course of a version in small shards."""
    return Course(shard_size=SMALL_SHARD)


def written(goodput: float) -> Course:
    """Return the course of a version that is broadcast while it is written."""
    return Course(shard_size=SMALL_SHARD, rate=WRITER_SHARE * goodput)


BEYOND = ("client5", "client6", "client7", "client8")


def experiments() -> Iterator[Experiment]:
    """Yield all experiments over networks."""
    for rate in (200.0, 100.0, 20.0):
        most = 1.12 if rate == 200.0 else 1.10
        yield Experiment(f"tree-{rate:g}", swarm(rate), most=most, torrent=1.55)
        yield Experiment(f"flat-{rate:g}", swarm(rate, middles=0), most=1.15, torrent=1.55)
    for name, rate in {"uneven": 200.0, "uneven-100": 100.0}.items():
        yield Experiment(name, uneven_swarm(rate), most=1.3)
    trouble: dict[str, tuple[MakeCourse, float]] = {
        "killed": (killed, 1.2),
        "liar": (with_liar, 1.25),
        "unreachable": (unreachable, 1.2),
    }
    for name, (course, most) in trouble.items():
        courses: dict[str, MakeCourse] = {"undisturbed": plainly, name: course}
        yield Experiment(name, swarm(100.0, middles=0), courses, most_of_first=most)
    shards: dict[str, MakeCourse] = {"shards of 50 MB": plainly, "shards of 4 MB": small_shards}
    yield Experiment("shards", swarm(100.0, middles=0), shards, most_of_first=1.1)
    yield Experiment("writer", swarm(100.0, middles=0), {"while it is written": written})
    border = Border(frozenset(BEYOND), 50.0)
    yield Experiment("subnets", swarm(100.0, middles=0), {"each its own site": plainly}, apart=True)
    yield Experiment("sites", swarm(200.0), {"two sites": plainly}, most=1.15, border=border)


CASES = (
    *(
        Case(
            f"swarm-{one.key}",
            f"{one.plan.title}, all sharing ({', '.join(one.courses)})",
            partial(compare, one),
            quick=False,
        )
        for one in experiments()
    ),
    Case("swarm-loopback", "clients with --share and without, no limits", compare_loopback, quick=False),
)
