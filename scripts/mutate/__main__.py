"""Put faults into copies of the checkout, one at a time, and report which of them the tests notice.

    python scripts/mutate [--only TEXT…] [--area AREA…] [--jobs 2] [--timeout 300] [--json FILE]
                          [--no-baseline] [--list | --check]

First the named tests run in a copy without a fault: they must pass. Then each fault is put into a copy by
itself and its tests run; one that fails has noticed it. The lists are in faults/, one module an area.
Exit codes: 0 at least 95 % are noticed and the others are explained, 1 they are not or a fault does not apply
any more, 2 usage, 3 the tests fail without a fault, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

import faults
from checkout import ROOT, Checkout
from fault import Fault
from trial import (
    BROKEN,
    CAUGHT,
    EXPLAINED,
    NO_FAULT,
    UNNOTICED,
    Verdict,
    end_runs,
    run_tests,
    stop_runs,
    try_fault,
)

ENOUGH = 0.95
BASELINE = 3600.0
"""Seconds for the tests without a fault."""
PREFIX = "mutate-"


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="faults with one in their names"
    )
    parser.add_argument("--area", nargs="+", default=[], choices=faults.AREAS, help="lists of faults")
    parser.add_argument("--jobs", type=int, default=2, help="copies at work at once (%(default)s)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one fault (%(default)g)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts to FILE")
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    parser.add_argument("--check", action="store_true", help="only look whether every fault still applies")
    parser.add_argument("--no-baseline", action="store_true", help="don't run the tests without a fault")
    return parser.parse_args()


def main() -> int:
    """Run the command, and return the exit code."""
    options = arguments()
    if options.check:
        wrong = faults.check(ROOT)
        print("\n".join(wrong) or "every fault applies")
        return 1 if wrong else 0
    chosen = [
        (area, fault)
        for area, area_faults in faults.load().items()
        for fault in area_faults
        if (not options.area or area in options.area)
        and (not options.only or any(text in fault.name for text in options.only))
    ]
    if options.list:
        for area, fault in chosen:
            print(f"{area:16} {fault.name:44} {fault.file}")
        return 0
    if not chosen:
        print("no fault has such a name", file=sys.stderr)
        return 2
    with copies(options.jobs) as checkouts:
        checkouts[0].check()
        if not options.no_baseline and not pass_without(checkouts, [fault for _, fault in chosen]):
            return 3
        verdicts = try_all(checkouts, chosen, options.timeout)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([one.as_json() for one in verdicts], indent=1) + "\n")
    return report(verdicts)


@contextmanager
def copies(count: int) -> Iterator[list[Checkout]]:
    """Make copies of the checkout, which are removed at the end, also after an interrupt or SIGTERM.

    Copies that killed runs left are removed, too.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = path.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists() and Path("/proc/self").exists():
            end_runs(int(owner))
            shutil.rmtree(path, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
    try:
        yield [Checkout(place / str(number)) for number in range(count)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def pass_without(checkouts: Sequence[Checkout], chosen: Sequence[Fault]) -> bool:
    """Return whether the tests of these faults pass in copies without any."""
    tests = sorted({test for fault in chosen for test in fault.tests})
    files = sorted({test.split("::")[0] for test in tests})
    shares = [files[number :: len(checkouts)] for number in range(len(checkouts))]

    def run(checkout: Checkout, share: Sequence[str]) -> str:
        those = [test for test in tests if test.split("::")[0] in share]
        # A file is run as a whole where some fault names all of it.
        those = [test for test in those if "::" not in test or test.split("::")[0] not in tests]
        if not those:
            return ""
        done = run_tests(checkout, those, BASELINE)
        return "" if done.code == 0 and not checkout.strays() else done.output + checkout.strays()

    with ThreadPoolExecutor(len(checkouts)) as threads:
        failures = [output for output in threads.map(run, checkouts, shares) if output]
    for output in failures:
        print(output[-20_000:], file=sys.stderr)
    if failures:
        print("the tests fail without a fault", file=sys.stderr)
    return not failures


def try_all(
    checkouts: Sequence[Checkout], chosen: Sequence[tuple[str, Fault]], timeout: float
) -> list[Verdict]:
    """Try each fault in the next copy that is free, and print its verdict."""
    free: SimpleQueue[Checkout] = SimpleQueue()
    for checkout in checkouts:
        free.put(checkout)

    def attempt(area: str, fault: Fault) -> Verdict:
        checkout = free.get()
        try:
            return try_fault(checkout, area, fault, timeout)
        finally:
            free.put(checkout)

    threads = ThreadPoolExecutor(len(checkouts))
    verdicts = []
    try:
        waiting = [threads.submit(attempt, area, fault) for area, fault in chosen]
        for done in as_completed(waiting):
            verdicts.append(one := done.result())
            print(f"{one.outcome:14} {one.seconds:6.1f} s  {one.name:44} {one.by[:160]}", flush=True)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    order = {fault.name: number for number, (_, fault) in enumerate(chosen)}
    return sorted(verdicts, key=lambda one: order[one.name])


def report(verdicts: Sequence[Verdict]) -> int:
    """Print the table of areas and what is left to do, and return the exit code."""
    outcomes = (CAUGHT, EXPLAINED, UNNOTICED, NO_FAULT, BROKEN)
    print(f"\n{'area':16}" + "".join(f"{outcome:>16}" for outcome in outcomes))
    for area in sorted({one.area for one in verdicts}):
        counts = Counter(one.outcome for one in verdicts if one.area == area)
        print(f"{area:16}" + "".join(f"{counts[outcome]:16}" for outcome in outcomes))
    for one in verdicts:
        if one.outcome != CAUGHT:
            print(f"\n{one.outcome}: {one.name} ({one.file})\n  {one.by}")
    counts = Counter(one.outcome for one in verdicts)
    share = counts[CAUGHT] / len(verdicts)
    print(f"\n{counts[CAUGHT]} of {len(verdicts)} faults are noticed ({share:.1%})")
    return 0 if share >= ENOUGH and counts[CAUGHT] + counts[EXPLAINED] == len(verdicts) else 1


def _end(number: int, _frame: FrameType | None) -> None:
    """Let a signal end the run as Ctrl-C does."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    stop_runs()
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(130)
