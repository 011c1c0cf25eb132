"""Measure shardcast beside its peers.

    python scripts/bench [CASE…] [--full] [--runs 5] [--size 1GiB] [--json FILE] [--plots DIR] [--list]

Without CASE those of the quick run, with --full all. A table is printed when it is ready. Exit codes: 0 done,
1 a side failed (wrong bytes, say), 2 usage, 130 interrupted. What it misses it skips, and says so;
`scripts/peers install --bench` gets the peers. docs/performance.md tells how to read the tables.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import backups
import carriers
import elsewhere
import folder_downloads
import folders
import followers
import followers_nginx
import growth
import latency
import limits
import loopback
import loops
import networks
import peers
import publish
import report
import stall
import startup
import store_blobs
import stream
import swarm
import tls
import tokens
import trainer
from harness import MIB, Case, Comparison, Settings, Skipped
from places import DISK, Places, places

from shardcast.errors import UsageError
from shardcast.sizes import parse_size

LEAST = MIB

CASES = {
    case.name: case
    for case in (
        loopback.CASE,
        publish.CASE,
        folders.CASE,
        folder_downloads.CASE,
        latency.CASE,
        stream.CASE,
        elsewhere.CASE,
        followers.CASE,
        followers_nginx.CASE,
        startup.CASE,
        growth.CASE,
        stall.CASE,
        tokens.CASE,
        limits.CASE,
        carriers.CASE,
        trainer.CASE,
        loops.CASE,
        tls.CASE,
        backups.CASE,
        *networks.CASES,
        *swarm.CASES,
        *store_blobs.CASES,
    )
}


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure shardcast beside its peers.")
    quick = ", ".join(case.name for case in CASES.values() if case.quick)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{quick}; all with --full")
    parser.add_argument("--full", action="store_true", help="every case, and more of each")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side, after a warm-up (5)")
    parser.add_argument("--size", default="1GiB", help="bytes of the payload (1GiB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw plots there (needs matplotlib)")
    parser.add_argument("--disk", type=Path, default=DISK, help=f"the folder that is on a disk ({DISK})")
    parser.add_argument("--list", action="store_true", help="list the cases")
    given = parser.parse_args()
    for name in given.cases:
        if not called(name):
            parser.error(f"no case is called {name!r}; there are {', '.join(CASES)}")
    try:
        given.size = parse_size(given.size)
    except UsageError as error:
        parser.error(str(error))
    if given.runs < 1 or given.size < LEAST:
        parser.error("--runs must be 1 or more, --size 1MiB or more")
    return given


def called(name: str) -> list[Case]:
    """Return the case of a name, or all of a family: networks-a, networks-b, … of networks."""
    if name in CASES:
        return [CASES[name]]
    return [case for case in CASES.values() if case.name.startswith(f"{name}-")]


def chosen(given: argparse.Namespace) -> list[Case]:
    """Return the cases that the command line names."""
    if given.cases:
        return list(dict.fromkeys(case for name in given.cases for case in called(name)))
    return [case for case in CASES.values() if case.quick or given.full]


def measure(given: argparse.Namespace, room: Places) -> list[Comparison]:
    """Run the cases, print each table as it is ready, and return the comparisons."""
    settings = Settings(given.size, given.runs, given.full, room)
    comparisons: list[Comparison] = []
    found = peers.versions()
    for case in chosen(given):
        started = time.monotonic()
        try:
            for comparison in case.compare(settings):
                comparison.case = case.name
                comparisons.append(comparison)
                print(report.table(comparison), flush=True)
                if given.json:
                    report.write_json(given.json, report.document(comparisons, room, found))
        except Skipped as reason:
            print(f"{case.name}: skipped: {reason}\n", flush=True)
        print(f"({case.name} took {time.monotonic() - started:.0f} s)\n", flush=True)
    return comparisons


def main() -> int:
    """Run the command, and return its exit code."""
    given = arguments()
    if given.list:
        for case in CASES.values():
            print(f"{case.name:10} {case.about}{'' if case.quick else ' (--full)'}")
        return 0
    signal.signal(signal.SIGTERM, interrupted)
    try:
        with places(given.disk) as room:
            comparisons = measure(given, room)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if given.plots:
        try:
            for path in report.plot(comparisons, given.plots):
                print(path)
        except ImportError:
            print("no plots: matplotlib is missing (pip install 'shardcast[bench]')", file=sys.stderr)
    failures = [failure for comparison in comparisons for failure in comparison.failures]
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


def interrupted(_number: int, _frame: FrameType | None) -> None:
    """Let a signal end the run as Ctrl-C does, so that processes and folders are cleaned up."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
