"""Runs of tests in a copy of the checkout, and the end of everything that they started."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from checkout import Checkout
from fault import DoesNotApply, Fault

CAUGHT, UNNOTICED, EXPLAINED, NO_FAULT, BROKEN = (
    "caught",
    "unnoticed",
    "explained",
    "does not apply",
    "broken",
)

HANG = 60
"""Seconds after which a test of a faulty copy hangs."""

_MARK = "MUTATE_RUN"
"""Variable in the environment of everything that a run starts, by which it is found and ended."""
_numbers = itertools.count(1)
_stopped = threading.Event()

_TESTS_FAILED = 1
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_HUNG = re.compile(r"Timeout")


class Stopped(Exception):
    """The command was interrupted."""


@dataclass(frozen=True)
class Run:
    """What became of a run of tests.

    Attributes:
        code: pytest's exit code; None after the time-out.
        output: what it printed.
        seconds: how long it took.
    """

    code: int | None
    output: str
    seconds: float

    @property
    def failed(self) -> list[str]:
        """The ids of the tests that failed."""
        return _FAILED.findall(self.output)


@dataclass(frozen=True)
class Verdict:
    """What became of a fault.

    Attributes:
        name, area, file: the fault's.
        outcome: caught, unnoticed, explained, does not apply, broken.
        by: the test that noticed it, or what is the matter.
        seconds: how long its tests took.
    """

    name: str
    area: str
    file: str
    outcome: str
    by: str
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Return it for a report."""
        return asdict(self)


def run_tests(checkout: Checkout, tests: Sequence[str], timeout: float, *words: str) -> Run:
    """Run tests in a copy, and end whatever they leave running."""
    if _stopped.is_set():
        raise Stopped
    mark, began = f"{os.getpid()}-{next(_numbers)}-", time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=native", *words, *tests],
        cwd=checkout.root,
        env={**checkout.environment(), _MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    code: int | None
    try:
        output, _ = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        _end(mark, process.pid)
        output, _ = process.communicate()
        code = None
    finally:
        _end(mark, process.pid)
        process.wait()
    checkout.clear()
    return Run(code, output, time.monotonic() - began)


def try_fault(checkout: Checkout, area: str, fault: Fault, timeout: float) -> Verdict:
    """Return whether the tests of a fault notice it."""

    def verdict(outcome: str, by: str, seconds: float = 0.0) -> Verdict:
        return Verdict(fault.name, area, fault.file, outcome, by, round(seconds, 1))

    if not fault.tests:
        return verdict(EXPLAINED if fault.explained else UNNOTICED, fault.explained or "it names no test")
    try:
        with checkout.with_fault(fault):
            run = run_tests(checkout, fault.tests, timeout, "-x", f"--timeout={HANG}")
    except DoesNotApply as error:
        return verdict(NO_FAULT, str(error))
    if checkout.strays():
        return verdict(BROKEN, f"another copy was imported: {checkout.strays()}", run.seconds)
    if run.code is None:
        return verdict(CAUGHT, f"hung for {timeout:g} s", run.seconds)
    if run.code == _TESTS_FAILED:
        hung = "hung: " if _HUNG.search(run.output) and not run.failed else ""
        return verdict(CAUGHT, hung + ", ".join(run.failed), run.seconds)
    if run.code == 0:
        return verdict(EXPLAINED if fault.explained else UNNOTICED, fault.explained, run.seconds)
    return verdict(BROKEN, run.output[-2000:], run.seconds)


def stop_runs() -> None:
    """End all runs of this process; none begins any more."""
    _stopped.set()
    end_runs(os.getpid())


def end_runs(owner: int) -> None:
    """End everything that the runs of a process started."""
    _end_marked(f"{owner}-")


def _end(mark: str, group: int) -> None:
    """End the processes of a run."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    _end_marked(mark)  # those in sessions of their own


def _end_marked(mark: str) -> None:
    """End the processes that have a mark in their environment."""
    for entry in Path("/proc").glob("[0-9]*"):  # elsewhere than on Linux there is none
        with contextlib.suppress(OSError):
            if f"\0{_MARK}={mark}".encode() in b"\0" + (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
