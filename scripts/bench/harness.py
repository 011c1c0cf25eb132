"""Sides measured in turn, and what came of them.

A case compares **sides**, each a name and something that measures it once, giving a **Run**. ``interleave``
lets the sides take turns, A B C A B C…, after a warm-up each, so that what the machine does meanwhile meets
all of them alike. A side that this machine can't have raises ``Skipped``; one that gives wrong bytes, or ends
badly, raises ``Failed``: a failure, and no figure.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from places import Places

MIB = 1 << 20
GIB = 1 << 30


class Skipped(Exception):
    """A side, or a case, that this machine can't run; the text says why."""


class Failed(Exception):
    """A side that did not do its work: a wrong digest, an exit code, a time-out."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement.

    Attributes:
        seconds: what is compared.
        cpu_seconds: of all its processes, servers and clients, user and system.
        peak_memory: bytes resident at the most, its processes' peaks added up.
        detail: more figures by name, the unit in the name where it isn't seconds ("client MB", "process s").
    """

    seconds: float
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    detail: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared; ``measure`` runs it once, cleans up, and returns the figures."""

    name: str
    measure: Callable[[], Run]


@dataclass(slots=True)
class Result:
    """Result of a side: its runs in order, or why there are none."""

    name: str
    runs: list[Run] = field(default_factory=list)
    skipped: str = ""
    failed: str = ""

    @property
    def figures(self) -> list[Run]:
        """Runs that count: none of a side that failed."""
        return [] if self.failed or self.skipped else self.runs

    def values(self, name: str) -> list[float]:
        """Return a figure of each run: ``seconds``, ``cpu_seconds``, ``peak_memory`` or a detail."""
        found: list[float | None]
        if name in ("seconds", "cpu_seconds", "peak_memory"):
            found = [getattr(run, name) for run in self.figures]
        else:
            found = [run.detail.get(name) for run in self.figures]
        return [value for value in found if value is not None]

    def median(self, name: str = "seconds") -> float | None:
        """Return the median of a figure; None where no run has it."""
        values = self.values(name)
        return statistics.median(values) if values else None

    def spread(self, name: str = "seconds") -> tuple[float, float] | None:
        """Return the least and the greatest value of a figure; None where no run has it."""
        values = self.values(name)
        return (min(values), max(values)) if values else None


@dataclass(frozen=True, slots=True)
class Aim:
    """Aim for a figure: at least, or at most, a bound; without a value the figure could not be measured."""

    what: str
    value: float | None
    least: float | None = None
    most: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the figure keeps the bound; None where it could not be measured."""
        if self.value is None:
            return None
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )


@dataclass(slots=True)
class Comparison:
    """The sides of one table.

    Attributes:
        title: what was compared, as a heading.
        results: the sides in order.
        against: the side that the others' ratios are to.
        payload: bytes that a run moves, for rates and CPU a GiB; 0 where that says nothing.
        columns: details to show, in order; all of them where it is None.
        plot: the figure that a plot shows; "" for no plot.
        aims: the figures to reach, and what came of them.
        notes: what a reader must know to judge the table.
    """

    title: str
    results: list[Result]
    against: str = ""
    payload: int = 0
    columns: Sequence[str] | None = None
    plot: str = "seconds"
    aims: list[Aim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    case: str = ""

    def ratio(self, result: Result, name: str = "seconds") -> float | None:
        """Return a side's figures over those of the side that it is compared with."""
        return ratio(self.results, result.name, self.against, name)

    @property
    def failures(self) -> list[str]:
        """Names of the sides that failed."""
        return [f"{self.title}: {result.name}: {result.failed}" for result in self.results if result.failed]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the command line, and the folders of the run."""

    size: int
    runs: int
    full: bool
    places: Places


@dataclass(frozen=True, slots=True)
class Case:
    """A family of comparisons under one name of the command line.

    Attributes:
        name: as it is written there.
        about: a line for ``--list``.
        compare: runs it; comparisons come as they are ready. May raise ``Skipped``.
        quick: whether it belongs to the run without ``--full``.
    """

    name: str
    about: str
    compare: Callable[[Settings], Iterator[Comparison]]
    quick: bool = True


def interleave(sides: Iterable[Side], runs: int, warm_ups: int = 1) -> list[Result]:
    """Measure the sides in turn.

    Args:
        sides: the sides, in the order of a turn.
        runs: number of turns that count.
        warm_ups: number of turns before them, whose figures are dropped.
    """
    sides = list(sides)
    results = {side.name: Result(side.name) for side in sides}
    for turn in range(-warm_ups, runs):
        for side in sides:
            result = results[side.name]
            if result.skipped or result.failed:
                continue
            say(f"{side.name}: " + ("warm-up" if turn < 0 else f"run {turn + 1} of {runs}"))
            try:
                run = side.measure()
            except Skipped as reason:
                result.skipped = str(reason)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                result.failed = str(error) or type(error).__name__
                say(f"{side.name} failed: {result.failed}", lasting=True)
            else:
                if turn >= 0:
                    result.runs.append(run)
    say("")
    return list(results.values())


def ratio(results: Iterable[Result], side: str, other: str, name: str = "seconds") -> float | None:
    """Return the median of a side's figures, each over the other side's in the same turn."""
    by_name = {result.name: result.values(name) for result in results}
    above, below = by_name.get(side, []), by_name.get(other, [])
    if len(above) != len(below):
        return None
    pairs = [a / b for a, b in zip(above, below, strict=True) if b > 0]
    return statistics.median(pairs) if pairs else None


def expect(condition: bool, problem: str) -> None:
    """Check a condition.

    Raises:
        Failed: ``condition`` doesn't hold.
    """
    if not condition:
        raise Failed(problem)


def say(line: str, lasting: bool = False) -> None:
    """Print progress on stderr: over the last line on a terminal, and not at all elsewhere."""
    if lasting:
        print(f"\r\x1b[K  {line}" if sys.stderr.isatty() else f"  {line}", file=sys.stderr, flush=True)
    elif sys.stderr.isatty():
        print(f"\r\x1b[K  {line}" if line else "\r\x1b[K", end="", file=sys.stderr, flush=True)
