"""Simulate a swarm: nodes that get a version from an origin and from each other.

    python scripts/simulate [--nodes 100] [--middles 2] [--sites 4] [--liars 0.05] [--without RULE…] [--each]

Every decision is made by the functions of shardcast/policy/swarm/ that real nodes use; links, messages and
accidents are simulated. Times are multiples of the fluid bound, which no way of sharing can stay below.
Exit codes: 0 every living node got everything, 1 one did not, 2 usage. docs/simulation.md has figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plots import plot
from results import HEADS, Results, results, row, text
from scenario import MEGABIT, SWITCHES, Scenario
from world import World

from shardcast.errors import UsageError
from shardcast.sizes import parse_size


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="simulate", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--nodes", type=int, default=100, metavar="N", help="clients (%(default)s)")
    add(
        "--middles",
        type=int,
        default=0,
        metavar="N",
        help="middles, which the clients know instead of the origin",
    )
    add("--size", default="128MiB", help="size of a version (%(default)s)")
    add("--range", default="0", metavar="SIZE", help="size of a range (what the policy takes for the links)")
    add("--rate", type=float, default=200, metavar="MBIT", help="Mbit/s of the servers' links (%(default)g)")
    add(
        "--rates",
        type=float,
        nargs=2,
        metavar=("MBIT", "MBIT"),
        help="Mbit/s of the slowest and the fastest client's link, the others between (--rate)",
    )
    add("--latency", type=float, default=1, metavar="MS", help="one way, within a site (%(default)g)")
    add("--far-latency", type=float, default=5, metavar="MS", help="one way, between sites (%(default)g)")
    add("--sites", type=int, default=1, metavar="N", help="sites; the servers are in the first (%(default)s)")
    add("--apart", action="store_true", help="no client is in the servers' site")
    add(
        "--border",
        type=float,
        default=50,
        metavar="MBIT",
        help="each site's link to the others (%(default)g)",
    )
    for name, what in (
        ("killed", "die half-way"),
        ("joining", "more come one by one"),
        ("liars", "send wrong bytes"),
        ("boasters", "offer everything and answer nothing"),
        ("stragglers", "have a tenth of their rate"),
    ):
        add(
            f"--{name}", type=float, default=0, metavar="SHARE", help=f"of the clients {what} (0.1 for 10 %%)"
        )
    add("--versions", type=int, default=1, metavar="N", help="versions, one after the other (%(default)s)")
    add("--every", type=float, default=0, metavar="SECONDS", help="between versions (%(default)g)")
    add("--written", type=float, default=0, metavar="MBIT", help="rate at which a version is made meanwhile")
    add("--seed", type=int, default=1, help="of all chance (%(default)s)")
    add("--runs", type=int, default=1, metavar="N", help="runs with seeds one after the other (%(default)s)")
    add(
        "--without",
        nargs="+",
        default=[],
        choices=SWITCHES,
        metavar="RULE",
        help=f"rules to switch off: {', '.join(SWITCHES)}",
    )
    add(
        "--each",
        action="store_true",
        help="with all rules, and without each of those of --without (or all), as a table",
    )
    add("--json", type=Path, metavar="FILE", help="write the results to FILE")
    add("--plot", type=Path, metavar="FILE", help="draw how many nodes are done when (matplotlib)")
    return parser


def scenario_of(options: argparse.Namespace) -> Scenario:
    """Return what the command line asks for."""
    slowest, fastest = options.rates or (options.rate, options.rate)
    return Scenario(
        nodes=options.nodes,
        middles=options.middles,
        size=parse_size(options.size),
        rate=options.rate * MEGABIT,
        slowest=slowest * MEGABIT,
        fastest=fastest * MEGABIT,
        latency=options.latency / 1e3,
        far_latency=options.far_latency / 1e3,
        sites=options.sites,
        apart=options.apart,
        border=options.border * MEGABIT,
        killed=options.killed,
        joining=options.joining,
        liars=options.liars,
        boasters=options.boasters,
        stragglers=options.stragglers,
        versions=options.versions,
        every=options.every,
        written=options.written * MEGABIT,
        piece=parse_size(options.range) if options.range != "0" else 0,
        seed=options.seed,
        without=frozenset() if options.each else frozenset(options.without),
    )


def simulate(scenario: Scenario) -> Results:
    """Run a scenario."""
    world = World(scenario)
    world.run()
    return results(world)


def cases(scenario: Scenario, options: argparse.Namespace) -> dict[str, Scenario]:
    """Return the scenarios to run, by name."""
    if not options.each:
        return {
            f"{scenario.nodes} nodes" if options.runs == 1 else f"seed {seed}": replace(scenario, seed=seed)
            for seed in range(options.seed, options.seed + options.runs)
        }
    named = {"all rules": scenario}
    for name in options.without or SWITCHES:
        named[f"`{name}` {SWITCHES[name][0]}"] = replace(scenario, without=frozenset({name}))
    return named


def main(words: Sequence[str] | None = None) -> int:
    """Simulate what the command line asks for; return the exit code."""
    parser = arguments()
    options = parser.parse_args(words)
    try:
        scenario = scenario_of(options)
    except UsageError as error:
        parser.error(str(error))
    if options.nodes < 1 or options.sites < 1 or options.middles < 0:
        parser.error("--nodes and --sites must be at least 1, --middles at least 0")
    found: dict[str, Results] = {}
    if options.each:
        print("| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    for name, case in cases(scenario, options).items():
        began = time.process_time()
        found[name] = simulate(case)
        if options.each:
            print(row(name, found[name]), flush=True)
        else:
            print(text(name, found[name]))
            print(
                f"  simulated in {time.process_time() - began:.0f} CPU seconds, "
                f"{found[name].events} events, {found[name].memory:.0f} MB",
                flush=True,
            )
    if options.json:
        named = {name: asdict(one) for name, one in found.items()}
        options.json.write_text(json.dumps({"scenario": repr(scenario), "results": named}, indent=1) + "\n")
    if options.plot:
        try:
            plot(found, options.plot)
        except ImportError:
            print("no plot: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
    return 1 if any(one.unfinished for one in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
