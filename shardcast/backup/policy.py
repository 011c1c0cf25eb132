"""Forgetting: the snapshots kept by a policy, and the others, which can go. Pure; times are the server's.

Only snapshots older than ``min_age`` can go, and rules count only these: however many snapshots a taken-over
client makes today, yesterday's stay as long as ``min_age`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby

from shardcast.errors import UsageError


@dataclass(frozen=True)
class Arrival:
    """A snapshot as the server lists it.

    Attributes:
        id: the id.
        arrived: when the server accepted it, in seconds since 1970 by the server's clock.
        series: the host and the folder; rules count each series by itself.
        tags: words given by ``backup --tag``.
    """

    id: str
    arrived: float
    series: tuple[str, bytes]
    tags: AbstractSet[str] = frozenset()


@dataclass(frozen=True)
class KeepRules:
    """Rules, each keeping some snapshots of a series; snapshots kept by no rule can go.

    Attributes:
        last: the number of newest snapshots to keep.
        hourly: the number of hours of which to keep the newest snapshot; hours without snapshots do not
            count.
        daily: the same for days.
        weekly: the same for weeks, from Monday.
        monthly: the same for months.
        yearly: the same for years.
        within: seconds before the newest snapshot of the series within which all are kept.
        tags: keep all snapshots with one of these tags.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: float = 0
    tags: AbstractSet[str] = frozenset()

    def checked(self) -> KeepRules:
        """Return these rules after checking them.

        Raises:
            UsageError: the rules keep nothing; an empty policy would forget every snapshot.
        """
        if self == KeepRules():
            raise UsageError("no rule says what to keep; give one, such as --keep-last 7 or --keep-daily 14")
        return self


@dataclass(frozen=True)
class ForgetPlan:
    """A policy's decision.

    Attributes:
        keep: the kept snapshots, oldest first, each with the names of the rules.
        forget: the snapshots that can go, oldest first.
    """

    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)
    forget: Sequence[str] = ()


def plan_forget(
    snapshots: Iterable[Arrival], rules: KeepRules, *, now: float, min_age: float = 0.0
) -> ForgetPlan:
    """Return the snapshots a policy keeps and those it forgets.

    Args:
        snapshots: those of one client.
        rules: of the policy.
        now: the server's time.
        min_age: seconds after arrival before a snapshot can go; one with an arrival in the future counts as
            young.
    """
    ordered = sorted(snapshots, key=lambda one: (one.series, one.arrived, one.id))
    reasons: dict[str, list[str]] = {one.id: [] for one in sorted(ordered, key=_time)}
    for _, group in groupby(ordered, key=lambda one: one.series):
        series = list(group)
        old = [one for one in series if now - one.arrived >= min_age]
        for one in series[len(old) :]:
            reasons[one.id].append("min-age")
        for one, reason in _kept(old, rules, newest=series[-1].arrived):
            reasons[one.id].append(reason)
    return ForgetPlan(
        keep={name: why for name, why in reasons.items() if why},
        forget=[name for name, why in reasons.items() if not why],
    )


def _time(one: Arrival) -> tuple[float, str]:
    return one.arrived, one.id


_PERIODS: tuple[tuple[str, Callable[[datetime], object]], ...] = (
    ("hourly", lambda at: (at.date(), at.hour)),
    ("daily", lambda at: at.date()),
    ("weekly", lambda at: tuple(at.isocalendar())[:2]),
    ("monthly", lambda at: (at.year, at.month)),
    ("yearly", lambda at: at.year),
)
"""The rules by periods of the calendar in UTC, and the period of a time."""


def _kept(series: Sequence[Arrival], rules: KeepRules, newest: float) -> Iterable[tuple[Arrival, str]]:
    """Yield the kept snapshots of a series, oldest first, each with the name of the rule."""
    if rules.last:
        yield from ((one, "last") for one in series[-rules.last :])
    for name, period in _PERIODS:
        yield from ((one, name) for one in _newest_of_periods(series, getattr(rules, name), period))
    for one in series:
        if rules.within and newest - one.arrived <= rules.within:
            yield one, "within"
        if one.tags & rules.tags:
            yield one, "tag"


def _newest_of_periods(
    series: Sequence[Arrival], count: int, period: Callable[[datetime], object]
) -> Iterable[Arrival]:
    """Yield the newest snapshot of each of the newest ``count`` periods with snapshots."""
    seen: set[object] = set()
    for one in reversed(series):
        if len(seen) >= count:
            return
        found = period(datetime.fromtimestamp(one.arrived, UTC))
        if found not in seen:
            seen.add(found)
            yield one
